"""What holds for every request, whatever the route: its id, the pace of its body, early ends."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers, MutableHeaders

from earmark import telemetry
from earmark.errors import SlowError
from earmark.web.pace import Paced
from earmark.web.routing import ToldPaths

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from earmark.web.pace import Pace

DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_SECONDS = 5.0
"""How much of a refused body is still read, so that the caller gets to the answer.

A connection that is closed while bytes are on their way is reset, and a reset can take the
answer away with it. Most uploads end within this; a longer one is cut off, as it should be.
"""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)

log = structlog.get_logger()


class RequestContext:
    """Names each request, tells of it once in the log, and ends early answers well.

    The caller's own `X-Request-Id` is used if it is at most 128 safe characters. An answer that
    is sent before the body was read whole closes the connection. A body that comes more slowly
    than its pace is given up: whoever reads it gets a SlowError.
    """

    def __init__(self, app: ASGIApp, pace: Pace, paths: Iterable[str] = ()) -> None:
        """`paths` are those of the routes: nothing else of a request's path is logged."""
        self._app = app
        self._pace = pace
        self._paths = ToldPaths(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send, self._pace)
        telemetry.origin.set(telemetry.Origin(request.id, (scope.get("client") or [None])[0]))
        try:
            await self._app(scope, request.receive, request.send)
        except MemoryError:
            pass  # further in it was answered and told: a traceback for each would say no more
        except Exception:
            # The answer was sent already, further in; here it is told, once.
            log.exception("request failed")
        finally:
            request.end()
            log.info(
                "request",
                method=scope["method"],
                path=self._paths.told(scope["path"]),
                status=request.status,
                milliseconds=round((time.perf_counter() - request.began) * 1000, 1),
            )


class _Request:
    """One request: what was read of its body and what was answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, pace: Pace) -> None:
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        self.id = sent if _SAFE_ID.fullmatch(sent) else uuid.uuid4().hex
        self.began = time.perf_counter()
        self.status = 0
        # Made here, so that what is noted further in, on a copy of the scope, is found again.
        self._state = scope.setdefault("state", {})
        self._receive = receive
        self._paced = Paced(receive, pace)
        self._send = send
        length = headers.get("content-length", "0")
        self._ended = False
        self._unread = "transfer-encoding" in headers or length != "0"
        # A caller that waits for 100 Continue has sent nothing, and reading would ask it to.
        self._waits = headers.get("expect", "").lower() == "100-continue"
        self._closes = False

    async def receive(self) -> Message:
        """Passes on what comes, noticing the end.

        Raises:
            SlowError: the body comes too slowly, and no answer was begun.
        """
        message = await self._next()
        self._waits = False
        if not message.get("more_body", False):
            self._unread, self._ended = False, True
        return message

    def end(self) -> None:
        """It is over."""
        self._paced.end()

    async def _next(self) -> Message:
        if not self._ended and not self._answered():
            try:
                return await self._paced()
            except SlowError:
                if not self._answered():
                    raise
        return await self._receive()  # nobody wants its body any more, only to hear of its end

    def _answered(self) -> bool:
        return self.status != 0

    async def send(self, message: Message) -> None:
        """Adds what every answer bears; closes early answers gently."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in self._state.get("headers", {}).items():
                headers[name] = value
            if self._unread:
                self._closes = True
                headers["Connection"] = "close"
        elif self._closes and not message.get("more_body", False) and not self._waits:
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drain(self) -> None:
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return
