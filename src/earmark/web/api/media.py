"""Media over HTTP: ranges, validators, digest and a name to save it under.

Source: RFC 9110 (sections 8.8, 13 and 14), RFC 9530, RFC 6266.
"""

from __future__ import annotations

import contextlib
import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse
from typing_extensions import override

from earmark.model import extension
from earmark.web import digests
from earmark.web.errors import Answer, Problem

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from starlette.datastructures import Headers
    from starlette.types import Receive, Scope, Send

    from earmark.interactions import Media

CONTENT_TYPES = {
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".mp4": "audio/mp4",
    ".m4a": "audio/mp4",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".tar": "application/x-tar",
    ".zip": "application/zip",
}
"""What a file of each extension says it is."""

_ZERO_COPY = "http.response.zerocopysend"
"""The ASGI extension by which a server is handed a file."""

_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII | re.IGNORECASE)
"""One range. Anything else may be ignored (RFC 9110 section 14.2), and is."""

_UNSAFE = re.compile(r"[^ !#$&()+,.:;=@\[\]^_`{|}~0-9A-Za-z-]", re.ASCII)
"""What a quoted file name had better not hold: agents differ about quotes and about %."""


class UnsatisfiableError(ValueError):
    """The range lies outside the media."""


class Download(StreamingResponse):
    """Streams chunks that block, and closes what they come from even if the caller goes away."""

    def __init__(self, chunks: Iterator[bytes], status: int, headers: dict[str, str]) -> None:
        self._chunks = _generated(chunks)
        super().__init__(self._chunks, status, headers)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Left to the garbage collector, an aborted download kept its file open for long.
            self._chunks.close()


def _generated(chunks: Iterator[bytes]) -> Generator[bytes]:
    yield from chunks


class _MediaDownload(Download):
    """Sends media; the server sends its file by itself where it can."""

    def __init__(
        self, media: Media, part: tuple[int, int], status: int, headers: dict[str, str]
    ) -> None:
        self._start, stop = part
        self._count = stop - self._start
        self._reading = media.read(self._start, stop)
        super().__init__(iter(self._reading), status, headers)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if _ZERO_COPY not in scope.get("extensions", {}) or self._reading.fileno() is None:
            await super().__call__(scope, receive, send)
            return
        with contextlib.closing(self._reading):
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            file = {"file": self._reading, "offset": self._start, "count": self._count}
            await send({"type": _ZERO_COPY, **file})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def headers_of(media: Media) -> dict[str, str]:
    """What every answer about the media says of all of it."""
    return {
        "ETag": f'"{media.sha256.hex()}"',
        "Repr-Digest": digests.field(media.sha256),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",  # kept by the caller alone, and asked for each time
        "Content-Type": CONTENT_TYPES[extension(media.file_name)],
        "Content-Disposition": disposition(media.file_name),
        "X-Content-Type-Options": "nosniff",
    }


def head(media: Media, sent: Headers) -> Response:
    """The answer to HEAD: as GET's of the whole, without it."""
    headers = headers_of(media)
    if is_known(sent, headers["ETag"]):
        return _not_modified(headers)
    return Response(headers={**headers, "Content-Length": str(media.size_bytes)})


def get(media: Media, sent: Headers) -> Response:
    """The answer to GET: the media, or the range of it that was asked for."""
    headers = headers_of(media)
    if is_known(sent, headers["ETag"]):
        return _not_modified(headers)
    try:
        part = _wanted(sent, media.size_bytes, headers["ETag"])
    except UnsatisfiableError:
        return Problem(unsatisfiable(media.size_bytes))
    status, (start, stop) = HTTPStatus.OK, part or (0, media.size_bytes)
    if part is not None:
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{media.size_bytes}"
    headers["Content-Length"] = str(stop - start)
    # Opened before the head of the answer is sent, so that a deleted file is still a 404.
    return _MediaDownload(media, (start, stop), status, headers)


def parse_range(sent: str, size_bytes: int) -> tuple[int, int] | None:
    """The first byte that a `Range` field wants and the one after its last.

    Returns:
        None where the field is to be ignored: another unit, several ranges, or malformed.

    Raises:
        UnsatisfiableError: it wants nothing that is there.
    """
    match = _RANGE.fullmatch(sent)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:  # a suffix: the last so many bytes
        start, stop = max(0, size_bytes - int(last)), size_bytes
    else:
        start, stop = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < start:
            return None
    if start >= size_bytes:
        raise UnsatisfiableError
    return start, stop


def disposition(file_name: str) -> str:
    """Saves under the name's last segment: in ASCII for old agents, exactly for the others."""
    name = file_name.rpartition("/")[2]
    plain = _UNSAFE.sub("_", name)
    exact = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{exact}'


def is_known(sent: Headers, etag: str) -> bool:
    """Whether the caller has these bytes already: weak comparison, RFC 9110 section 13.1.2."""
    tags = [tag.strip() for field in sent.getlist("if-none-match") for tag in field.split(",")]
    return "*" in tags or etag in [tag.removeprefix("W/") for tag in tags]


def _wanted(sent: Headers, size_bytes: int, etag: str) -> tuple[int, int] | None:
    condition = sent.get("if-range")
    if "range" not in sent or (condition is not None and condition.strip() != etag):
        return None
    return parse_range(sent["range"], size_bytes)


def _not_modified(headers: dict[str, str]) -> Response:
    kept = {name: headers[name] for name in ("ETag", "Repr-Digest", "Cache-Control")}
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)


def unsatisfiable(size_bytes: int) -> Answer:
    """The answer to a range that begins behind the end of media of this size."""
    sentence = f"The range lies outside the media, which has {size_bytes} bytes."
    return Answer(
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        sentence,
        {"Content-Range": f"bytes */{size_bytes}"},
    )
