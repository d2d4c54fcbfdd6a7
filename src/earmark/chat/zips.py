"""Zip archives: the directory is looked through before the library believes it.

Runs in the sandbox's child only. Source: PKWARE's APPNOTE.TXT, sections 4.3 and 4.4.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from earmark.chat.faults import fault
from earmark.chat.rules import (
    MAX_ENTRIES,
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Entry,
    Tally,
    drain,
    told_as_damage,
    unsafe,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import BinaryIO

MAX_DIRECTORY_BYTES = 4 << 20
"""The library holds the directory in memory whole."""

_END = struct.Struct("<4s4H2LH")
_LOCAL = struct.Struct("<4s22x2H")
_MAX_COMMENT_BYTES = 0xFFFF
_IN_ZIP64 = 0xFFFF
"""For a count: it stands in a record of the form for very large archives."""

_ENCRYPTED = 0x1 | 0x40 | 0x2000
"""Flags of encryption: of the content, of the strong kind, of the directory."""

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    ValueError,
    OverflowError,
    EOFError,
    LookupError,
    RuntimeError,
)
"""What the library raises on bad bytes; NotImplementedError is a RuntimeError."""


def survey(file: BinaryIO) -> Iterator[Entry]:
    """See archive.survey."""
    count, directory_at = _end(file)
    tally = Tally()
    with _opened(file) as archive:
        members = archive.infolist()
        if len(members) != count:
            raise fault("archive_damaged")
        for member in members:
            _demand_plain(member)
            tally.add(member.orig_filename, member.file_size)
        _demand_apart(file, members, directory_at)
        for member in members:
            if not member.is_dir():
                yield Entry(member.filename, member.file_size)


def read(file: BinaryIO, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """See archive.read."""
    with _opened(file) as archive:
        for member in archive.infolist():
            if member.filename in names:
                with archive.open(member) as stream:
                    yield member.filename, drain(stream, member.file_size)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    with told_as_damage(*_DAMAGE), zipfile.ZipFile(file) as archive:
        yield archive


def _end(file: BinaryIO) -> tuple[int, int]:
    """How many members the end record counts, and where the directory begins.

    Raises:
        MediaError: there is no such record, or it breaks a rule.
    """
    size = file.seek(0, 2)
    start = max(0, size - _END.size - _MAX_COMMENT_BYTES)
    file.seek(start)
    tail = _exactly(file, size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise fault("archive_damaged")
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack_from(tail, at)
    if disk or first_disk or here != count or count == _IN_ZIP64:
        raise unsafe("parts")
    if count > MAX_ENTRIES or length > MAX_DIRECTORY_BYTES:
        raise unsafe("entries")
    if at + _END.size + comment != len(tail) or offset + length != start + at:
        raise unsafe("hidden")
    return count, offset


def _exactly(file: BinaryIO, size: int) -> bytes:
    """So many bytes: an unbuffered file may give fewer at once."""
    pieces = bytearray()
    while len(pieces) < size and (piece := file.read(size - len(pieces))):
        pieces += piece
    return bytes(pieces)


def _demand_plain(member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise unsafe("kind")
    if member.flag_bits & _ENCRYPTED:
        raise unsafe("encrypted")
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise unsafe("method")
    if member.volume:
        raise unsafe("parts")
    if member.file_size > max(MAX_RATIO * member.compress_size, RATIO_FREE_BYTES):
        raise unsafe("ratio")


def _demand_apart(file: BinaryIO, members: Sequence[zipfile.ZipInfo], directory_at: int) -> None:
    """Each member lies where it says, before the next one and before the directory."""
    spans = sorted(_span(file, member, directory_at) for member in members)
    spans.append((directory_at, directory_at))
    if spans[0][0] != 0:
        raise unsafe("hidden")
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise unsafe("overlap")


def _span(file: BinaryIO, member: zipfile.ZipInfo, directory_at: int) -> tuple[int, int]:
    """From where to where its header and content reach."""
    start = member.header_offset
    if not 0 <= start <= directory_at - _LOCAL.size:
        raise unsafe("overlap")
    file.seek(start)
    magic, name, extra = _LOCAL.unpack(_exactly(file, _LOCAL.size))
    if magic != b"PK\x03\x04":
        raise fault("archive_damaged")
    return start, start + _LOCAL.size + name + extra + member.compress_size
