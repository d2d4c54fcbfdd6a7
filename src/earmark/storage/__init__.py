"""Where the bytes of interactions live, and the durability that every backend promises.

A backend is one file here and one line in `SCHEMES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from earmark.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from typing_extensions import Buffer

    from earmark.errors import UnavailableError

READ_CHUNK_BYTES = 256 * 1024
"""What one step of `Store.read` hands over at most: large enough that the calls cost little."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object that was moved aside.

    Attributes:
        key: under which it stood.
        since: when it was moved, in seconds since 1970.
        size_bytes: of it.
    """

    key: str
    since: float
    size_bytes: int


class Staged(Protocol):
    """Bytes on their way in. They belong to nobody until `publish` returns."""

    def append(self, batch: Sequence[Buffer]) -> None:
        """Adds bytes at the end, in order.

        Raises:
            UnavailableError: the storage is full or broken; discard what was staged.
        """

    def publish(self) -> None:
        """Makes the object appear under its key, whole; it survives power loss from here on.

        Raises:
            UnavailableError: it is not there for good; discard what was staged.
        """

    def discard(self) -> None:
        """Removes every trace, published or not. Does nothing the second time; never raises."""


class Reading(Protocol):
    """An object's bytes, or a part of them, in chunks: an iterator, to be closed."""

    def __iter__(self) -> Iterator[bytes]:
        """Itself."""

    def __next__(self) -> bytes:
        """The next chunk.

        Raises:
            UnavailableError: the storage cannot serve it.
        """

    def close(self) -> None:
        """Ends it. Does nothing the second time."""

    def fileno(self) -> int | None:
        """The descriptor of a file on this machine that holds the object and nothing else.

        It is open until this is exhausted or closed. None if there is none.
        """


class Store(Protocol):
    """Objects by key: small letters, digits, `-` and one `.`; keys are ours, never a caller's.

    An object appears whole or not at all, never changes, and is durable once `Staged.publish`
    or `put` has returned. All methods block; all are safe to call from many threads.
    """

    def stage(self, key: str) -> Staged:
        """Opens a new object.

        Raises:
            UnavailableError: the storage cannot take it.
        """

    def publish(self, batch: Sequence[Staged]) -> Sequence[UnavailableError | None]:
        """As `Staged.publish` of each, waiting for the medium once where it can.

        Returns:
            for each why it is not there for good, or None.
        """

    def put(self, key: str, data: bytes) -> None:
        """Stores a small object durably, in the place of one that may stand there.

        Raises:
            UnavailableError: the storage cannot take it.
        """

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Reading:
        """The bytes from `start` up to `stop` (the end, if None), in chunks.

        The object is open when this returns: deleting it does not end the reading.

        Raises:
            NotFoundError: no such object.
            UnavailableError: the storage cannot serve it, now or when a next chunk is asked.
        """

    def reread(self, key: str) -> Reading:
        """All bytes as `read` does, but as the medium has them, not as memory remembers them.

        What it read does not push out of memory what others need.

        Raises:
            NotFoundError, UnavailableError: see read.
        """

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        """The object as a file on this machine, for as long as the block lasts; read only.

        Raises:
            NotFoundError: no such object.
            UnavailableError: the storage cannot serve it.
        """

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is removed already.

        Raises:
            UnavailableError: the storage cannot.
        """

    def keys(self, *, older_than_seconds: float) -> Iterator[str]:
        """Every object that was published that long ago, in no order, without holding them all.

        Raises:
            UnavailableError: the storage cannot list them, when the first or a next one is asked.
        """

    def quarantine(self, key: str) -> None:
        """Moves an object aside, durably, where nothing reads it; one that is not there stays so.

        Raises:
            UnavailableError: the storage cannot.
        """

    def quarantined(self) -> Iterator[Quarantined]:
        """What stands aside, in no order.

        Raises:
            UnavailableError: the storage cannot list it, when the first or a next one is asked.
        """

    def restore(self, key: str) -> None:
        """Moves an object back, durably: the one that was moved aside last, if several were.

        Raises:
            NotFoundError: none of this key stands aside.
            UnavailableError: the storage cannot.
        """

    def remove_quarantined(self, key: str) -> None:
        """Removes for good what stands aside under a key.

        Raises:
            UnavailableError: the storage cannot.
        """

    def staged_alone(self, *, older_than_seconds: float) -> int:
        """How many `sweep_staging` would remove.

        Raises:
            UnavailableError: the storage cannot be listed.
        """

    def sweep_staging(self, *, older_than_seconds: float) -> int:
        """Removes what was staged and left alone for that long; returns how many.

        Raises:
            UnavailableError: the storage cannot.
        """

    def free_bytes(self) -> int | None:
        """How much more fits; None where there is no such limit.

        Raises:
            UnavailableError: the storage cannot be asked.
        """

    def check(self) -> None:
        """Proves that the storage takes and gives bytes now.

        Raises:
            UnavailableError: it does not; the message says why and how to mend it.
        """


SCHEMES = {"file": "earmark.storage.local:open_store"}
"""URL scheme → "module:function" that opens it; resolved on use."""


def open_store(url: str) -> Store:
    """Opens the store that a URL names.

    Raises:
        SettingsError: no backend knows the scheme, or the backend refuses the URL.
    """
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}:" for name in SCHEMES)
        raise SettingsError(f"EARMARK_STORAGE_URL must start with one of: {known}")
    opener: Callable[[str], Store] = resolve_name(SCHEMES[scheme])
    return opener(url)
