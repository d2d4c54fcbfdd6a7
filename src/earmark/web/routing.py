"""What routing lacks: paths without regard to case, and all methods of an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send


class CaselessPaths:
    """Gives `/media/upload` to the route `/Media/Upload`.

    Only paths whose first segment is one of theirs are touched: all others keep their case.
    """

    def __init__(self, app: ASGIApp, paths: Iterable[str]) -> None:
        """Learns the spelling of each word from the routes' own paths."""
        self._app = app
        segments = [path.strip("/").split("/") for path in paths]
        self._first = {words[0].lower() for words in segments}
        self._spelling = {
            word.lower(): word for words in segments for word in words if not word.startswith("{")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            words = scope["path"].split("/")
            if words[1:] and words[1].lower() in self._first:
                path = "/".join(self._spelling.get(word.lower(), word) for word in words)
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


def methods_of(path: str, routes: Iterable[Route]) -> list[str]:
    """Every method that an address takes; the framework's own 405 names those of one route."""
    matching = (route for route in routes if route.path_regex.match(path))
    return sorted({method for route in matching for method in route.methods or ()})
