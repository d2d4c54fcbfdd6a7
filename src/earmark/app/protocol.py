"""HTTP on one connection: uvicorn's protocol, and the limits of request heads that it has not.

Bodies are judged by whoever reads them, see `earmark.web.pace`; answers that nobody takes are
ended by the kernel, see `Acceptor`.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from earmark.app import zerocopy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from uvicorn import Config
    from uvicorn._types import HTTPScope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

MAX_HEAD_BYTES = 32 * 1024
"""Request line and headers together. Four times what Apache and nginx take of one line, since a
token of another issuer may be long; httptools itself would keep whatever comes."""

MAX_HEADERS = 100
"""As Apache and Python's own http.client."""

LINGER_SECONDS = 1.0
"""After a refusal what still comes is read and dropped for as long: a connection that is closed
while bytes are on their way is reset, and a reset can take the answer away."""

_SENTENCES = {
    HTTPStatus.BAD_REQUEST: "Invalid HTTP request received.",
    HTTPStatus.REQUEST_TIMEOUT: "The head of the request did not come in time.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        f"The head of a request may have {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers."
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: "Too many connections are open. Retry in 5 s.",
}


def refusal(status: HTTPStatus, *headers: str) -> bytes:
    """A whole answer after which the connection ends."""
    body = _SENTENCES[status]
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    )
    return "\r\n".join((*head, "", body)).encode("ascii")


_NOTHING = cast("HTTPScope", {})


class _HeadTooLargeError(Exception):
    """Raised through the parser, which then takes nothing more."""


def _sending_files(cycle: RequestResponseCycle) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """As the cycle's own `send`, which knows no files."""
    send = cycle.send

    async def send_any(message: Any) -> None:
        if message["type"] != zerocopy.EXTENSION:
            await send(message)
        elif not cycle.disconnected:
            file, start, count = zerocopy.asked(message)
            try:
                await zerocopy.send_file(cycle.transport, file, start, count)
            except OSError:  # most likely the caller's; the answer cannot be whole any more
                cycle.transport.abort()
                cycle.disconnected = True
            cycle.expected_content_length -= count

    return send_any


class Protocol(HttpToolsProtocol):
    """One connection.

    The head of a request comes within a deadline: of the first from the opening of the connection,
    of others from their first byte. Neither it nor anything else that is no body (what surrounds
    the chunks of one, trailers, empty lines) is larger than a head may be.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        *,
        head_seconds: float,
        on_lost: Callable[[], None],
    ) -> None:
        """`on_lost` is called once the connection is gone."""
        super().__init__(config, server_state, app_state, _loop=loop)
        self._head_seconds = head_seconds
        self._on_lost = on_lost
        self._deadline: asyncio.TimerHandle | None = None
        self._between = True  # requests: what comes next is a head
        self._fruitful = False  # whether the bytes at hand ended a head or brought some body
        self._fruitless_bytes = 0  # in a row
        self._head_too_large = False
        self._refused = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._expect_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_waiting()
        super().connection_lost(exc)
        self._on_lost()

    @override
    def shutdown(self) -> None:
        """As uvicorn, which with TLS would wait for the other side's goodbye.

        Its end is taken for given once ours is written; what was written before still goes out.
        """
        super().shutdown()
        if self.scheme == "https" and self.transport.is_closing():
            held = self.transport.get_extra_info("socket")  # None if it is gone already
            if held is not None:
                with contextlib.suppress(OSError), held.dup() as connection:
                    connection.shutdown(socket.SHUT_RD)

    @override
    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._refused or self.transport.is_closing():
            return
        self._fruitful = False
        super().data_received(data)
        self._fruitless_bytes = 0 if self._fruitful else self._fruitless_bytes + len(data)
        if self._fruitless_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._fruitless_bytes and self._between:
            self._expect_head()

    @override
    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._expect_head()

    @override
    def on_headers_complete(self) -> None:
        """See httptools."""
        self._stop_waiting()
        self._between, self._fruitful = False, True
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._head_too_large = True
            raise _HeadTooLargeError
        if zerocopy.can_send(self.transport):
            extensions = cast("dict[str, Any]", self.scope).setdefault("extensions", {})
            extensions[zerocopy.EXTENSION] = {}
        super().on_headers_complete()
        self.cycle.send = _sending_files(self.cycle)  # type: ignore[method-assign,assignment]

    @override
    def on_body(self, body: bytes) -> None:
        """As uvicorn, which would copy what comes twice more on its way to `receive`."""
        self._fruitful = True
        cycle = self.cycle
        if cycle.response_complete:
            return
        held: bytes | bytearray = cycle.body  # `receive` makes bytes of it, which bytes are
        if not held:
            held = body
        elif isinstance(held, bytes):  # a sum of many small ones would take their square
            held = bytearray(held) + body
        else:
            held += body
        cycle.body = cast("bytearray", held)
        if len(held) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    @override
    def on_message_complete(self) -> None:
        """See httptools."""
        self._between = True
        super().on_message_complete()

    @override
    def on_response_complete(self) -> None:
        """As uvicorn. What was made for the request goes, or ten thousand idle ones keep it."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self.cycle.scope = _NOTHING
        if self._between and self._deadline is None:
            self.scope, self.headers = _NOTHING, []

    @override
    def send_400_response(self, msg: str) -> None:
        """What uvicorn does when the parser does not go on."""
        broken = sys.exception()
        if broken is not None and isinstance(broken.__context__, MemoryError):
            self.transport.close()  # the request is not at fault: who hears nothing tries again
            return
        too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        self._refuse(too_large if self._head_too_large else HTTPStatus.BAD_REQUEST)

    def _expect_head(self) -> None:
        if self._deadline is None and not self._refused:
            self._deadline = self.loop.call_later(self._head_seconds, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._answering or self.flow.read_paused:  # it may be waiting for us
            self._expect_head()
        elif self._fruitless_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:  # nothing was asked, so nothing is answered
            self.transport.close()

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete)

    def _refuse(self, status: HTTPStatus) -> None:
        if self._refused:
            return
        self._refused = True
        self._stop_waiting()
        if self._answering:  # one answer must not stand in the middle of another
            self.transport.close()
        else:
            self.transport.write(refusal(status))
            self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)
