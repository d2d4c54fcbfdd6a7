"""The app, built once in a process: whoever sends a request says which heart is behind it.

To build it takes longer than most tests do. Every other part of a service is a test's own.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from earmark.web import Heart, create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

_heart: ContextVar[Heart] = ContextVar("heart")


class App:
    """The app over one heart; an ASGI app itself. Safe beside others of its kind."""

    def __init__(self, heart: Heart, build: Callable[[Heart], FastAPI] = create_app) -> None:
        self.heart = heart
        self._build = build

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = _heart.set(self.heart)
        try:
            await self.built(scope, receive, send)
        finally:
            _heart.reset(token)

    @property
    def built(self) -> FastAPI:
        """What was built, for a look at its documents."""
        return _built(self._build, self.heart.access.issuer, self.heart.upload_idle_seconds)


class Standin:
    """Stands in the app for a part of the heart: has whatever the one behind it has."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_heart.get(), self._part), name)


class _AccessStandin(Standin):
    """Says its issuer before a request has come: the discovery documents are built with it."""

    def __init__(self, issuer: str) -> None:
        super().__init__("access")
        self.issuer = issuer


@functools.cache
def _built(build: Callable[[Heart], FastAPI], issuer: str, idle_seconds: float) -> FastAPI:
    return build(
        Heart(
            access=cast("Any", _AccessStandin(issuer)),
            intake=cast("Any", Standin("intake")),
            interactions=cast("Any", Standin("interactions")),
            directory=cast("Any", Standin("directory")),
            readiness=lambda: _heart.get().readiness(),
            upload_idle_seconds=idle_seconds,
        )
    )
