"""A multipart/form-data body as a stream of parts, with nothing held back and nothing spooled.

Source: RFC 7578; the parser is `multipart`'s. Its strict mode is left off, because it refuses a
good form whose last line break comes in a chunk of its own; what else strict mode refuses, and
more, is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)
from starlette.requests import ClientDisconnect

from earmark.errors import Fault, RefusedError, TooLargeError, Why

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

MAX_PARTS = 32
"""The contract names three; some clients send a few more of their own."""

MAX_HEADER_BYTES = 16 * 1024
"""One header line of a part: a name of 1,024 bytes, percent-encoded, in both its forms."""

MAX_HEADERS = 16
MAX_BOUNDARY_CHARACTERS = 200
"""RFC 2046 allows 70; real clients keep to it."""

_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})
"""Content-Transfer-Encoding that changes no byte; RFC 7578 section 4.7 ended the others."""

_DIGESTS = ("Repr-Digest", "Content-Digest")
"""A part's bytes are its representation: both say the same of it."""

_QUOTED = re.compile(r'"(?:\\.?|[^"\\])*+"?')
"""Quoted text, also where its end is missing: to look for that from each quotation mark anew would
take a time that grows with the square of the line, 0.8 s for 16 KiB (measured)."""

_EXTENDED_NAME = re.compile(r";\s*filename\*\s*=\s*([^';\s]*)'[^';]*'([^;\s]*)", re.IGNORECASE)
"""RFC 5987: charset, language (of no use here), percent-encoded text. The parser skips it."""


@dataclass(frozen=True, slots=True)
class Part:
    """The header of one part. Its bytes follow, then None.

    Attributes:
        name: in lower case; names match without regard to case.
        file_name: as sent, the extended form (RFC 5987) before the plain one; or None.
        digests: the fields that tell digests of its bytes, as sent.
    """

    name: str
    file_name: str | None
    digests: tuple[str, ...] = ()


def boundary_of(content_type: str) -> str | None:
    """The boundary of a multipart/form-data body; None if it is something else."""
    kind, options = parse_options_header(content_type)
    boundary: str = options.get("boundary", "")
    if kind != "multipart/form-data" or not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS:
        return None
    return boundary


async def parts(
    request: Request, boundary: str, *, max_bytes: int
) -> AsyncGenerator[Part | bytes | None]:
    """For each part in order: its Part, its bytes in pieces, and None; to the form's very end.

    Raises:
        RefusedError: the form is malformed, cut short, or has too many parts.
        TooLargeError: the whole form is larger than `max_bytes`.
        SlowError: it came too slowly.
        ClientDisconnect: the caller went away.
    """
    try:
        parser = PushMultipartParser(
            boundary,
            max_header_size=MAX_HEADER_BYTES,
            max_header_count=MAX_HEADERS,
        )
        count, left, more = 0, max_bytes, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            left -= len(chunk)
            if left < 0:
                raise TooLargeError(max_bytes)
            for event in parser.parse(chunk) if chunk else ():
                if isinstance(event, MultipartSegment):
                    count += 1
                    if count > MAX_PARTS:
                        detail = f"Send at most {MAX_PARTS} parts."
                        raise RefusedError([Fault(Why.TOO_MANY_PARTS, "", detail)])
                    yield _part(event)
                else:
                    yield event
        parser.close()
    except MultipartError as error:
        raise malformed(f"{error}.") from error


def _part(segment: MultipartSegment) -> Part:
    name = (segment.name or "").lower()
    if not name:
        raise malformed("A part has no name.")
    if segment.header("Content-Transfer-Encoding", "").strip().lower() not in _ENCODINGS:
        raise malformed("A part is encoded for transfer; send its bytes as they are.")
    file_name = _file_name(segment)
    if "\0" in name or "\0" in (file_name or ""):
        raise malformed("A part's header holds a NUL character.")
    digests = tuple(value for field, value in segment.headerlist if field in _DIGESTS)
    return Part(name, file_name, digests)


def _file_name(segment: MultipartSegment) -> str | None:
    """RFC 7578 names no extended form, yet clients in use send it for names beyond ASCII."""
    header = segment.header("Content-Disposition", "")
    extended = "*" in header and _EXTENDED_NAME.search(_QUOTED.sub('""', header))
    if not extended:
        plain: str | None = segment.filename
        return plain
    charset, encoded = extended.groups()
    try:
        return unquote(encoded, encoding=charset or "utf-8", errors="strict")
    except (LookupError, ValueError):
        raise malformed("The file part's name is not in the character set it says.") from None


def malformed(detail: str) -> RefusedError:
    """The refusal of a form that is not well formed, or breaks a rule of its shape."""
    return RefusedError([Fault(Why.FORM_MALFORMED, "", detail)])
