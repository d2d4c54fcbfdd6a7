"""What routing lacks: paths without regard to case, and all methods of an address."""

from __future__ import annotations

import re
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
                path = "/".join([self._spelling.get(word.lower(), word) for word in words])
                if path != scope["path"]:
                    scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


class ToldPaths:
    """Paths as a log may tell them: the words of our routes and ids; `*` for all else.

    What a caller writes into a path may be anything: a name, a token, a file's name.
    """

    _ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)

    def __init__(self, paths: Iterable[str]) -> None:
        """Learns the words from the routes' own paths."""
        split = [path.split("/") for path in paths]
        self._longest = max(map(len, split), default=0)
        words = {word.lower() for each in split for word in each}
        self._whole = {word for word in words if "{" not in word}
        begun = (word.partition("{")[0] for word in words - self._whole)
        self._begun = tuple(word for word in begun if word)

    def told(self, path: str) -> str:
        """The path of a request, as it may stand in a log."""
        words = path.split("/")
        if len(words) > self._longest:
            return "/*"
        return "/".join(map(self._word, words))

    def _word(self, word: str) -> str:
        if word.lower() in self._whole or self._ID.fullmatch(word):
            return word
        return next((begun for begun in self._begun if word.lower().startswith(begun)), "") + "*"


def methods_of(path: str, routes: Iterable[Route]) -> list[str]:
    """Every method that an address takes; the framework's own 405 names those of one route."""
    matching = (route for route in routes if route.path_regex.match(path))
    return sorted({method for route in matching for method in route.methods or ()})
