"""`web.shortcut`: what is posted to one path goes straight to the function that answers it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import Response
from starlette.routing import Route

from earmark.errors import RefusedError, UnavailableError
from earmark.web.errors import Answer, Edge
from earmark.web.shortcut import Shortcut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request


async def answered(_request: Request) -> Response:
    return Response("straight")


async def around(_scope: Any, _receive: Any, send: Any) -> None:
    await Response("around")(_scope, _receive, send)


ROUTE = Route("/here", answered)


def ask(
    call: Callable[[Request], Awaitable[Response]] = answered,
    *,
    path: str = "/here",
    method: str = "POST",
) -> tuple[dict[str, Any], list[Any]]:
    """The scope after the call, and what was sent."""
    sent: list[Any] = []
    scope = {"type": "http", "path": path, "method": method, "headers": [], "query_string": b""}
    shortcut = Shortcut(around, ROUTE, call, Edge(refusal, [ROUTE]))

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        asyncio.run(shortcut(scope, receive, send))
    finally:
        scope["sent"] = sent
    return scope, sent


def refusal(error: RefusedError) -> Answer:
    return Answer(400, "refused", str(error))


def body(sent: list[Any]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


def test_what_is_posted_there_goes_straight():
    scope, sent = ask()
    assert body(sent) == b"straight"
    assert scope["route"] is ROUTE, "metrics name it"


@pytest.mark.parametrize(
    "other", [{"path": "/there"}, {"method": "GET"}, {"method": "HEAD"}, {"path": "/here/"}]
)
def test_everything_else_goes_around(other):
    assert body(ask(**other)[1]) == b"around"


def test_an_error_that_is_known_is_answered_and_no_more():
    async def fail(_request: Request) -> Response:
        raise UnavailableError("the database is down")

    _scope, (start, _body) = ask(fail)
    assert start["status"] == 503


def test_an_error_that_nobody_knows_is_answered_and_told():
    sent: list[Any] = []

    async def fail(_request: Request) -> Response:
        raise ZeroDivisionError

    scope = {"type": "http", "path": "/here", "method": "POST", "headers": []}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Shortcut(around, ROUTE, fail, Edge(refusal, []))(scope, send, send))
    assert sent[0]["status"] == 500
    assert b"Something went wrong on our side" in body(sent)
