"""Files that only the holder of a key reads: the age format (https://age-encryption.org/v1).

Whoever makes one needs the recipient's public key alone, so that a server which is broken into
gives no earlier backup away. The program `age` reads them as well as we do.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyrage

from earmark.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

PIPE_BYTES = 1024 * 1024


class BackupError(ServiceError):
    """A backup cannot be made or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a key file holds.

    Attributes:
        recipients: for whom to seal; those of the identities are among them.
        identities: with which to open.
    """

    recipients: Sequence[pyrage.x25519.Recipient]
    identities: Sequence[pyrage.x25519.Identity]


def read_keys(path: Path) -> Keys:
    """Reads a file of age: one recipient or identity a line; `#` begins a comment.

    Raises:
        BackupError: it cannot be read, or holds something else. Its content is not repeated.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise BackupError(f"The key file {path} cannot be read: {reason}.") from None
    recipients, identities = [], []
    for number, line in enumerate(map(str.strip, lines), start=1):
        try:
            if line.startswith("AGE-SECRET-KEY-"):
                identities.append(pyrage.x25519.Identity.from_str(line))
                recipients.append(identities[-1].to_public())
            elif line and not line.startswith("#"):
                recipients.append(pyrage.x25519.Recipient.from_str(line))
        except (pyrage.IdentityError, pyrage.RecipientError):
            raise BackupError(
                f"Line {number} of {path} is neither a recipient (age1…) nor an identity "
                "(AGE-SECRET-KEY-1…) of age; `earmark backup-key` makes both."
            ) from None
    if not recipients:
        raise BackupError(f"The key file {path} is empty; `earmark backup-key` makes one.")
    return Keys(recipients, identities)


def make_key(path: Path) -> str:
    """Writes a new identity to a file that only this user may read; returns its recipient.

    Raises:
        BackupError: the file is there already, or cannot be written.
    """
    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"# public key: {recipient}\n{identity}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BackupError(f"{path} cannot be written: {error.strerror}.") from error
    return recipient


@contextlib.contextmanager
def sealing(file: BinaryIO, keys: Keys) -> Iterator[BinaryIO]:
    """A stream to write to; what is written is in the file, sealed, when the block ends.

    Raises:
        BackupError: the file could not be written.
    """

    def seal(source: BinaryIO) -> None:
        pyrage.encrypt_io(source, file, keys.recipients)

    with _piped(lambda source, _: seal(source), write=True) as stream:
        yield stream


@contextlib.contextmanager
def opening(file: BinaryIO, keys: Keys) -> Iterator[BinaryIO]:
    """A stream to read from, with the content of a sealed file.

    Each part of 64 KiB is checked before it is handed over, and the end when the block ends.

    Raises:
        BackupError: it is no sealed file, was sealed for others, or was changed or cut.
    """
    if not keys.identities:
        raise BackupError(
            "The key file holds recipients only; opening takes the identity (AGE-SECRET-KEY-1…)."
        )

    def unseal(_: BinaryIO, target: BinaryIO) -> None:
        pyrage.decrypt_io(file, target, keys.identities)

    with _piped(unseal, write=False) as stream:
        yield stream


@contextlib.contextmanager
def _piped(work: Callable[[BinaryIO, BinaryIO], None], *, write: bool) -> Iterator[BinaryIO]:
    """Runs `work(source, target)` in a thread; this end of the pipe is the other one of its two.

    What fails in the thread is what failed: here it only shows as a pipe that broke or ended.
    """
    reading, writing = os.pipe()
    with contextlib.suppress(OSError, AttributeError):  # not on macOS, or not allowed
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    source = os.fdopen(reading, "rb", PIPE_BYTES)
    target = os.fdopen(writing, "wb", PIPE_BYTES)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with source if write else target:
                work(source, target)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=run, name="seal", daemon=True)
    thread.start()
    ours = target if write else source
    failure: BaseException | None = None
    try:
        yield ours
        if not write:
            while ours.read(PIPE_BYTES):  # to the end, where the last part is checked
                pass
    except BaseException as error:  # noqa: BLE001 - raised below unless the thread knows more
        failure = error
    try:
        ours.close()
    except OSError as error:
        failure = failure or error
    thread.join()
    cause = _cause(failures)
    if cause is not None and not isinstance(failure, KeyboardInterrupt):
        raise BackupError(cause) from failures[0]
    if failure is not None:
        raise failure


def _cause(failures: Sequence[BaseException]) -> str | None:
    """What to tell of a thread's failure; None if it failed since this side had gone."""
    for error in failures:
        if isinstance(error, BrokenPipeError) or "Broken pipe" in str(error):
            continue
        if isinstance(error, pyrage.EncryptError) or not _is_of_age(error):
            return f"The backup cannot be written or read: {str(error) or type(error).__name__}."
        if "No matching keys" in str(error):
            return "The backup was sealed for another key."
        return "The backup is damaged: it was changed or cut, or is no file of age."
    return None


def _is_of_age(error: BaseException) -> bool:
    """Whether the library says it of the file; else the system does, and it has a number."""
    return isinstance(error, pyrage.DecryptError) or getattr(error, "errno", None) is None
