"""Tar archives, read as a stream. Runs in the sandbox's child only."""

from __future__ import annotations

import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from earmark.chat.faults import fault
from earmark.chat.rules import Entry, Tally, drain, told_as_damage, unsafe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import BinaryIO

MAX_RECORD_BYTES = 16 << 10
"""Of one extended header, such as a long name. The library holds each in memory whole, and looks
for a word in it in a time that grows with the square of its length."""

MAX_RECORDS = 8
"""Extended headers before one member; a name, a link's name and two of pax are all there are."""

_RECORDS = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)

_DAMAGE = (tarfile.TarError, OSError, ValueError, OverflowError, EOFError, LookupError)
"""What the library raises on bad bytes; it was seen to let each of these through."""


class _Header(tarfile.TarInfo):
    """A header that is refused before the library acts on it."""

    @classmethod
    @override
    def fromtarfile(cls, tarfile: Any) -> Any:
        """See tarfile.TarInfo.fromtarfile. Extended headers read the next one from within."""
        tarfile.records += 1
        if tarfile.records > MAX_RECORDS:
            raise unsafe("headers")
        try:
            return super().fromtarfile(tarfile)
        finally:
            tarfile.records -= 1

    @classmethod
    @override
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        """See tarfile.TarInfo.frombuf."""
        header = super().frombuf(buf, encoding, errors)
        if header.type in _RECORDS and not 0 <= header.size <= MAX_RECORD_BYTES:
            raise unsafe("headers")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise unsafe("sparse")
        return header


class _Tape(tarfile.TarFile):
    """A tar file whose headers are looked at.

    Attributes:
        records: extended headers that are being read, one within the other.
    """

    tarinfo = _Header
    records = 0


def is_header(head: bytes) -> bool:
    """Whether a tar archive begins so: with a header whose checksum holds."""
    if head == bytes(tarfile.BLOCKSIZE):  # it has no members, and is one all the same
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def survey(file: BinaryIO) -> Iterator[Entry]:
    """See archive.survey."""
    tally = Tally()
    with _opened(file) as tape:
        for member in tape:
            if member.issparse():
                raise unsafe("sparse")
            if not (member.isreg() or member.isdir()):
                raise unsafe("kind")
            tally.add(member.name, member.size)
            if member.isreg():
                yield Entry(member.name, member.size)


def read(file: BinaryIO, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """See archive.read."""
    with _opened(file) as tape:
        for member in tape:
            stream = tape.extractfile(member) if member.name in names else None
            if stream is not None:
                yield member.name, drain(stream, member.size)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[tarfile.TarFile]:
    file.seek(0)
    with told_as_damage(*_DAMAGE), _Tape.open(fileobj=file, mode="r|") as tape:
        yield tape
        _demand_end(file, tape)


def _demand_end(file: BinaryIO, tape: tarfile.TarFile) -> None:
    """The library takes a broken header for the end; an end is a block of zeros.

    Raises:
        MediaError: there is none.
    """
    file.seek(tape.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise fault("archive_damaged")
