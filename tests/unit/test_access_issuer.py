"""Tokens of another issuer: a small one, made with joserfc for these tests, on 127.0.0.1.

It has what a real one shows to those who verify its tokens: discovery, keys, rotation, outages.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from earmark.access import POLL_SECONDS, Access, Oidc
from earmark.access.issuer import (
    AGAIN_SECONDS,
    CLOCK_SKEW_SECONDS,
    FRESH_SECONDS,
    MAX_DOCUMENT_BYTES,
    OUTAGE_SECONDS,
    PATH,
)
from earmark.app.parts import Parts
from earmark.config import Settings, load
from earmark.errors import SettingsError, UnauthenticatedError, UnavailableError
from earmark.model import Grant
from forging import Hand, encoded, segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from earmark.access import NewClient
    from earmark.database import Database

AUDIENCE = "https://earmark.example"
NAME = "recorder@idp"

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


class Provider:
    """The other issuer.

    Attributes:
        keys: its private keys by id; the last one signs.
        changes: to its discovery document.
        asked: the paths that were asked for.
        answers: whether it does; else it closes the connection.
    """

    def __init__(self, keys: dict[str, Any]) -> None:
        self.keys = dict(keys)
        self.changes: dict[str, Any] = {}
        self.extra: list[Any] = []
        self.padding = ""
        self.status = 200
        self.asked: list[str] = []
        self.answers = True
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self.server.server_port}/tenant"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def document(self, path: str) -> Any:
        if path.endswith(PATH):
            keys = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
            return {**keys, "padding": self.padding, **self.changes}
        public = [{**key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]
        return {"keys": [*self.extra, *public]}

    def token(self, at: float, header: dict[str, Any] | None = None, **claims: Any) -> str:
        kid, key = [*self.keys.items()][-1]
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        head = {"alg": algorithm, "typ": "at+jwt", "kid": kid, **(header or {})}
        fields = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "client_id": NAME,
            "iat": int(at),
            "exp": int(at) + 600,
            **claims,
        }
        return jwt.encode(
            {name: value for name, value in head.items() if value is not None},
            {name: value for name, value in fields.items() if value is not None},
            key,
            algorithms=["RS256", "ES256"],
            default_type=None,
        )


def _handler(provider: Provider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append(self.path)
            if not provider.answers:
                return
            body = json.dumps(provider.document(self.path)).encode()
            self.send_response(provider.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


TWICE = '{"alg":"none","alg":"RS256","kid":"one"}'
RSA = RSAKey.generate_key(2048)
EC = ECKey.generate_key("P-256")


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider({"one": RSA})
    yield made
    made.close()


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def timer() -> Hand:
    return Hand(100.0)


@pytest.fixture
def make(
    database: Database, provider: Provider, clock: Hand, timer: Hand
) -> Callable[..., Access]:
    def build(**changes: Any) -> Access:
        return Access(
            database,
            secret_key=b"k" * 32,
            issuer=AUDIENCE,
            oidc=Oidc(provider.issuer, **changes),
            clock=clock,
            timer=timer,
        )

    return build


@pytest.fixture
def access(make: Callable[..., Access]) -> Access:
    return make()


@pytest.fixture
def recorder(access: Access) -> NewClient:
    return access.create_client(
        organization="Acme",
        create_organization=True,
        name="Recorder",
        grants={Grant.INGEST},
        external_id=NAME,
    )


def test_a_token_of_the_issuer_is_the_client_that_is_bound_to_it(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand
) -> None:
    token = provider.token(clock.at, scope="whatever")
    assert access.recall(token) is None
    principal = access.authenticate(token)
    assert principal.client_id == recorder.client.id
    assert principal.organization_id == recorder.client.organization_id
    assert principal.grants == {Grant.INGEST}
    assert access.recall(token) == principal
    assert provider.asked == [f"/tenant{PATH}", "/tenant/keys"]
    own = access.grant_token(recorder.client.id, recorder.secret).access_token
    assert access.authenticate(own) == principal


@on_sqlite
@pytest.mark.parametrize(
    ("audience", "kind"),
    [
        (AUDIENCE, None),
        (["other", AUDIENCE], "JWT"),
        ([AUDIENCE], "at+jwt"),
        (AUDIENCE, "application/at+jwt"),
    ],
)
@pytest.mark.usefixtures("recorder")
def test_the_forms_that_issuers_write_are_taken(
    access: Access, provider: Provider, clock: Hand, audience: Any, kind: str | None
) -> None:
    token = provider.token(clock.at + CLOCK_SKEW_SECONDS, {"typ": kind}, aud=audience)
    assert access.authenticate(token)


@on_sqlite
def test_a_key_need_not_be_named_where_there_is_one(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    assert access.authenticate(provider.token(clock.at, {"kid": None}))
    provider.keys["two"] = RSAKey.generate_key(2048)
    timer.at += FRESH_SECONDS
    with pytest.raises(UnauthenticatedError):
        access.authenticate(provider.token(clock.at, {"kid": None}, jti="x"))


@on_sqlite
@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example"},
        {"aud": None},
        {"aud": []},
        {"aud": f"{AUDIENCE}/"},
        {"exp": None},
        {"exp": 1},
        {"exp": True},
        {"exp": "tomorrow"},
        {"exp": 1e400},
        {"iat": None},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
        {"client_id": None},
        {"client_id": ""},
        {"client_id": ["recorder@idp"]},
        {"client_id": "nobody@idp"},
        {"client_id": "a\0b"},
    ],
)
def test_a_claim_that_does_not_hold_is_refused(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand, claims: dict[str, Any]
) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        access.authenticate(provider.token(clock.at, **claims))
    assert refused.value.presented


@on_sqlite
@pytest.mark.parametrize(
    "header",
    [
        {"typ": "dpop+jwt"},
        {"kid": "unknown"},
        {"kid": 1},
        {"crit": ["exp"], "exp": 1},
        {"alg": "ES256"},
    ],
)
def test_a_header_that_does_not_hold_is_refused(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand, header: dict[str, Any]
) -> None:
    head, payload, signature = provider.token(clock.at).split(".")
    forged = segment({"alg": "RS256", "typ": "at+jwt", "kid": "one", **header})
    with pytest.raises(UnauthenticatedError):
        access.authenticate(f"{forged}.{payload}.{signature}")
    assert access.authenticate(f"{head}.{payload}.{signature}")


@on_sqlite
def test_signatures_that_are_not_the_issuers_are_refused(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand
) -> None:
    good = provider.token(clock.at)
    _, payload, signature = good.split(".")
    assert access.authenticate(good)
    secret = OctKey.import_key(encoded(RSA.as_der(private=False)))
    head = {"alg": "HS256", "typ": "at+jwt", "kid": "one"}
    hostile = [
        jwt.encode(head, {"iss": provider.issuer}, secret, algorithms=["HS256"]),
        f"{segment({'alg': 'none', 'typ': 'at+jwt', 'kid': 'one'})}.{payload}.",
        f"{segment({'alg': 'RS256', 'kid': 'one'})}.{payload}.{signature}",
        f"{segment('{' + chr(34) * 2)}.{payload}.{signature}",
        f"{segment([1])}.{payload}.{signature}",
        f"{segment('[' * 3000)}.{payload}.{signature}",
        f"{segment(TWICE)}.{payload}.{signature}",
        good[:-8] + "AAAAAAAA",
        good + "A" * 9000,
        "x",
    ]
    provider.keys = {"one": RSAKey.generate_key(2048)}
    hostile.append(provider.token(clock.at))
    for token in hostile:
        with pytest.raises(UnauthenticatedError):
            access.authenticate(token)


def test_a_disabled_client_ends_for_the_issuers_tokens_too(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    token = provider.token(clock.at)
    assert access.authenticate(token)
    access.disable_client(recorder.client.id)
    timer.at += POLL_SECONDS
    for _ in range(2):
        with pytest.raises(UnauthenticatedError, match="cannot call here"):
            access.authenticate(token)
    with pytest.raises(UnauthenticatedError):
        access.recall(token)
    access.enable_client(recorder.client.id)
    clock.at += 1
    with pytest.raises(UnauthenticatedError):
        access.authenticate(token)
    assert access.authenticate(provider.token(clock.at))


@on_sqlite
def test_an_expired_token_is_refused_and_not_recalled(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand
) -> None:
    token = provider.token(clock.at)
    assert access.authenticate(token)
    clock.at += 600
    assert access.recall(token) is None
    with pytest.raises(UnauthenticatedError, match="expired"):
        access.authenticate(token)


@on_sqlite
def test_a_new_key_is_found_and_a_withdrawn_one_ends(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    old = provider.token(clock.at)
    assert access.authenticate(old)
    provider.keys["two"] = EC
    new = provider.token(clock.at)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(new)  # it was asked a moment ago
    timer.at += AGAIN_SECONDS
    assert access.authenticate(new)
    assert access.authenticate(old)
    del provider.keys["one"]
    timer.at += FRESH_SECONDS
    assert access.recall(old) is None
    assert access.authenticate(new)
    assert access.recall(old) is None
    with pytest.raises(UnauthenticatedError):
        access.authenticate(old)


@on_sqlite
def test_invented_keys_cause_few_requests(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    _, payload, signature = provider.token(clock.at).split(".")
    for number in range(50):
        forged = segment({"alg": "RS256", "kid": f"invented-{number}"})
        with pytest.raises(UnauthenticatedError):
            access.authenticate(f"{forged}.{payload}.{signature}")
        timer.at += AGAIN_SECONDS / 25
    assert len(provider.asked) == 4


@on_sqlite
def test_known_keys_outlive_an_outage_of_the_issuer(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    assert access.authenticate(provider.token(clock.at))
    provider.answers = False
    for step in (FRESH_SECONDS, OUTAGE_SECONDS / 2):
        timer.at += step
        token = provider.token(clock.at, jti=str(step))
        assert access.authenticate(token)
        assert access.recall(token)
    timer.at += OUTAGE_SECONDS / 2
    assert access.recall(token) is None
    with pytest.raises(UnavailableError, match="cannot be asked for its keys"):
        access.authenticate(token)
    provider.answers = True
    timer.at += AGAIN_SECONDS
    assert access.authenticate(token)


@on_sqlite
def test_before_anything_is_known_an_outage_is_told_and_our_own_tokens_count(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand
) -> None:
    provider.answers = False
    token = provider.token(clock.at)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            access.authenticate(token)
    assert len(provider.asked) == 1
    own = access.grant_token(recorder.client.id, recorder.secret).access_token
    assert access.authenticate(own)


@on_sqlite
@pytest.mark.parametrize(
    "spoiled",
    [
        {"changes": {"issuer": "http://other.example"}},
        {"changes": {"jwks_uri": "ftp://127.0.0.1/keys"}},
        {"changes": {"jwks_uri": "http://[/keys"}},
        {"changes": {"jwks_uri": None}},
        {"padding": "x" * MAX_DOCUMENT_BYTES},
        {"status": 302},
        {"status": 500},
        {"document": lambda _: []},
        {"keys": {}},
    ],
    ids=[
        *("issuer", "scheme of keys", "address of keys", "no keys named"),
        *("too long", "redirect", "fault", "a list", "no keys"),
    ],
)
def test_documents_that_cannot_be_trusted_are_not(
    access: Access,
    provider: Provider,
    recorder: NewClient,
    clock: Hand,
    spoiled: dict[str, Any],
) -> None:
    token = provider.token(clock.at)
    vars(provider).update(spoiled)
    with pytest.raises(UnavailableError):
        access.authenticate(token)


@on_sqlite
def test_keys_that_are_of_no_use_do_not_shut_out_the_others(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand
) -> None:
    provider.extra = [
        "x",
        {"kty": "oct", "k": encoded(b"x" * 32), "kid": "shared"},
        {"kty": "RSA", "kid": "damaged", "n": "!"},
        {"kty": "RSA", "kid": "half"},
        {**EC.as_dict(private=False), "kid": "for encryption", "use": "enc"},
    ]
    assert access.authenticate(provider.token(clock.at))
    provider.keys = {"for encryption": EC}
    with pytest.raises(UnauthenticatedError):
        access.authenticate(provider.token(clock.at))


@on_sqlite
def test_many_threads_that_come_first_ask_once(
    access: Access, provider: Provider, recorder: NewClient, clock: Hand
) -> None:
    barrier, found = threading.Barrier(8), []
    document = provider.document

    def slow(path: str) -> Any:
        time.sleep(0.05)
        return document(path)

    provider.document = slow  # type: ignore[method-assign]

    def call(number: int) -> None:
        barrier.wait()
        found.append(access.authenticate(provider.token(clock.at, jti=str(number))))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(provider.asked) == 2


@on_sqlite
def test_claim_and_audience_are_settings(
    make: Callable[..., Access], provider: Provider, recorder: NewClient, clock: Hand
) -> None:
    access = make(audience="api://earmark", claim="azp")
    assert access.authenticate(provider.token(clock.at, aud="api://earmark", azp=NAME))
    with pytest.raises(UnauthenticatedError):
        access.authenticate(provider.token(clock.at, azp=NAME))


def test_the_settings_reach_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"oidc_issuer": "https://idp.example/t/", "oidc_client_claim": "azp"}
    parts = Parts(Settings(data=tmp_path, public_url=AUDIENCE, **kept))  # type: ignore[arg-type]
    external: Any = parts.access._external
    assert (external._issuer, external._audience, external._claim) == (
        "https://idp.example/t/",
        AUDIENCE,
        "azp",
    )
    parts.close()
    monkeypatch.setenv("EARMARK_OIDC_ISSUER", "idp")
    with pytest.raises(SettingsError, match="EARMARK_OIDC_ISSUER"):
        load()
