"""A safe walk over .tar and .zip archives. Nothing is ever written; runs in the sandbox's child.

`survey` goes over the whole archive and refuses it if it breaks a rule; `read` then gives the
content of the members that are wanted. Archives within archives are members like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark.chat import tars, zips
from earmark.chat.faults import fault

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from types import ModuleType
    from typing import BinaryIO

    from earmark.chat.rules import Entry

_HEAD_BYTES = 512

_COMPRESSED = {
    b"\x1f\x8b": "gzip-compressed data",
    b"BZh": "bzip2-compressed data",
    b"\xfd7zXZ\x00": "xz-compressed data",
    b"\x28\xb5\x2f\xfd": "zstd-compressed data",
}


def survey(file: BinaryIO) -> list[Entry]:
    """The files of an archive, in its order, after a look at every rule.

    Raises:
        MediaError: it is no archive, damaged, or breaks a rule.
    """
    return list(_reader(file).survey(file))


def read(file: BinaryIO, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files that are wanted, in the archive's order.

    Raises:
        MediaError: a member is damaged or larger than it says.
    """
    reader: Iterator[tuple[str, bytes]] = _reader(file).read(file, frozenset(names))
    return reader


def _reader(file: BinaryIO) -> ModuleType:
    """The module that reads archives of this kind, told by the first bytes alone."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return zips
    if tars.is_header(head):
        return tars
    for magic, words in _COMPRESSED.items():
        if head.startswith(magic):
            raise fault("archive_compressed", found=words)
    raise fault("not_archive", found="something else" if head else "nothing at all")
