"""Digests of representations in HTTP fields: `Repr-Digest` and `Content-Digest`.

Source: RFC 9530 (sections 2, 3 and 5), whose fields are dictionaries of RFC 9651 section 3.2.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING

from earmark.errors import Fault, RefusedError, Why

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ALGORITHM = "sha-256"
SHA256_BYTES = 32

_MEMBER = re.compile(
    r"[ \t]*+([a-z*][a-z0-9_.*-]*+)=:([A-Za-z0-9+/=]*+):"
    r"(?:;[ ]*+[a-z*][a-z0-9_.*-]*+(?:=[A-Za-z0-9_.:/*+-]++)?)*+[ \t]*+",
    re.ASCII,
)
"""One member whose value is bytes; parameters mean nothing here. No part gives back what it has
read, so that a line takes a time that grows with its length alone."""


def field(sha256: bytes) -> str:
    """The value of a field that tells this digest."""
    return f"{ALGORITHM}=:{b64encode(sha256).decode()}:"


def sha256_of(fields: Sequence[str]) -> bytes | None:
    """The SHA-256 that the fields of one thing tell, 32 bytes; None if they tell none.

    Other algorithms are ignored, as RFC 9530 has it.

    Raises:
        RefusedError: a field is malformed, or they tell two digests that differ.
    """
    told = [dict(_members(one)) for one in fields]  # of two in one field the last counts
    found = {members[ALGORITHM] for members in told if ALGORITHM in members}
    if any(len(digest) != SHA256_BYTES for digest in found):
        raise _malformed("A sha-256 has 32 bytes, which are 44 characters of base64.")
    if len(found) > 1:
        raise _malformed("Two digests of the file differ; send one.")
    return found.pop() if found else None


def _members(sent: str) -> Iterator[tuple[str, bytes]]:
    for member in sent.split(",") if sent.strip() else ():
        match = _MEMBER.fullmatch(member)
        if match is None:
            raise _malformed("Write it like sha-256=:base64:, several with commas between them.")
        name, encoded = match.groups()
        yield name, _decoded(encoded)


def _decoded(encoded: str) -> bytes:
    """Bytes of base64; padding may be missing. Source: RFC 9651 section 4.2.7."""
    bare = encoded.rstrip("=")
    try:
        return b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except Base64Error:
        raise _malformed("What stands between the colons is no base64.") from None


def _malformed(detail: str) -> RefusedError:
    return RefusedError([Fault(Why.DIGEST_MALFORMED, "file", detail)])
