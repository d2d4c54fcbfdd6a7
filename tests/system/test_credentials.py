"""Keys, secrets and clients change under load, with two web processes, on both databases."""

from __future__ import annotations

import collections
import contextlib
import json
import threading
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest

from earmark.app.parts import Parts
from forging import part
from serving import Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from earmark.access import Access, NewClient

PROCESSES = 2


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Iterator[Server]:
    """A server with two web processes behind a trusted proxy, which is the test itself."""
    server = new_server(
        request.param,
        *("--web-processes", str(PROCESSES), "--no-worker"),
        token_rate_limit="10000/s",
        trusted_proxies="127.0.0.1",
    )
    with serving(server):
        until(lambda: len(server.children("web")) == PROCESSES, "two web processes")
        yield server


class Load(threading.Thread):
    """Gets tokens and uses each for a while, over new connections, so that both processes serve.

    Attributes:
        answers: how often each status was answered, to token requests and to others.
        kids: of the tokens that were used with success.
    """

    def __init__(self, server: Server, made: NewClient, address: str) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.form = {
            "grant_type": "client_credentials",
            "client_id": made.client.id,
            "client_secret": made.secret,
        }
        self.address = address
        self.answers: collections.Counter[tuple[str, int]] = collections.Counter()
        self.kids: collections.Counter[str] = collections.Counter()
        self.stopping = threading.Event()

    def run(self) -> None:
        token = ""
        while not self.stopping.is_set():
            token = self.one_round(token)

    def one_round(self, token: str) -> str:
        """Uses the token that it has and a new one, each with a connection of its own."""
        answer = ask(self.server, self.form, self.address)
        self.answers["token", answer.status] += 1
        new: str = json.loads(answer.body)["access_token"] if answer.status == 200 else token
        for used in {token, new} - {""}:
            for _ in range(3):
                status = get(self.server, used)
                self.answers["read", status] += 1
                self.kids[part(used, 0)["kid"]] += status == 200
        return new


class Answer(NamedTuple):
    """An answer over a connection of its own, so that any process may have given it."""

    status: int
    headers: Any
    body: bytes


def send(server: Server, method: str, path: str, body: str = "", **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    # Not httpx: to make a client of it takes longer than the server takes for ten answers.
    with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as http:
        http.request(method, path, body or None, {**given, "Connection": "close"})
        answer = http.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def read(server: Server, token: str) -> Answer:
    return send(server, "GET", "/v1/interactions?limit=1", authorization=f"Bearer {token}")


def get(server: Server, token: str) -> int:
    return read(server, token).status


def ask(server: Server, form: dict[str, str], address: str) -> Answer:
    """The answer to a token request that comes from an address, by the proxy's word."""
    form_type = "application/x-www-form-urlencoded"
    headers = {"x_forwarded_for": address, "content_type": form_type}
    return send(server, "POST", "/connect/token", urlencode(form), **headers)


def token_status(server: Server, form: dict[str, str], address: str) -> int:
    return ask(server, form, address).status


@contextlib.contextmanager
def access_to(server: Server) -> Iterator[Access]:
    """Clients and keys as another process has them."""
    with contextlib.closing(Parts(server.settled(), issuer=server.base)) as parts:
        yield parts.access


def test_signing_keys_rotate_under_load_without_a_single_refusal(pair: Server) -> None:
    loads = [Load(pair, pair.create_client(), f"192.0.2.{number}") for number in range(3)]
    for load in loads:
        load.start()
    until(lambda: all(sum(load.kids.values()) > 5 for load in loads), "load")
    seen = {kid for load in loads for kid in load.kids}
    with access_to(pair) as access:
        for _ in range(2):
            made = access.rotate_key(publish_seconds=2).id
            assert made not in seen
            until(lambda made=made: all(load.kids[made] > 10 for load in loads), "it signs")
    for load in loads:
        load.stopping.set()
    for load in loads:
        load.join()
    told: collections.Counter[Any] = sum((load.answers for load in loads), collections.Counter())
    assert {status for _, status in told} == {200}, told
    with access_to(pair) as access:
        states = [key.state for key in access.signing_keys()]
    assert states == ["active", "retired", "retired"]


def test_the_next_key_is_in_the_key_set_of_every_process_before_it_signs(pair: Server) -> None:
    caller = pair.caller()
    with access_to(pair) as access:
        made = access.rotate_key().id

    def published() -> bool:
        answers = [send(pair, "GET", "/.well-known/openid-configuration/jwks") for _ in range(8)]
        sets = [json.loads(answer.body)["keys"] for answer in answers]
        return all(made in [key["kid"] for key in one] for one in sets)

    until(published, "published", seconds=10)
    assert part(caller.token, 0)["kid"] != made
    with access_to(pair) as access:
        access.revoke_key(made)  # other tests rotate too, in whatever order


def test_a_secret_rotates_under_load_without_a_single_refusal(pair: Server) -> None:
    made = pair.create_client()
    old = Load(pair, made, "192.0.2.10")
    old.start()
    until(lambda: old.answers["token", 200] > 3, "load")
    with access_to(pair) as access:
        rotated = access.rotate_secret(made.client.id)
    new = Load(pair, rotated, "192.0.2.11")
    new.start()
    before = old.answers["token", 200]
    until(lambda: new.answers["token", 200] > 3 and old.answers["token", 200] > before, "both")
    old.stopping.set()
    old.join()
    with access_to(pair) as access:
        access.finish_rotation(made.client.id)
    count = new.answers["token", 200]
    until(lambda: new.answers["token", 200] > count + 3, "load")
    new.stopping.set()
    new.join()
    assert {status for _, status in [*old.answers, *new.answers]} == {200}
    assert token_status(pair, old.form, "192.0.2.12") == 401


def test_a_disabled_client_ends_on_every_process(pair: Server) -> None:
    """The promised second is held by the unit tests, whose clocks are moved by hand; how long it
    took here is told with the result.
    """
    made = pair.create_client()
    form = {
        "grant_type": "client_credentials",
        "client_id": made.client.id,
        "client_secret": made.secret,
    }
    token, other = pair.sign_in(made.client.id, made.secret).token, pair.caller().token
    assert {get(pair, token) for _ in range(20)} == {200}
    with access_to(pair) as access:
        access.disable_client(made.client.id)
        disabled_at = last_taken = time.monotonic()
        refused = 0
        while refused < 50:
            begun = time.monotonic()
            if get(pair, token) == 200:
                last_taken, refused = begun, 0
            else:
                refused += 1
        print(f"taken up to {last_taken - disabled_at:.3f} s after it was disabled")
        assert get(pair, other) == 200
        assert token_status(pair, form, "192.0.2.20") == 401
        access.enable_client(made.client.id)
    until(lambda: token_status(pair, form, "192.0.2.21") == 200, "enabled", seconds=20)
    again = pair.sign_in(made.client.id, made.secret).token
    until(lambda: {get(pair, again) for _ in range(10)} == {200}, "taken again")
    assert {get(pair, token) for _ in range(20)} == {401}


def test_who_guesses_is_locked_out_by_its_own_address_behind_a_trusted_proxy(
    pair: Server,
) -> None:
    made = pair.create_client()
    form = {
        "grant_type": "client_credentials",
        "client_id": made.client.id,
        "client_secret": made.secret,
    }
    guesses = [
        token_status(pair, {**form, "client_secret": "x"}, "198.51.100.1") for _ in range(12)
    ]
    assert guesses == [401] * 10 + [429] * 2
    answer = ask(pair, form, "198.51.100.1")
    assert answer.status == 429
    assert json.loads(answer.body)["error"] == "too_many_requests"
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert answer.headers["cache-control"] == "no-store"
    assert {token_status(pair, form, f"198.51.100.{last}") for last in range(2, 8)} == {200}


def test_a_rate_is_shared_by_both_processes(new_server: Callable[..., Server]) -> None:
    server = new_server("sqlite", "--web-processes", "2", "--no-worker", rate_limit="30/h")
    with serving(server):
        caller = server.caller()
        answers = [read(server, caller.token) for _ in range(40)]
    statuses = [answer.status for answer in answers]
    assert statuses.count(200) == 30
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 10
    for answer in answers:
        assert answer.headers["ratelimit-policy"] == '"client";q=30;w=3600'
    for answer in refused:
        wait = answer.headers["retry-after"]
        assert answer.headers["ratelimit"] == f'"client";r=0;t={wait}'
        assert 0 < int(wait) <= 120
