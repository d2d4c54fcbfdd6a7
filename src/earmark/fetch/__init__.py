"""A signed address → the bytes of its file, through `egress`, within size, rate and time.

The address is a credential: nothing here logs it, and no error holds any part of it but the
host. Errors tell the caller that a download failed, not what was found on the way.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpcore2

from earmark import egress
from earmark.errors import Fault, RefusedError, Why
from earmark.fetch.expiry import expiry
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from earmark.egress import Destination, Walls
    from earmark.egress.walls import Opening

MAX_RESUMES = 5
"""Of one download: a connection that is cut more often will not hold to the end."""

RESUME_PAUSE_SECONDS = 0.2
"""Before the first resume; doubled for each further one."""

RATE_WINDOW_SECONDS = 20.0
"""Over which the rate is measured: a store may pause for a moment."""

IDLE_SECONDS = 20.0
"""Without a single byte."""

ANSWER_SECONDS = 60.0
"""From the first connection to the head of the answer, however it drips."""

_OK, _PARTIAL = 200, 206
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

_HEADERS = (
    (b"User-Agent", b"Earmark"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)
_STRONG_TAG = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')
_CONTENT_RANGE = re.compile(rb"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a download may take.

    Attributes:
        size_bytes: largest file.
        seconds: from its first connection to its last byte.
        bytes_per_second: the least, over `RATE_WINDOW_SECONDS` of waiting for bytes.
        redirects: followed, each judged like the first address.
    """

    size_bytes: int
    seconds: float = 3600.0
    bytes_per_second: float = 16 * 1024
    redirects: int = 0


class FetchError(RefusedError):
    """A download that cannot be made, or that failed.

    Attributes:
        reason: what happened, for the operator's log alone.
        passing: whether trying again soon may help.
    """

    def __init__(self, why: Why, reason: str, detail: str = "", *, passing: bool = False) -> None:
        super().__init__([Fault(why, "signedUrl", detail or _DETAILS[why])])
        self.reason = reason
        self.passing = passing


_DETAILS: Mapping[Why, str] = {
    Why.SIGNED_URL_EXPIRED: "Sign it anew, for longer.",
    Why.SIGNED_URL_REFUSED: "Downloads from there are not allowed, or there is no such host.",
    Why.SIGNED_URL_FAILED: "The file could not be had there; see that the address works.",
    Why.SIGNED_URL_TOO_SLOW: "Its server sends too slowly; try again, or upload the file itself.",
    Why.SIGNED_URL_TOO_LARGE: "The file there is larger than is taken.",
}


class Fetcher:
    """Downloads from signed addresses, within one set of walls and limits."""

    def __init__(self, walls: Walls, limits: Limits) -> None:
        """Keeps its collaborators; opens nothing."""
        self._walls = walls
        self._limits = limits

    def read(self, address: str) -> Destination:
        """Reads an address and judges all of it that needs no network.

        Raises:
            FetchError: it is malformed, not allowed, or expired.
        """
        try:
            destination = egress.parse_address(address)
        except egress.UnfitAddressError as error:
            raise FetchError(Why.SIGNED_URL_INVALID, "invalid", str(error)) from None
        ends = expiry(destination.target)
        if ends is not None and ends <= now():
            raise FetchError(Why.SIGNED_URL_EXPIRED, "expired")
        try:
            self._walls.judge(destination)
        except egress.BarredError as error:
            raise _barred(error) from None
        return destination

    async def download(
        self,
        destination: Destination,
        sink: Callable[[bytes], Awaitable[None]],
        *,
        sized: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Downloads all of a file.

        A connection that is cut is taken up where it was, if the server lets that be done safely.

        Args:
            destination: where it is.
            sink: takes its bytes in order, and is waited for.
            sized: is told before the first byte how many come, if the server says so.

        Raises:
            FetchError: it failed; what the sink got is not the file.
        """
        try:
            async with asyncio.timeout(self._limits.seconds):
                await _Download(self._walls, self._limits, sink, sized).run(destination)
        except TimeoutError:
            raise FetchError(Why.SIGNED_URL_TOO_SLOW, "deadline") from None


class _Download:
    """One file on its way, over as many connections as it takes."""

    def __init__(
        self,
        walls: Walls,
        limits: Limits,
        sink: Callable[[bytes], Awaitable[None]],
        sized: Callable[[int], Awaitable[None]] | None,
    ) -> None:
        self._walls = walls
        self._limits = limits
        self._sink = sink
        self._sized = sized
        self._received = 0
        self._total: int | None = None
        self._tag: bytes | None = None
        self._pace = _Pace(limits.bytes_per_second)

    async def run(self, destination: Destination) -> None:
        """See Fetcher.download."""
        redirects = resumes = 0
        while True:
            try:
                onward = await self._request(destination)
            except _CutError:
                if self._tag is None or self._total is None or resumes == MAX_RESUMES:
                    raise _failed("cut", passing=True) from None
                await asyncio.sleep(RESUME_PAUSE_SECONDS * 2**resumes)
                resumes += 1
                continue
            if onward is None:
                return
            redirects += 1
            if redirects > self._limits.redirects:
                raise _failed("redirect")
            destination = onward

    async def _request(self, destination: Destination) -> Destination | None:
        """Asks for the rest; returns where it is if elsewhere, or None when all has come."""
        try:
            opening = await self._walls.open(destination)
        except egress.BarredError as error:
            raise _barred(error) from None
        try:
            answer = await self._ask_in_time(opening)
            try:
                return await self._take(destination, answer, public=opening.public)
            finally:
                await answer.aclose()
        finally:
            await opening.close()

    async def _ask_in_time(self, opening: Opening) -> httpcore2.Response:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask(opening)
        except TimeoutError:
            raise FetchError(Why.SIGNED_URL_TOO_SLOW, "no answer") from None

    async def _ask(self, opening: Opening) -> httpcore2.Response:
        headers = list(_HEADERS)
        if self._received and self._tag is not None:
            headers.append((b"Range", b"bytes=%d-" % self._received))
            headers.append((b"If-Range", self._tag))
        try:
            return await opening.get(headers, read_seconds=IDLE_SECONDS)
        except egress.BarredError as error:
            raise _barred(error) from None
        except _CUTS as error:
            if self._received:
                raise _CutError from None
            # The library's own words may hold what a server said; the kind of error does not.
            raise _failed(type(error).__name__, passing=True) from None

    async def _take(
        self, destination: Destination, answer: httpcore2.Response, *, public: bool
    ) -> Destination | None:
        headers = _unique(answer)
        if answer.status in _REDIRECTS and not self._received:
            return _redirected(destination, headers)
        if answer.status != (_PARTIAL if self._received else _OK):
            raise _refused_by_server(answer.status, public=public, again=bool(self._received))
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _failed("encoded")
        if self._received:
            self._check_rest(headers)
        else:
            self._check_begin(headers)
            if self._sized is not None and self._total is not None:
                await self._sized(self._total)
        await self._read(answer)
        return None

    def _check_begin(self, headers: Mapping[bytes, bytes]) -> None:
        length, tag = headers.get(b"content-length"), headers.get(b"etag", b"")
        if length is not None:
            self._total = int(length)  # h11 lets nothing else through
            if self._total > self._limits.size_bytes:
                raise FetchError(Why.SIGNED_URL_TOO_LARGE, "too large")
        elif headers.get(b"transfer-encoding", b"").lower() != b"chunked":
            # The end of the connection would be that of the file, and a cut one look whole.
            raise _failed("length unknown")
        self._tag = tag if _STRONG_TAG.fullmatch(tag) else None

    def _check_rest(self, headers: Mapping[bytes, bytes]) -> None:
        told = _CONTENT_RANGE.fullmatch(headers.get(b"content-range", b""))
        rest = (self._received, (self._total or 0) - 1, self._total)
        if told is None or tuple(map(int, told.groups())) != rest:
            raise _failed("another range", passing=True)
        if headers.get(b"etag", self._tag) != self._tag:
            raise _failed("changed", passing=True)

    async def _read(self, answer: httpcore2.Response) -> None:
        chunks = answer.aiter_stream()
        while True:
            try:
                async with self._pace:
                    chunk = await anext(chunks, None)
            except _CUTS:
                raise _CutError from None
            if chunk is None:
                break
            self._received += len(chunk)
            if self._received > self._limits.size_bytes:
                raise FetchError(Why.SIGNED_URL_TOO_LARGE, "too large")
            self._pace.count(len(chunk))
            await self._sink(chunk)
        if self._total not in {None, self._received}:
            raise _CutError


class _CutError(Exception):
    """The connection ended before the file did."""


_CUTS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    ssl.SSLError,
)


class _Pace:
    """How fast bytes come, while they are waited for; time that we take ourselves is ours."""

    def __init__(self, least_per_second: float) -> None:
        self._least = least_per_second
        self._waited = 0.0
        self._bytes = 0
        self._began = 0.0

    async def __aenter__(self) -> None:
        self._began = time.monotonic()

    async def __aexit__(self, *_error: object) -> None:
        self._waited += time.monotonic() - self._began

    def count(self, size: int) -> None:
        """Notes bytes that came; raises FetchError if they come too slowly."""
        self._bytes += size
        if self._waited < RATE_WINDOW_SECONDS:
            return
        if self._bytes < self._least * self._waited:
            raise FetchError(Why.SIGNED_URL_TOO_SLOW, "rate")
        self._waited, self._bytes = 0.0, 0


def _unique(answer: httpcore2.Response) -> Mapping[bytes, bytes]:
    """The headers, their names in lower case; one of which two differ is no answer to use."""
    found: dict[bytes, bytes] = {}
    for name, value in answer.headers:
        if found.setdefault(name.lower(), value) != value and name.lower() in _JUDGED:
            raise _failed("two headers")
    return found


_JUDGED = frozenset(
    {b"content-encoding", b"content-length", b"content-range", b"etag", b"location"}
)


def _redirected(destination: Destination, headers: Mapping[bytes, bytes]) -> Destination:
    try:
        return destination.follow(headers.get(b"location", b"").decode("ascii"))
    except ValueError:
        raise _failed("redirect") from None


def _refused_by_server(status: int, *, public: bool, again: bool) -> FetchError:
    """What a public server answers may be told; what one inside a network answers may not."""
    detail = f"Its server answers with status {status}." if public else ""
    return _failed(f"status {status}", detail, passing=again or status in _PASSING_STATUSES)


def _failed(reason: str, detail: str = "", *, passing: bool = False) -> FetchError:
    return FetchError(Why.SIGNED_URL_FAILED, reason, detail, passing=passing)


def _barred(error: egress.BarredError) -> FetchError:
    return FetchError(Why.SIGNED_URL_REFUSED, f"barred: {error}")
