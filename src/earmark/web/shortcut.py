"""The short way to the one route on which everything depends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request

from earmark.web.errors import EXPECTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send

    from earmark.web.errors import Edge


class Shortcut:
    """Calls a route's own function without what the framework does around it.

    Its routing, dependencies, middleware and exit stacks take a quarter of the time that an
    upload takes of the event loop (measured). What the function needs of them it gets here: its
    arguments, and an answer for every error. The route is in the app all the same, which documents
    it and tells of other methods.
    """

    def __init__(
        self,
        app: ASGIApp,
        route: Route,
        call: Callable[[Request], Awaitable[Response]],
        edge: Edge,
    ) -> None:
        """`call` answers what is posted to the path of the route."""
        self._app = app
        self._route = route
        self._call = call
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        is_ours = scope["type"] == "http" and scope["path"] == self._route.path
        if not is_ours or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        request, failure = Request(scope, receive, send), None
        try:
            response = await self._call(request)
        except Exception as error:  # noqa: BLE001 - the edge, like the framework's own
            failure = error
            response = self._edge.answer(request, error)
        await response(scope, receive, send)
        if failure is not None and not isinstance(failure, EXPECTED):
            raise failure
