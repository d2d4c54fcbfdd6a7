"""What commands share: their settings and parts, what options mean, and how errors are told."""

from __future__ import annotations

import re
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from earmark.errors import Invalid, InvalidError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from earmark.app.parts import Parts
    from earmark.config import Settings
    from earmark.errors import EarmarkError

_OPTIONS = {
    "organization": "--org",
    "name": "--name",
    "grants": "--grant",
    "external_id": "--external-id",
    "client_id": "client",
    "publish_seconds": "--publish",
    "head": "--head",
    "error_code": "--code",
    "since": "--since",
    "key": "--restore",
    "rate": "--rate",
    "stored_bytes": "--stored",
    "uploads_at_once": "--uploads-at-once",
    "uploads_per_minute": "--uploads-per-minute",
}
"""What the modules below call values → what they are called here."""

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder for everything kept on this machine. [EARMARK_DATA, or ./earmark-data]",
        show_default=False,
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def sentence(error: EarmarkError) -> str:
    """What is wrong and how to mend it."""
    if isinstance(error, InvalidError):
        return " ".join(
            f"{_OPTIONS.get(fault.field, fault.field)}: {fault.message}" for fault in error.faults
        )
    if isinstance(error, UnavailableError):
        return _outage(error)
    return str(error)


def _outage(error: UnavailableError) -> str:
    """What is away, why, and where to look; without the statement that found it out."""
    cause = getattr(error.__cause__, "orig", None)  # the driver's own error
    reason = " ".join(str(cause or "").split()).rstrip(".")
    mend = "check EARMARK_DATABASE_URL and EARMARK_STORAGE_URL, and `earmark doctor`"
    return f"{error}{f' ({reason})' if reason else ''}; {mend}."


def settings(data: Path | None) -> Settings:
    """What is configured; from here on logs look as it says."""
    from earmark import config, telemetry

    loaded = config.load(data=data)
    telemetry.configure(log_format=loaded.log_format, level=loaded.log_level)
    return loaded


def user() -> str:
    """Who runs this command, for the audit trail."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return f"uid {os.getuid()}"


@contextmanager
def opened(data: Path | None) -> Iterator[Parts]:
    """The parts of the installation that is configured, ready to be used."""
    from earmark.app.parts import Parts

    with closing(Parts(settings(data))) as parts:
        parts.prepare()
        yield parts


def instant(option: str, text: str) -> datetime | None:
    """An instant as people write it; None for no text.

    Raises:
        InvalidError: it is none.
    """
    from datetime import UTC, datetime

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError(Invalid(option, "Write a time like 2026-03-18T21:52:26.")) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def size(text: str, *, option: str) -> int:
    """A number of bytes as people write it.

    Raises:
        InvalidError: it is none.
    """
    from pydantic import TypeAdapter, ValidationError

    from earmark.config import Bytes

    decimal = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMG])B", text, re.IGNORECASE)
    if decimal:
        return int(float(decimal[1]) * 1000 ** (1 + "KMG".index(decimal[2].upper())))
    try:
        return int(TypeAdapter(Bytes).validate_python(text))
    except ValidationError:
        mend = "Use bytes, or a number with KB, MB, GB, KiB, MiB or GiB."
        raise InvalidError(Invalid(option, mend)) from None


def shown_bytes(count: float) -> str:
    """A number of bytes as people read it; decimal, as disks are sold."""
    scale = next((power for power in (4, 3, 2, 1) if count >= 1000**power), 0)
    if not scale:
        return f"{count:,.0f} bytes"
    return f"{count / 1000**scale:,.1f} {('KB', 'MB', 'GB', 'TB')[scale - 1]}"


class Meter:
    """Tells on standard error how far long work is: on a terminal in one line, else seldom."""

    LINE_SECONDS = 0.2
    LOG_SECONDS = 10.0

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._began = self._told_at = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def __call__(self, done: int, whole: int) -> None:
        """So many bytes are done, of so many."""
        at = time.monotonic()
        if self._first is None:
            self._first = done
        if at - self._told_at < (self.LINE_SECONDS if self._terminal else self.LOG_SECONDS):
            return
        self._told_at = at
        rate = (done - self._first) / max(at - self._began, 0.001)
        left = f", {(whole - done) / rate / 60:.1f} min left" if rate and whole > done else ""
        part = f"{100 * done / whole:.0f} %" if whole else ""
        words = f"{self._what}: {shown_bytes(done)} of {shown_bytes(whole)}, {part}, "
        words += f"{shown_bytes(rate)}/s{left}"
        sys.stderr.write(f"\r{words}\033[K" if self._terminal else f"{words}\n")
        sys.stderr.flush()
