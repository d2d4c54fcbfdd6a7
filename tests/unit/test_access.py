"""Organizations, clients, tokens, grants and rates, on both databases."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

import earmark.access as access_module
from earmark.access import Access, NewClient, Rate, parse_rate
from earmark.access.cache import Cache
from earmark.access.credentials import Secrets, derive, new_client_id
from earmark.access.keys import REREAD_SECONDS
from earmark.access.rate import Limiter
from earmark.database import Database
from earmark.database.tables import audit, client, organization, signing_key
from earmark.errors import (
    ForbiddenError,
    InvalidError,
    RateLimitedError,
    SettingsError,
    UnauthenticatedError,
)
from earmark.model import DEFAULT_GRANTS, Grant, Principal, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = b"k" * 32
ISSUER = "https://earmark.example"
START = 1_700_000_000.0


on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""For rules that no database can change; the rest runs on both."""


class Hand:
    """A clock that stands until it is moved."""

    def __init__(self, at: float = START) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def timer() -> Hand:
    return Hand(100.0)


@pytest.fixture
def make(database: Database, clock: Hand, timer: Hand) -> Callable[..., Access]:
    def build(**changes: Any) -> Access:
        options = {"secret_key": KEY, "issuer": ISSUER, "clock": clock, "timer": timer}
        return Access(database, **{**options, **changes})

    return build


@pytest.fixture
def access(make: Callable[..., Access]) -> Access:
    return make()


@pytest.fixture
def recorder(access: Access) -> NewClient:
    return new_client(access)


@pytest.fixture
def token(access: Access, recorder: NewClient) -> str:
    return access.grant_token(recorder.client.id, recorder.secret).access_token


def new_client(access: Access, **changes: Any) -> NewClient:
    options = {"organization": "Acme", "create_organization": True, "name": "Recorder"}
    return access.create_client(**{**options, **changes})


def change(database: Database, client_id: str, **values: Any) -> None:
    with database.write(None) as scope:
        scope.run(sa.update(client).where(client.c.id == client_id).values(**values))


def key_of(access: Access) -> tuple[str, ECKey]:
    return access._keys.signer()


def forge(
    access: Access,
    token: str,
    claims: dict[str, Any] | None = None,
    header: dict[str, Any] | None = None,
    key: Any = None,
) -> str:
    """The same token with other claims or header, signed by the service's own key."""
    kid, own = key_of(access)
    fields = {**part(token, 1), **(claims or {})}
    head = {"alg": "ES256", "typ": "at+jwt", "kid": kid, **(header or {})}
    kept = {name: value for name, value in fields.items() if value is not None}
    return jwt.encode(
        {name: value for name, value in head.items() if value is not None},
        kept,
        key or own,
        algorithms=["ES256", "HS256"],
        default_type=None,
    )


def part(token: str, index: int) -> dict[str, Any]:
    encoded = token.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


# Clients


def test_a_new_client_gets_every_grant_but_deletion(access: Access) -> None:
    made = new_client(access)
    assert made.client.grants == {Grant.INGEST, Grant.READ, Grant.MANAGE}
    assert made.client.organization_name == "Acme"


def test_clients_are_listed_by_organization_and_age(access: Access) -> None:
    third = new_client(access, organization="Zebra").client
    first = new_client(access, name="one", grants={Grant.DELETE}).client
    second = new_client(access, name="two").client
    assert list(access.clients()) == [first, second, third]


def test_an_unknown_organization_is_refused_with_the_mend(access: Access) -> None:
    with pytest.raises(InvalidError, match=r"no organization .Acme.; .*--create-org"):
        new_client(access, create_organization=False)
    assert access.clients() == []


def test_clients_of_one_organization_share_it(access: Access) -> None:
    first, second = new_client(access), new_client(access, create_organization=False)
    third = new_client(access)
    assert {made.client.organization_id for made in (first, second, third)} == {
        first.client.organization_id
    }


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "\ud800", "x" * 201])
@on_sqlite
def test_names_that_cannot_be_read_are_refused(access: Access, name: str) -> None:
    with pytest.raises(InvalidError) as refused:
        new_client(access, name=name, organization=name, grants=())
    assert [fault.field for fault in refused.value.faults] == ["organization", "name", "grants"]


def test_making_a_client_is_audited_in_its_organization(
    database: Database, access: Access
) -> None:
    made = new_client(access).client
    new_client(access, name="two")
    with database.read(made.organization_id) as scope:
        rows = scope.rows(sa.select(audit).order_by(audit.c.sequence))
    assert [(row.actor, row.action) for row in rows] == [
        ("operator", "organization.create"),
        ("operator", "client.create"),
        ("operator", "client.create"),
    ]
    assert rows[0].subject == str(made.organization_id)
    assert (rows[1].subject, rows[1].detail) == (made.id, {"grants": sorted(DEFAULT_GRANTS)})


def test_a_refused_client_leaves_nothing(database: Database, access: Access) -> None:
    with pytest.raises(InvalidError):
        new_client(access, create_organization=False)
    with database.read(None) as scope:
        assert scope.rows(sa.select(organization)) == []
        assert scope.rows(sa.select(audit)) == []


# Secrets


def test_a_secret_has_256_random_bits_and_a_prefix_that_scanners_can_find() -> None:
    secrets = Secrets(KEY)
    made = {secrets.new() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"earmark_secret_[A-Za-z0-9_-]{43}", secret) for secret in made)


def test_a_client_id_can_be_read_out() -> None:
    assert re.fullmatch(r"client(-[a-z2-7]{4}){4}", new_client_id())
    assert len({new_client_id() for _ in range(100)}) == 100


def test_no_secret_is_stored_in_clear(database: Database, recorder: NewClient) -> None:
    with database.read(None) as scope:
        row = scope.row(sa.select(client))
    assert row is not None
    assert recorder.secret.encode() not in row.secret_hash
    assert row.secret_hash != hashlib.sha256(recorder.secret.encode()).digest()
    assert row.secret_hash == Secrets(KEY).hash(recorder.secret)
    assert not Secrets(b"x" * 32).matches(recorder.secret, row.secret_hash)


def test_each_purpose_has_a_key_of_its_own() -> None:
    derived = [derive(KEY, "one"), derive(KEY, "two"), derive(b"x" * 32, "one")]
    assert len({KEY, *derived}) == 4
    assert {len(key) for key in derived} == {32}


def test_the_client_that_knows_its_secret_is_identified(
    access: Access, recorder: NewClient
) -> None:
    assert access.identify(recorder.client.id, recorder.secret) == recorder.client


@pytest.mark.parametrize("client_id", ["nobody", "", "a\0b", "\ud800", "é", "x" * 10_000])
def test_an_unknown_client_is_not_identified(
    access: Access, recorder: NewClient, client_id: str
) -> None:
    with pytest.raises(UnauthenticatedError, match="Unknown client or wrong secret"):
        access.identify(client_id, recorder.secret)


@pytest.mark.parametrize("secret", ["", "wrong", "\ud800", "a\0b"])
def test_a_wrong_secret_identifies_nobody(
    access: Access, recorder: NewClient, secret: str
) -> None:
    with pytest.raises(UnauthenticatedError, match="Unknown client or wrong secret"):
        access.identify(recorder.client.id, secret)


def test_a_disabled_client_is_not_identified(
    database: Database, access: Access, recorder: NewClient
) -> None:
    change(database, recorder.client.id, disabled_at=now())
    with pytest.raises(UnauthenticatedError, match="Unknown client or wrong secret"):
        access.identify(recorder.client.id, recorder.secret)


@pytest.mark.parametrize("client_id", ["nobody", "a\0b"])
@on_sqlite
def test_an_unknown_client_costs_the_work_of_a_known_one(
    access: Access, monkeypatch: pytest.MonkeyPatch, client_id: str
) -> None:
    compared: list[int] = []
    queried: list[str] = []
    find = access_module.queries.find_client
    matches = Secrets.matches

    def spy_matches(self: Secrets, secret: str, expected: bytes) -> bool:
        compared.append(len(expected))
        return matches(self, secret, expected)

    def spy_find(scope: Any, sought: str) -> Any:
        queried.append(sought)
        return find(scope, sought)

    monkeypatch.setattr(Secrets, "matches", spy_matches)
    monkeypatch.setattr(access_module.queries, "find_client", spy_find)
    with pytest.raises(UnauthenticatedError):
        access.identify(client_id, "secret")
    assert compared == [32]
    assert len(queried) == 1


# Signing keys


def test_the_first_signing_key_is_made_on_need_and_published_without_its_private_part(
    database: Database, access: Access
) -> None:
    (jwk,) = access.published_keys()
    assert set(jwk) == {"kty", "crv", "x", "y", "use", "alg", "kid"}
    assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("EC", "P-256", "ES256", "sig")
    assert jwk["kid"] == ECKey.import_key(dict(jwk)).thumbprint()
    with database.read(None) as scope:
        (row,) = scope.rows(sa.select(signing_key))
    private = key_of(access)[1].as_dict(private=True)["d"]
    assert str(private).encode() not in row.wrapped_private_key


def test_processes_that_start_at_once_use_one_key(
    database: Database, make: Callable[..., Access]
) -> None:
    accesses = [make() for _ in range(4)]
    barrier = threading.Barrier(4)

    def start(access: Access) -> str:
        barrier.wait()
        return key_of(access)[0]

    with ThreadPoolExecutor(4) as pool:
        kids = set(pool.map(start, accesses))
    assert len(kids) == 1
    with database.read(None) as scope:
        assert [row.id for row in scope.rows(sa.select(signing_key))] == list(kids)


def test_another_process_signs_and_verifies_alike(
    make: Callable[..., Access], token: str, recorder: NewClient
) -> None:
    assert make().authenticate(token).client_id == recorder.client.id


def test_a_wrong_secret_key_is_one_clear_sentence(
    make: Callable[..., Access], recorder: NewClient
) -> None:
    other = make(secret_key=b"x" * 32)
    with pytest.raises(SettingsError, match=r"^EARMARK_SECRET_KEY is not the one that .*\.$"):
        other.check()
    with pytest.raises(SettingsError):
        new_client(other)
    assert [listed.id for listed in other.clients()] == [recorder.client.id]


def test_a_wrapped_key_cannot_be_moved_to_another_id(
    database: Database, make: Callable[..., Access], access: Access
) -> None:
    access.check()
    with database.write(None) as scope:
        scope.run(sa.update(signing_key).values(id="another"))
    with pytest.raises(SettingsError):
        make().check()


def rotate(database: Database, access: Access) -> str:
    made = access._keys._make()
    with database.write(None) as scope:
        row = {
            "id": made.id,
            "public_jwk": dict(made.public_jwk),
            "wrapped_private_key": made.wrapped_private_key,
            "created_at": now(),
        }
        scope.insert(signing_key, row)
    return made.id


def test_the_newest_key_signs_and_the_older_ones_still_verify(
    database: Database, access: Access, recorder: NewClient, token: str, timer: Hand
) -> None:
    newer = rotate(database, access)
    timer.at += REREAD_SECONDS
    again = access.grant_token(recorder.client.id, recorder.secret).access_token
    assert part(again, 0)["kid"] == newer
    assert [key["kid"] for key in access.published_keys()] == [newer, part(token, 0)["kid"]]
    access._tokens._verified = Cache(10)
    assert access.authenticate(token) == access.authenticate(again)


def test_a_key_that_another_process_made_is_seen_soon_but_not_sought_for_each_token(
    database: Database, make: Callable[..., Access], access: Access, timer: Hand, token: str
) -> None:
    access.authenticate(token)
    timer.at += REREAD_SECONDS - 0.1
    rotate(database, access)
    kid, key = key_of(fresh := make())
    assert kid != part(token, 0)["kid"]
    newer = forge(fresh, token, key=key)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(newer)
    timer.at += 0.1
    assert access.authenticate(newer).client_id == part(token, 1)["sub"]


# Tokens


@on_sqlite
def test_a_token_is_an_at_jwt_of_rfc_9068(access: Access, recorder: NewClient, token: str) -> None:
    header, claims = part(token, 0), part(token, 1)
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": key_of(access)[0]}
    assert claims.pop("jti")
    assert claims == {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": recorder.client.id,
        "client_id": recorder.client.id,
        "org": str(recorder.client.organization_id),
        "scope": "acxapi",
        "iat": int(START),
        "exp": int(START) + 3600,
    }


@on_sqlite
def test_tokens_differ(access: Access, recorder: NewClient, token: str) -> None:
    again = access.grant_token(recorder.client.id, recorder.secret).access_token
    assert part(token, 1)["jti"] != part(again, 1)["jti"]


@pytest.mark.parametrize("scope", ["", "acxapi", " acxapi  acxapi "])
@on_sqlite
def test_the_one_scope_is_granted(access: Access, recorder: NewClient, scope: str) -> None:
    grant = access.grant_token(recorder.client.id, recorder.secret, scope)
    assert (grant.scope, grant.expires_in) == ("acxapi", 3600)


@on_sqlite
def test_another_scope_is_refused_after_the_client_is_judged(
    access: Access, recorder: NewClient
) -> None:
    with pytest.raises(InvalidError, match="scope: The only scope is acxapi"):
        access.grant_token(recorder.client.id, recorder.secret, "acxapi admin")
    with pytest.raises(UnauthenticatedError):
        access.grant_token(recorder.client.id, "wrong", "acxapi admin")


def test_a_token_names_its_principal(access: Access, recorder: NewClient, token: str) -> None:
    expected = Principal(recorder.client.organization_id, recorder.client.id, DEFAULT_GRANTS)
    assert access.authenticate(token) == expected
    assert access.authenticate(token) == expected


@on_sqlite
def test_a_slash_at_the_end_of_the_issuer_makes_no_difference(
    make: Callable[..., Access], token: str
) -> None:
    assert make(issuer=ISSUER + "/").authenticate(token)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "https://other.example"},
        {"aud": [ISSUER]},
        {"aud": None},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": int(START)},
        {"iat": None},
        {"iat": "now"},
        {"iat": int(START) + 61},
        {"client_id": None},
        {"client_id": "nobody"},
        {"org": None},
        {"org": "Acme"},
        {"org": "00000000-0000-0000-0000-000000000000"},
        {"scope": None},
    ],
)
@on_sqlite
def test_a_claim_that_does_not_hold_is_refused(
    access: Access, token: str, claims: dict[str, Any]
) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        access.authenticate(forge(access, token, claims))
    assert refused.value.presented


@on_sqlite
def test_a_clock_that_runs_a_minute_ahead_is_borne_with(access: Access, token: str) -> None:
    assert access.authenticate(forge(access, token, {"iat": int(START) + 60}))


@pytest.mark.parametrize("typ", [None, "JWT", "at+JWT2", "dpop+jwt"])
@on_sqlite
def test_another_type_of_jwt_is_refused(access: Access, token: str, typ: str | None) -> None:
    assert access.authenticate(forge(access, token, {"jti": "other"}))
    with pytest.raises(UnauthenticatedError):
        access.authenticate(forge(access, token, header={"typ": typ}))


@pytest.mark.parametrize("header", [{"kid": None}, {"kid": "unknown"}, {"cty": "JWT"}])
@on_sqlite
def test_another_header_is_refused(access: Access, token: str, header: dict[str, Any]) -> None:
    with pytest.raises(UnauthenticatedError):
        access.authenticate(forge(access, token, header=header))


@on_sqlite
def test_a_signature_by_another_key_is_refused(access: Access, token: str) -> None:
    with pytest.raises(UnauthenticatedError):
        access.authenticate(forge(access, token, key=ECKey.generate_key("P-256")))


@on_sqlite
def test_the_public_key_is_no_shared_secret(access: Access, token: str) -> None:
    public = key_of(access)[1].as_pem(private=False)
    raw = OctKey.import_key(base64.urlsafe_b64encode(public).decode())
    with pytest.raises(UnauthenticatedError):
        access.authenticate(forge(access, token, header={"alg": "HS256"}, key=raw))


@on_sqlite
def test_an_unsigned_token_is_refused(access: Access, token: str) -> None:
    _, payload, signature = token.split(".")
    head = {"alg": "none", "typ": "at+jwt", "kid": key_of(access)[0]}
    for end in ("", signature):
        with pytest.raises(UnauthenticatedError):
            access.authenticate(f"{segment(head)}.{payload}.{end}")


def mutilations(token: str) -> Iterator[str]:
    head, payload, signature = token.split(".")
    yield from ("", ".", "..", "...", head, f"{head}.", f"{head}.{payload}", token + ".x")
    yield from (f"{head}.{payload}.{signature[:-8]}", f"{head}.{payload}.", token[:-4] + "AAAA")
    yield from (f"{head}.é.{signature}", f"{head}.\ud800.{signature}", f"é.{payload}.x", "\0")
    for header in ([], ["alg"], "alg", None, 1, {"alg": "ES256", "typ": "at+jwt", "kid": ["a"]}):
        yield f"{segment(header)}.{payload}.{signature}"
    for levels in (384, 2400):
        deep = base64.urlsafe_b64encode(b"[" * levels).decode()
        yield f"{deep}.{payload}.{signature}"
    yield from (f"{'x' * 100_000}.{payload}", token + "x" * 4096)


@on_sqlite
def test_what_is_no_token_is_refused(access: Access, token: str) -> None:
    for hostile in mutilations(token):
        with pytest.raises(UnauthenticatedError):
            access.authenticate(hostile)


@given(hostile=st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_nothing_a_caller_sends_as_a_token_breaks_the_service(hostile: str) -> None:
    access = Access(_untouched(), secret_key=KEY, issuer=ISSUER)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(hostile)


def _untouched() -> Database:
    return Database("postgresql://nobody@127.0.0.1:1/none")


@on_sqlite
def test_a_token_expires(access: Access, clock: Hand, token: str) -> None:
    clock.at += 3599
    assert access.authenticate(token)
    clock.at += 1
    assert access.recall(token) is None
    with pytest.raises(UnauthenticatedError, match="expired"):
        access.authenticate(token)


@on_sqlite
def test_an_expired_token_is_forgotten(access: Access, clock: Hand, token: str) -> None:
    access.authenticate(token)
    assert len(access._tokens._verified) == 1
    clock.at += 3600
    access.recall(token)
    assert len(access._tokens._verified) == 0


@on_sqlite
def test_a_token_without_the_scope_is_forbidden(access: Access, token: str) -> None:
    with pytest.raises(ForbiddenError, match="acxapi"):
        access.authenticate(forge(access, token, {"scope": "other"}))


@on_sqlite
def test_the_cache_holds_no_token(access: Access, token: str) -> None:
    access.authenticate(token)
    cached = repr(access._tokens._verified._values)
    assert not any(piece in cached for piece in token.split("."))
    assert repr(hashlib.sha256(token.encode()).digest()) in cached


@on_sqlite
def test_a_token_is_verified_once(
    access: Access, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    access.authenticate(token)
    monkeypatch.setattr(jwt, "decode", None)
    assert access.authenticate(token)


@on_sqlite
def test_a_token_and_client_seen_within_a_second_are_recalled_without_the_database(
    access: Access, token: str, timer: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access.recall(token) is None
    known = access.authenticate(token)
    monkeypatch.setattr(access, "_database", None)
    timer.at += 0.99
    assert access.recall(token) == known
    timer.at += 0.01
    assert access.recall(token) is None


def test_disabling_a_client_works_within_a_second(
    database: Database, access: Access, recorder: NewClient, token: str, timer: Hand
) -> None:
    access.authenticate(token)
    change(database, recorder.client.id, disabled_at=now())
    timer.at += 1
    with pytest.raises(UnauthenticatedError, match="cannot call any more"):
        access.authenticate(token)
    with pytest.raises(UnauthenticatedError, match="cannot call any more"):
        access.recall(token)


def test_grants_are_those_of_the_database_now(
    database: Database, access: Access, recorder: NewClient, token: str, timer: Hand
) -> None:
    access.authenticate(token)
    change(database, recorder.client.id, grants=["read"])
    timer.at += 1
    assert access.authenticate(token).grants == {Grant.READ}


@on_sqlite
def test_a_grant_that_is_not_held_is_named(access: Access, token: str) -> None:
    principal = access.authenticate(token)
    access.require(principal, Grant.INGEST)
    with pytest.raises(ForbiddenError, match='"delete"'):
        access.require(principal, Grant.DELETE)


def test_many_threads_authenticate_at_once(
    make: Callable[..., Access], recorder: NewClient, token: str
) -> None:
    access = make()
    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(lambda _: access.authenticate(token).client_id, range(64)))
    assert seen == {recorder.client.id}


def test_a_cache_drops_what_was_put_longest_ago() -> None:
    cache: Cache[str, int] = Cache(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        cache.put(key, value)
    assert (len(cache), cache.get("a"), cache.get("b"), cache.get("c")) == (2, 3, None, 4)
    cache.forget("a")
    cache.forget("a")
    assert (len(cache), cache.get("a")) == (1, None)


# Rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50/s", Rate(50, 1)),
        (" 3000/min ", Rate(3000, 60)),
        ("9000/h", Rate(9000, 3600)),
        ("100/10s", Rate(100, 10)),
        ("1/2min", Rate(1, 120)),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "50", "/s", "0/s", "5/0s", "-1/s", "1.5/s", "5/day", "5 / s", "\u0665/s", "5/s\nx"],
)
def test_what_is_no_rate_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate; write one like 50/s, 3000/min"):
        parse_rate(text)


def test_processes_divide_a_rate() -> None:
    assert Rate(50, 1).share(2) == Rate(25, 1)
    assert Rate(50, 1).share(3) == Rate(16, 1)
    assert Rate(1, 60).share(4) == Rate(1, 60)


@on_sqlite
def test_no_rate_limits_nobody(access: Access) -> None:
    assert access.charge("client") is None


@on_sqlite
def test_a_client_may_spend_its_whole_rate_at_once_and_then_waits(
    make: Callable[..., Access], timer: Hand
) -> None:
    access = make(rate_limit=Rate(5, 10))
    states = [access.charge("client") for _ in range(5)]
    assert [state.remaining for state in states if state] == [4, 3, 2, 1, 0]
    assert {state.limit for state in states if state} == {Rate(5, 10)}
    with pytest.raises(RateLimitedError) as refused:
        access.charge("client")
    assert refused.value.retry_after_seconds == pytest.approx(2.0)
    timer.at += 2.0
    state = access.charge("client")
    assert state is not None
    assert (state.remaining, state.reset_seconds) == (0, pytest.approx(2.0))


def test_a_refused_request_is_not_counted(timer: Hand) -> None:
    limiter = Limiter(Rate(1, 10), timer=timer)
    limiter.charge("client")
    for _ in range(3):
        timer.at += 3
        with pytest.raises(RateLimitedError):
            limiter.charge("client")
    timer.at += 1
    assert limiter.charge("client").remaining == 0


def test_reset_is_when_one_more_request_would_be_taken(timer: Hand) -> None:
    limiter = Limiter(Rate(4, 8), timer=timer)
    limiter.charge("client")
    timer.at += 0.5
    state = limiter.charge("client")
    assert (state.remaining, state.reset_seconds) == (2, pytest.approx(1.5))


def test_a_quiet_client_has_its_whole_rate_and_no_more(timer: Hand) -> None:
    limiter = Limiter(Rate(2, 1), timer=timer)
    limiter.charge("client")
    timer.at += 1_000
    assert limiter.charge("client").remaining == 1


def test_clients_do_not_spend_each_others_rate(timer: Hand) -> None:
    limiter = Limiter(Rate(1, 1), timer=timer)
    assert limiter.charge("one").remaining == 0
    assert limiter.charge("other").remaining == 0


@given(count=st.integers(1, 10_000), seconds=st.integers(1, 3600), start=st.floats(0, 1e9))
def test_rounding_never_costs_a_request(count: int, seconds: int, start: float) -> None:
    limiter = Limiter(Rate(count, seconds), timer=Hand(start))
    spent = min(count, 200)
    remaining = [limiter.charge("c").remaining for _ in range(spent)]
    assert remaining == list(range(count - 1, count - spent - 1, -1))


@given(count=st.integers(1, 500), seconds=st.integers(1, 3600), start=st.floats(0, 1e8))
def test_a_client_that_waits_as_told_is_taken(count: int, seconds: int, start: float) -> None:
    timer = Hand(start)
    limiter = Limiter(Rate(count, seconds), timer=timer)
    for _ in range(count):
        limiter.charge("c")
    with pytest.raises(RateLimitedError) as refused:
        limiter.charge("c")
    timer.at += refused.value.retry_after_seconds
    assert limiter.charge("c").remaining == 0


def test_the_table_of_clients_is_bounded(timer: Hand) -> None:
    limiter = Limiter(Rate(1, 10), timer=timer, max_clients=2)
    for name in ("a", "b", "c"):
        limiter.charge(name)
    assert len(limiter._used) == 2
    assert limiter.charge("a").remaining == 0
    with pytest.raises(RateLimitedError):
        limiter.charge("c")


def test_a_client_waits_no_longer_than_for_its_next_request(timer: Hand) -> None:
    limiter = Limiter(Rate(1, 10), timer=timer)
    limiter.charge("client")
    timer.at += 7
    with pytest.raises(RateLimitedError) as refused:
        limiter.charge("client")
    assert refused.value.retry_after_seconds == pytest.approx(3.0)
