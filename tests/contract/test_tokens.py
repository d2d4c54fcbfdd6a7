"""Tokens that must be refused, on every route that needs one: 401 with a Bearer challenge."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from earmark.access import Access
from earmark.database import Database
from earmark.web import health, oauth
from forging import hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi.routing import APIRoute

    from contract.serving import Caller, Service

INVALID = 'Bearer error="invalid_token"'

published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

OPEN = {
    *("/health/live", "/health/ready", oauth.TOKEN_PATH),
    *(oauth.OPENID_PATH, oauth.METADATA_PATH, oauth.KEYS_PATH),
    *("/docs", "/docs/assets/{name}", "/docs/errors", "/docs/errors/{code}"),
}
"""The contract's list of what needs no token, as far as it is a route; `/openapi.json` is none."""


def routes(wire: Service) -> list[tuple[str, str]]:
    """Every route but the open ones: its method, and a path that it matches."""
    found = []
    for route in built(wire):
        if route.path not in OPEN:
            path = re.sub(r"\{[^}]*\}", lambda _: str(uuid4()), route.path)
            found += [(method, path) for method in sorted(route.methods)]
    return found


def built(wire: Service) -> list[APIRoute]:
    """Every route of the app, documented or not; the framework keeps them by router."""
    routers: Any = [route for route in wire.app.built.routes if hasattr(route, "original_router")]
    return [route for router in routers for route in router.original_router.routes]


@pytest.fixture(scope="module")
def other(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """Another service with the same issuer and secret key, but keys of its own."""
    path = tmp_path_factory.mktemp("other") / "earmark.sqlite3"
    shutil.copyfile(sqlite_template, path)
    with contextlib.closing(Database(f"sqlite:///{path}")) as database:
        yield Access(database, secret_key=b"k" * 32, issuer="https://earmark.example")


def send(wire: Service, method: str, path: str, headers: list[tuple[str, str]]) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(wire.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
            return await http.request(method, path, headers=raw)

    answer: httpx.Response = wire.runner.run(go())
    return answer


def bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")


def assert_challenged(answer: httpx.Response, challenge: str, what: Any) -> None:
    assert answer.status_code == 401, (what, answer.status_code, answer.text)
    assert answer.headers.get_list("www-authenticate") == [challenge], what


@ours
def test_the_routes_that_need_no_token_are_those_of_the_contract(wire: Service) -> None:
    closed = routes(wire)
    assert len(closed) > 15
    assert {route.path for route in built(wire)} >= OPEN
    assert {path for path in OPEN if path.startswith("/health")} == {
        route.path for route in health.router(dict).routes
    }


@published
def test_every_bad_token_is_refused_on_every_route(
    wire: Service, caller: Caller, other: Access
) -> None:
    bad = [*hostile(wire.access, caller.token, other)]
    assert len({name for name, _ in bad}) == len(bad) > 30
    for method, path in routes(wire):
        if not path.endswith("/stream"):  # which would not end
            assert send(wire, method, path, [bearer(caller.token)]).status_code != 401, path
        for name, token in bad:
            answer = send(wire, method, path, [bearer(token)])
            assert_challenged(answer, INVALID, (method, path, name))


@published
def test_no_token_is_challenged_without_an_error_on_every_route(wire: Service) -> None:
    for method, path in routes(wire):
        for sent in ([], [("Authorization", "Bearer")], [("Authorization", "Basic eDp5")]):
            assert_challenged(send(wire, method, path, sent), "Bearer", (method, path, sent))


@ours
def test_two_authorization_headers_are_refused_whatever_they_say(
    wire: Service, caller: Caller
) -> None:
    for second in (bearer(caller.token), bearer("x"), ("authorization", "Basic eDp5")):
        for headers in ([bearer(caller.token), second], [second, bearer(caller.token)]):
            answer = send(wire, "GET", "/v1/interactions", headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")


@ours
@pytest.mark.parametrize("place", ["query", "form"])
def test_a_token_anywhere_else_is_none(wire: Service, caller: Caller, place: str) -> None:
    path = "/v1/interactions"
    sent = [] if place == "query" else [("Content-Type", "application/x-www-form-urlencoded")]
    query = f"?access_token={caller.token}" if place == "query" else ""
    assert_challenged(send(wire, "GET", path + query, sent), "Bearer", place)


@ours
def test_a_good_token_stays_good_after_bad_ones(
    wire: Service, caller: Caller, other: Access
) -> None:
    for _, token in hostile(wire.access, caller.token, other):
        send(wire, "GET", "/v1/interactions", [bearer(token)])
    assert send(wire, "GET", "/v1/interactions", [bearer(caller.token)]).status_code == 200
