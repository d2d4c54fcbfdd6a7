"""What an archive must not have, whatever its kind. Runs in the sandbox's child only."""

from __future__ import annotations

import errno
import re
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from earmark.chat.faults import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.errors import MediaError

MAX_ENTRIES = 2000
"""Members, folders included: what one chat has, attachments and all, many times over."""

MAX_TOTAL_BYTES = 1 << 30
"""Of all members together, unpacked."""

MAX_RATIO = 200
RATIO_FREE_BYTES = 100 << 10
"""How much larger than packed a member may be; a short text of one letter may be more. 300 MB of
zeros fit into 292 kB, a thousandth."""

MAX_NAME_BYTES = 1024

_CHUNK_BYTES = 1 << 16

RULES = {
    "entries": f"it has more than {MAX_ENTRIES} members",
    "total": f"its members are larger than {MAX_TOTAL_BYTES >> 30} GiB together",
    "ratio": f"a member is packed more than {MAX_RATIO} times smaller than it is",
    "name": "a member's name leads out of the archive, has control characters or is too long",
    "twice": "two members have the same name",
    "kind": "a member is a link, a device or something else that is neither file nor folder",
    "sparse": "a member is sparse",
    "headers": "a member has more or longer header records than any name needs",
    "encrypted": "a member is encrypted",
    "method": "a member is packed in another way than deflate",
    "overlap": "members overlap, or lie outside of the archive",
    "parts": "it is one of several parts, or of the form for very large archives (Zip64)",
    "hidden": "there is something before, between or after its parts",
}
"""What an archive must not have, in words that stand behind "breaks a rule"."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file within an archive: its name, and its size unpacked."""

    name: str
    size_bytes: int


def unsafe(rule: str) -> MediaError:
    """The error of a broken rule."""
    return fault("archive_unsafe", rule=RULES[rule])


@contextmanager
def told_as_damage(*kinds: type[Exception]) -> Iterator[None]:
    """Turns what a library raises on bad bytes into the fault of a damaged archive.

    An OSError is such a one only where the bytes led to a place that cannot be; any other is the
    disk's, and another attempt may do better.

    Raises:
        MediaError: one of the kinds was raised.
    """
    try:
        yield
    except kinds as error:
        for one in (error, error.__context__):  # zipfile has words of its own for what it caught
            if isinstance(one, OSError) and one.errno not in {None, errno.EINVAL}:
                raise one from None
        raise fault("archive_damaged") from error


class Tally:
    """Counts members while an archive is walked over, and looks at what they are called."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._count = 0
        self._bytes = 0

    def add(self, name: str, size_bytes: int) -> None:
        """Takes one more member.

        Raises:
            MediaError: there are too many, they are too large, or the name is unsafe or taken.
        """
        self._count += 1
        self._bytes += size_bytes
        if self._count > MAX_ENTRIES:
            raise unsafe("entries")
        if self._bytes > MAX_TOTAL_BYTES:
            raise unsafe("total")
        if not is_safe(name):
            raise unsafe("name")
        if name in self._names:
            raise unsafe("twice")
        self._names.add(name)


def is_safe(name: str) -> bool:
    """Whether a name stays within the archive, also for those who read lookalikes as the same."""
    if not name or len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        return False
    return all(map(_stays_inside, (name, unicodedata.normalize("NFKC", name))))


def _stays_inside(name: str) -> bool:
    slashed = name.replace("\\", "/")
    absolute = slashed.startswith("/") or re.match("[A-Za-z]:", slashed)
    return not absolute and ".." not in slashed.split("/") and not re.search(_CONTROL, name)


_CONTROL = "[\x00-\x1f\x7f-\x9f]"


def drain(stream: IO[bytes], size_bytes: int) -> bytes:
    """All of a member, which must be as large as it says and not a byte more.

    Raises:
        MediaError: it is not.
    """
    pieces: list[bytes] = []
    left = size_bytes
    while piece := stream.read(min(_CHUNK_BYTES, left + 1)):
        left -= len(piece)
        if left < 0:
            break
        pieces.append(piece)
    if left:
        raise fault("archive_damaged")
    return b"".join(pieces)
