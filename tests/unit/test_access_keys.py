"""Signing keys take turns, and clients' secrets do, without anybody being refused meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from earmark.access import POLL_SECONDS, PUBLISH_SECONDS, Access, KeyState, NewClient
from earmark.access.keys import CLOCKS_SECONDS, LIFETIME_SECONDS
from earmark.access.revision import Revision
from earmark.database.tables import access_revision, audit, signing_key
from earmark.errors import InvalidError, SettingsError, UnauthenticatedError
from forging import Hand, forge, key_of, part

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.database import Database

KEY = b"k" * 32
DAY = 86_400.0

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def timer() -> Hand:
    return Hand(100.0)


@pytest.fixture
def make(database: Database, clock: Hand, timer: Hand) -> Callable[..., Access]:
    """Makes what one process has; all of them share the database."""

    def build(**changes: Any) -> Access:
        options = {"secret_key": KEY, "issuer": "https://e.example", "clock": clock}
        return Access(database, **{**options, "timer": timer, **changes})

    return build


@pytest.fixture
def access(make: Callable[..., Access]) -> Access:
    return make()


@pytest.fixture
def recorder(access: Access) -> NewClient:
    return access.create_client(organization="Acme", create_organization=True, name="Recorder")


def token_of(access: Access, made: NewClient) -> str:
    return access.grant_token(made.client.id, made.secret).access_token


def states(access: Access) -> list[KeyState]:
    return [key.state for key in access.signing_keys()]


def actions(database: Database) -> list[str]:
    with database.read(None) as scope:
        return [row.action for row in scope.rows(sa.select(audit).order_by(audit.c.sequence))]


# Keys


def test_the_next_key_is_published_before_it_signs_and_the_old_one_verifies_until_its_tokens_end(
    make: Callable[..., Access], recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    """Two processes and a verifier that keeps the key set for as long as it may."""
    one, other = make(), make()
    first = part(token_of(one, recorder), 0)["kid"]
    made = one.rotate_key()
    assert states(one) == [KeyState.NEXT, KeyState.ACTIVE]
    timer.at += POLL_SECONDS
    (receipts,) = other.receipts.published()
    assert [key["kid"] for key in other.published_keys()] == [made.id, first, receipts["kid"]]
    for access in (one, other):
        assert part(token_of(access, recorder), 0)["kid"] == first
    clock.at += PUBLISH_SECONDS - 1
    last = token_of(other, recorder)
    assert part(last, 0)["kid"] == first
    clock.at += 1
    assert states(one) == [KeyState.ACTIVE, KeyState.RETIRED]
    for access in (one, other):
        new = token_of(access, recorder)
        assert part(new, 0)["kid"] == made.id
        for verifier in (one, other, make()):
            assert verifier.authenticate(new)
            assert verifier.authenticate(last)
    clock.at += LIFETIME_SECONDS - 2
    assert make().authenticate(last)
    clock.at += CLOCKS_SECONDS + 2
    assert states(one) == [KeyState.ACTIVE, KeyState.ENDED]
    assert [key["kid"] for key in other.published_keys()] == [made.id, receipts["kid"]]


def test_a_process_whose_clock_is_early_is_believed_by_those_that_are_late(
    make: Callable[..., Access], recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    early, late = make(clock=Hand(clock.at + CLOCKS_SECONDS / 2)), make()
    late.rotate_key(publish_seconds=30)
    timer.at += POLL_SECONDS
    token = token_of(early, recorder)
    assert part(token, 0)["kid"] != key_of(late)[0]
    assert late.authenticate(token)


def test_a_first_key_made_by_an_early_clock_signs_at_once(
    make: Callable[..., Access], clock: Hand
) -> None:
    make(clock=Hand(clock.at + 60)).check()
    assert states(make()) == [KeyState.ACTIVE]


def test_a_key_that_ended_is_removed_by_the_next_rotation_and_verifies_nothing(
    database: Database, access: Access, recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    token = token_of(access, recorder)
    kid, key = key_of(access)
    access.rotate_key()
    clock.at += PUBLISH_SECONDS + LIFETIME_SECONDS + CLOCKS_SECONDS
    timer.at += POLL_SECONDS
    claims = {"iat": int(clock.at), "exp": int(clock.at) + 60}
    with pytest.raises(UnauthenticatedError):
        access.authenticate(forge(access, token, claims, {"kid": kid}, key))
    access.rotate_key()
    with database.read(None) as scope:
        assert kid not in [row.id for row in scope.rows(sa.select(signing_key))]


def test_one_key_waits_at_a_time(access: Access, clock: Hand, timer: Hand) -> None:
    access.rotate_key()
    with pytest.raises(InvalidError, match="waits already"):
        access.rotate_key()
    clock.at += PUBLISH_SECONDS
    timer.at += POLL_SECONDS
    access.rotate_key()
    assert states(access) == [KeyState.NEXT, KeyState.ACTIVE, KeyState.RETIRED]


@on_sqlite
def test_a_key_is_not_published_too_shortly(access: Access) -> None:
    with pytest.raises(InvalidError, match="at least 2 s before"):
        access.rotate_key(publish_seconds=1)


def test_a_key_made_with_another_secret_key_is_refused(
    make: Callable[..., Access], access: Access
) -> None:
    access.check()
    with pytest.raises(SettingsError, match="EARMARK_SECRET_KEY"):
        make(secret_key=b"x" * 32).rotate_key()


def test_a_revoked_key_ends_in_every_process_at_once_and_another_signs(
    make: Callable[..., Access], recorder: NewClient, timer: Hand
) -> None:
    one, other = make(), make()
    token = token_of(one, recorder)
    one.rotate_key()
    waiting = one.signing_keys()[0].id
    timer.at += POLL_SECONDS
    assert other.authenticate(token)
    assert other.recall(token)
    one.revoke_key(key_of(one)[0])
    timer.at += POLL_SECONDS
    assert other.recall(token) is None
    for access in (one, other):
        with pytest.raises(UnauthenticatedError):
            access.authenticate(token)
    # Another client's request has brought the memory up to date: still it is refused.
    assert other.authenticate(token_of(other, recorder))
    with pytest.raises(UnauthenticatedError):
        other.authenticate(token)
    assert states(one) == [KeyState.ACTIVE]
    assert one.signing_keys()[0].id != waiting


def test_nothing_is_recalled_by_keys_that_are_older_than_what_is_known_of_its_client(
    make: Callable[..., Access], recorder: NewClient, timer: Hand
) -> None:
    one, other = make(), make()
    token = token_of(one, recorder)
    assert other.authenticate(token)
    one.revoke_key(key_of(one)[0])
    timer.at += POLL_SECONDS
    # As a request finds it that comes between the two looks of another one.
    assert other._client(recorder.client.id)
    assert other.recall(token) is None
    with pytest.raises(UnauthenticatedError):
        other.authenticate(token)


def test_a_retired_key_may_be_revoked_alone(
    access: Access, recorder: NewClient, clock: Hand, timer: Hand
) -> None:
    token = token_of(access, recorder)
    old = key_of(access)[0]
    access.rotate_key()
    clock.at += PUBLISH_SECONDS
    timer.at += POLL_SECONDS
    new = token_of(access, recorder)
    access.revoke_key(old)
    assert access.authenticate(new)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(token)
    with pytest.raises(InvalidError, match="no key nothing"):
        access.revoke_key("nothing")


def test_keys_rotate_by_themselves_when_they_are_old(
    access: Access, clock: Hand, timer: Hand
) -> None:
    access.check()
    for _ in range(2):
        access.tidy(key_age_seconds=DAY)
        assert states(access) == [KeyState.ACTIVE]
        clock.at += DAY / 2
    access.tidy(key_age_seconds=0)
    assert states(access) == [KeyState.ACTIVE]
    for _ in range(2):
        access.tidy(key_age_seconds=DAY)
        assert states(access) == [KeyState.NEXT, KeyState.ACTIVE]


def test_of_two_workers_one_rotates(
    make: Callable[..., Access], clock: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make(), make()
    one.check()
    clock.at += DAY
    listed = other.signing_keys()
    one.tidy(key_age_seconds=DAY)
    monkeypatch.setattr(other._keys, "listed", lambda: listed)
    other.tidy(key_age_seconds=DAY)
    assert states(make()) == [KeyState.NEXT, KeyState.ACTIVE]


def test_changes_of_keys_are_audited_for_the_service(
    database: Database, access: Access, timer: Hand
) -> None:
    access.rotate_key()
    access.revoke_key(key_of(access)[0])
    assert actions(database) == ["key.rotate", "key.revoke"]


# Secrets


def test_two_secrets_count_while_a_rotation_is_under_way(
    database: Database, access: Access, recorder: NewClient
) -> None:
    client_id = recorder.client.id
    new = access.rotate_secret(client_id)
    assert new.secret != recorder.secret
    for secret in (recorder.secret, new.secret):
        assert access.identify(client_id, secret).rotating
    access.finish_rotation(client_id)
    assert not access.identify(client_id, new.secret).rotating
    with pytest.raises(UnauthenticatedError):
        access.identify(client_id, recorder.secret)
    assert actions(database)[-2:] == ["client.rotate", "client.rotate_finish"]


def test_an_old_secret_ends_by_itself_after_the_time_given(
    access: Access, recorder: NewClient, clock: Hand
) -> None:
    client_id = recorder.client.id
    new = access.rotate_secret(client_id, keep_seconds=60)
    clock.at += 59
    assert access.identify(client_id, recorder.secret)
    clock.at += 1
    with pytest.raises(UnauthenticatedError):
        access.identify(client_id, recorder.secret)
    with pytest.raises(InvalidError, match="No rotation is under way"):
        access.finish_rotation(client_id)
    newest = access.rotate_secret(client_id)
    for secret in (new.secret, newest.secret):
        assert access.identify(client_id, secret)


def test_a_third_secret_waits_for_the_first_to_end(access: Access, recorder: NewClient) -> None:
    access.rotate_secret(recorder.client.id, keep_seconds=60)
    with pytest.raises(InvalidError, match=r"finish it first: .earmark client rotate --finish"):
        access.rotate_secret(recorder.client.id)


def test_tokens_outlive_an_ordinary_rotation(access: Access, recorder: NewClient) -> None:
    token = token_of(access, recorder)
    access.rotate_secret(recorder.client.id)
    access.finish_rotation(recorder.client.id)
    assert access.authenticate(token)


def test_a_leaked_secret_ends_at_once_with_every_token_and_a_new_one_is_taken_at_once(
    make: Callable[..., Access], recorder: NewClient, timer: Hand
) -> None:
    one, other = make(), make()
    one.rotate_secret(recorder.client.id, keep_seconds=60)
    token = token_of(one, recorder)
    assert other.authenticate(token)
    new = one.rotate_secret(recorder.client.id, keep_seconds=0)
    timer.at += POLL_SECONDS
    with pytest.raises(UnauthenticatedError):
        one.identify(recorder.client.id, recorder.secret)
    with pytest.raises(UnauthenticatedError):
        other.authenticate(token)
    again = token_of(one, NewClient(recorder.client, new.secret))  # within the same second
    for access in (one, other):
        assert access.authenticate(again)


# Shutting out


def test_a_disabled_client_is_refused_by_every_process_and_its_tokens_stay_ended(
    make: Callable[..., Access], recorder: NewClient, timer: Hand, database: Database
) -> None:
    one, other = make(), make()
    token = token_of(one, recorder)
    assert other.authenticate(token)
    one.disable_client(recorder.client.id)
    one.disable_client(recorder.client.id)
    timer.at += POLL_SECONDS
    assert other.recall(token) is None
    for access in (one, other):
        with pytest.raises(UnauthenticatedError):
            access.authenticate(token)
        with pytest.raises(UnauthenticatedError):
            token_of(access, recorder)
    one.enable_client(recorder.client.id)
    one.enable_client(recorder.client.id)
    timer.at += POLL_SECONDS
    new = token_of(other, recorder)
    for access in (one, other):
        assert access.authenticate(new)
        with pytest.raises(UnauthenticatedError):
            access.authenticate(token)
    assert actions(database)[-2:] == ["client.disable", "client.enable"]


@pytest.mark.parametrize(
    "change", ["rotate_secret", "finish_rotation", "disable_client", "enable_client"]
)
@on_sqlite
def test_a_client_that_there_is_not_is_told(access: Access, change: str) -> None:
    with pytest.raises(InvalidError, match='client_id: There is no client "nobody"'):
        getattr(access, change)("nobody")


# What processes remember


def test_a_process_reads_one_row_twice_a_second_whatever_comes_in(
    database: Database, timer: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    revision = Revision(database, timer=timer)

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", execute)
    for _ in range(100):
        assert revision.current() == 0
        timer.at += POLL_SECONDS / 50
    sa.event.remove(database.engine, "before_cursor_execute", execute)
    assert sum("access_revision" in one for one in statements) == 2
    assert revision.recent() is None


def test_changes_of_clients_and_keys_are_counted_from_whatever_process(
    database: Database, make: Callable[..., Access], recorder: NewClient
) -> None:
    def counted() -> int:
        with database.read(None) as scope:
            row = scope.row(sa.select(access_revision.c.number))
        return int(row.number) if row else 0

    before = counted()
    access = make()
    changes = [
        lambda: access.disable_client(recorder.client.id),
        lambda: access.enable_client(recorder.client.id),
        lambda: access.rotate_secret(recorder.client.id),
        lambda: access.finish_rotation(recorder.client.id),
        access.rotate_key,
    ]
    for change in changes:
        change()
        assert counted() > before
        before = counted()
