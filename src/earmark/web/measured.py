"""Requests are counted and timed here, by the route that took them and never by their path."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LAG_LOOK_SECONDS = 0.1
"""How often; a look costs a few microseconds."""

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

_OUTCOMES = {200: "accepted", 202: "promised", 499: "abandoned"}
"""Of uploads whose answer tells no code."""


class Measured:
    """Measures what the app does with each request.

    It stands right around the app, on the same scope, in which routing leaves the route that took
    the request. Whoever refuses leaves a `code` in the scope's state, and an upload its `media`.
    """

    def __init__(self, app: ASGIApp, *, uploads: str) -> None:
        """`uploads` is the path to which uploads are posted."""
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        upload = scope["path"] == self._uploads and scope["method"] == "POST"

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.UPLOADS_IN_FLIGHT.change(upload)
        try:
            await self._app(scope, receive, answer)
        finally:
            metrics.UPLOADS_IN_FLIGHT.change(-upload)
            seconds = time.perf_counter() - began
            _count(scope, status, seconds)
            if upload:
                _count_upload(scope, status, seconds)


@contextlib.asynccontextmanager
async def lag_measured() -> AsyncIterator[None]:
    """While the block runs, it is noted how late the event loop is."""
    measuring = asyncio.create_task(_measure_lag())
    try:
        yield
    finally:
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)


async def _measure_lag() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_LOOK_SECONDS
        await asyncio.sleep(LAG_LOOK_SECONDS)
        metrics.LOOP_LAG.took(max(0.0, loop.time() - due))


def _count(scope: Scope, status: int, seconds: float) -> None:
    method = scope["method"] if scope["method"] in _METHODS else metrics.OTHER
    route = getattr(scope.get("route"), "path", metrics.OTHER)
    metrics.REQUESTS.add(method, route, f"{status // 100}xx" if status else "none")
    metrics.REQUEST_DURATION.took(seconds, method, route)
    code = scope.get("state", {}).get("code")
    if code is not None:
        metrics.REFUSALS.add(code)


def _count_upload(scope: Scope, status: int, seconds: float) -> None:
    state = scope.get("state", {})
    media = state.get("media", "unknown")
    metrics.UPLOADS.add(media, state.get("code") or _OUTCOMES.get(status, "none"))
    metrics.UPLOAD_DURATION.took(seconds, media)
