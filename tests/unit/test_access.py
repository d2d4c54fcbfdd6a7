"""Organizations, clients, tokens and grants, on both databases."""

from __future__ import annotations

import base64
import hashlib
import hmac
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

from earmark.access import POLL_SECONDS, Access, NewClient
from earmark.access.cache import Cache
from earmark.access.credentials import Secrets, derive, new_client_id
from earmark.database import Database
from earmark.database import clients as queries
from earmark.database.tables import audit, client, organization, signing_key
from earmark.errors import (
    ForbiddenError,
    InvalidError,
    SettingsError,
    UnauthenticatedError,
)
from earmark.model import DEFAULT_GRANTS, Grant, Principal, now
from forging import START, Hand, forge, key_of, part, segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = b"k" * 32
ISSUER = "https://earmark.example"


on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""For rules that no database can change; the rest runs on both."""


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
        queries.change_client(scope, client_id, **values)


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


class Work:
    """What trying a secret made: statements on both databases, and hashes that were compared."""

    def __init__(self, access: Access, database: Database, patch: pytest.MonkeyPatch) -> None:
        self.access = access
        self.done: list[str | tuple[int, int]] = []
        for engine in {database.engine, database.unsynced.engine}:
            sa.event.listen(engine, "before_cursor_execute", self._execute)
        compare = hmac.compare_digest

        def compared(one: bytes, other: bytes) -> bool:
            self.done.append((len(one), len(other)))
            return compare(one, other)

        patch.setattr(hmac, "compare_digest", compared)

    def _execute(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.done.append(statement)

    def of(self, client_id: str, secret: str) -> list[str | tuple[int, int]]:
        """What it makes to refuse the secret."""
        self.done.clear()
        with pytest.raises(UnauthenticatedError, match="Unknown client or wrong secret"):
            self.access.identify(client_id, secret, address="192.0.2.1")
        return [*self.done]


def test_refusing_costs_the_same_work_whether_the_client_exists_is_disabled_or_rotates(
    database: Database, access: Access, recorder: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    disabled, rotating = new_client(access), new_client(access)
    access.disable_client(disabled.client.id)
    access.rotate_secret(rotating.client.id)
    work = Work(access, database, monkeypatch)
    known = work.of(recorder.client.id, "wrong")
    assert known.count((32, 32)) == 2
    assert sum("FROM client" in str(one) for one in known) == 1
    assert work.of("nobody", "wrong") == known
    assert work.of("a\0b", "wrong") == known
    assert work.of(disabled.client.id, disabled.secret) == known
    assert work.of(rotating.client.id, "wrong") == known


# Signing keys


def test_the_first_signing_key_is_made_on_need_and_published_without_its_private_part(
    database: Database, access: Access
) -> None:
    jwk, receipt_jwk = access.published_keys()
    assert set(receipt_jwk) == {"kty", "crv", "x", "use", "alg", "kid"}
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
def test_a_token_and_client_seen_shortly_before_are_recalled_without_the_database(
    access: Access, token: str, timer: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access.recall(token) is None
    known = access.authenticate(token)
    monkeypatch.setattr(access, "_database", None)
    monkeypatch.setattr(access._revision, "_database", None)
    monkeypatch.setattr(access._keys, "_database", None)
    timer.at += POLL_SECONDS - 0.01
    assert access.recall(token) == known
    timer.at += 0.01
    assert access.recall(token) is None


def test_disabling_a_client_works_within_a_second(
    database: Database, access: Access, recorder: NewClient, token: str, timer: Hand
) -> None:
    access.authenticate(token)
    change(database, recorder.client.id, disabled_at=now())
    timer.at += POLL_SECONDS
    with pytest.raises(UnauthenticatedError, match="cannot call any more"):
        access.authenticate(token)
    with pytest.raises(UnauthenticatedError, match="cannot call any more"):
        access.recall(token)


def test_grants_are_those_of_the_database_now(
    database: Database, access: Access, recorder: NewClient, token: str, timer: Hand
) -> None:
    access.authenticate(token)
    change(database, recorder.client.id, grants=["read"])
    timer.at += POLL_SECONDS
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
