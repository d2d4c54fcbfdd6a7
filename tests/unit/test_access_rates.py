"""Rates that all processes share, and the lock-out of those who guess, on both databases."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark.access import Access, NewClient, Rate, parse_rate
from earmark.access.lockout import ADDRESS_FAILURES, CLIENT_FAILURES, Keys, network_of
from earmark.access.rate import LEASE_SECONDS, LEASE_SHARE, Limiter
from earmark.database import Database
from earmark.database.rates import Level, Rates
from earmark.database.tables import rate as rate_table
from earmark.errors import RateLimitedError, UnauthenticatedError
from forging import Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = b"k" * 32

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


class Time(Hand):
    """One time for all machines and processes."""


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def limiter(database: Database, time: Time) -> Callable[..., Limiter]:
    """Makes what one process counts with."""
    return lambda rate, **more: limiter_of(database, time, rate, **more)


def limiter_of(database: Database, time: Hand, rate: Rate, **more: Any) -> Limiter:
    rates = Rates(database, clock=time)
    return Limiter(rate, rates, key=lambda name: name.encode().ljust(32), timer=time, **more)


def taken(limiter: Limiter, times: int, client: str = "c") -> int:
    """How many of so many requests are taken."""
    count = 0
    for _ in range(times):
        try:
            limiter.charge(client)
        except RateLimitedError:
            continue
        count += 1
    return count


# Writing rates


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


# One process


def test_a_client_may_spend_its_whole_rate_at_once_and_then_waits(
    limiter: Callable[..., Limiter], time: Time
) -> None:
    one = limiter(Rate(5, 10))
    states = [one.charge("client") for _ in range(5)]
    assert [state.remaining for state in states] == [4, 3, 2, 1, 0]
    assert {state.limit for state in states} == {Rate(5, 10)}
    with pytest.raises(RateLimitedError) as refused:
        one.charge("client")
    assert refused.value.retry_after_seconds == pytest.approx(2.0)
    time.at += 2.0
    state = one.charge("client")
    assert (state.remaining, state.reset_seconds) == (0, pytest.approx(2.0))


@on_sqlite
def test_a_refused_request_is_not_counted(limiter: Callable[..., Limiter], time: Time) -> None:
    one = limiter(Rate(1, 10))
    one.charge("client")
    for _ in range(3):
        time.at += 3
        with pytest.raises(RateLimitedError):
            one.charge("client")
    time.at += 1
    assert one.charge("client").remaining == 0


@on_sqlite
def test_reset_is_when_one_more_request_would_be_taken(
    limiter: Callable[..., Limiter], time: Time
) -> None:
    one = limiter(Rate(4, 8))
    one.charge("client")
    time.at += 0.5
    state = one.charge("client")
    assert (state.remaining, state.reset_seconds) == (2, pytest.approx(1.5))


@on_sqlite
def test_a_quiet_client_has_its_whole_rate_and_no_more(
    limiter: Callable[..., Limiter], time: Time
) -> None:
    one = limiter(Rate(2, 1))
    one.charge("client")
    time.at += 1_000
    assert one.charge("client").remaining == 1


@on_sqlite
def test_clients_do_not_spend_each_others_rate(limiter: Callable[..., Limiter]) -> None:
    one = limiter(Rate(1, 1))
    assert one.charge("one").remaining == 0
    assert one.charge("other").remaining == 0


@on_sqlite
def test_a_client_waits_no_longer_than_for_its_next_request(
    limiter: Callable[..., Limiter], time: Time
) -> None:
    one = limiter(Rate(1, 10))
    one.charge("client")
    time.at += 7
    with pytest.raises(RateLimitedError) as refused:
        one.charge("client")
    assert refused.value.retry_after_seconds == pytest.approx(3.0)


@on_sqlite
def test_the_table_of_leases_is_bounded(limiter: Callable[..., Limiter]) -> None:
    one = limiter(Rate(1, 10), max_clients=2)
    for name in ("a", "b", "c"):
        one.charge(name)
    assert len(one._leases) == 2
    with pytest.raises(RateLimitedError):
        one.charge("a")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database for properties: each example has a client of its own in it."""
    folder: Path = tmp_path_factory.mktemp("rates")
    database = Database(f"sqlite:///{folder / 'x.sqlite3'}")
    yield database
    database.close()


CLIENTS = iter(range(10**9))
EXAMPLES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


@EXAMPLES
@given(count=st.integers(1, 10_000), seconds=st.integers(1, 3600), start=st.floats(0, 1e9))
def test_rounding_never_costs_a_request(
    file: Database, count: int, seconds: int, start: float
) -> None:
    one, client = limiter_of(file, Hand(start), Rate(count, seconds)), str(next(CLIENTS))
    spent = min(count, 100)
    remaining = [one.charge(client).remaining for _ in range(spent)]
    assert remaining == list(range(count - 1, count - spent - 1, -1))


@EXAMPLES
@given(count=st.integers(1, 200), seconds=st.integers(1, 3600), start=st.floats(0, 1e8))
def test_a_client_that_waits_as_told_is_taken(
    file: Database, count: int, seconds: int, start: float
) -> None:
    time, client = Hand(start), str(next(CLIENTS))
    one = limiter_of(file, time, Rate(count, seconds))
    for _ in range(count):
        one.charge(client)
    with pytest.raises(RateLimitedError) as refused:
        one.charge(client)
    time.at += refused.value.retry_after_seconds
    assert one.charge(client).remaining == 0


# Several


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_together_take_no_more_at_once_than_the_rate_says(
    limiter: Callable[..., Limiter], processes: int
) -> None:
    ones = [limiter(Rate(40, 60)) for _ in range(processes)]
    assert sum(taken(ones[turn % processes], 1) for turn in range(200)) == 40


@on_sqlite
def test_a_process_may_have_the_whole_rate_where_the_others_are_quiet(
    limiter: Callable[..., Limiter],
) -> None:
    ones = [limiter(Rate(40, 60)) for _ in range(4)]
    assert taken(ones[0], 100) == 40
    assert taken(ones[1], 100) == 0


@EXAMPLES
@given(
    count=st.integers(1, 64),
    steps=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.5)), max_size=150),
)
def test_in_any_stretch_of_time_no_more_is_taken_than_is_said(
    file: Database, count: int, steps: list[tuple[int, float]]
) -> None:
    """The rate's count, what becomes free meanwhile, and one lease for each process."""
    time, client, rate = Hand(1000.0), str(next(CLIENTS)), Rate(count, 4)
    ones = [limiter_of(file, time, rate) for _ in range(4)]
    when: list[float] = []
    for process, pause in steps:
        time.at += pause / 10
        when += [time.at] * taken(ones[process], 5, client)
    lease = 4 * max(1, count // LEASE_SHARE)
    for first, start in enumerate(when):
        for last in range(first, len(when)):
            free = (when[last] - start) / rate.interval
            assert last - first + 1 <= count + free + lease + 1e-6


def test_what_was_leased_and_not_used_comes_back(
    limiter: Callable[..., Limiter], time: Time
) -> None:
    one, other = limiter(Rate(80, 8000)), limiter(Rate(80, 8000))
    for _ in range(1 + 2 + 4 + 1):  # the fourth lease has eight, of which one is used
        one.charge("c")
    assert one._leases["c"].left == 7
    time.at += LEASE_SECONDS
    assert other.charge("c").remaining == 80 - 15 - 1
    assert one.charge("c").remaining == 80 - 15 - 1 + 7 - 4 + 3
    assert taken(one, 100) + taken(other, 100) == 80 - 10


def test_most_requests_of_a_busy_client_ask_no_database(
    limiter: Callable[..., Limiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = limiter(Rate(8000, 1))
    asked: list[int] = []
    change = Rates.change

    def counted(self: Rates, *given: Any) -> None:
        asked.append(1)
        change(self, *given)

    monkeypatch.setattr(Rates, "change", counted)
    assert taken(one, 5000) == 5000
    assert len(asked) < 20


@on_sqlite
def test_no_lease_is_larger_than_an_eighth_of_the_rate(limiter: Callable[..., Limiter]) -> None:
    one = limiter(Rate(80, 8000))
    sizes = set()
    for _ in range(80):
        one.charge("c")
        sizes.add(one._leases["c"].size)
    assert sizes == {1, 2, 4, 8, 10}


@on_sqlite
def test_a_refused_client_asks_no_database_until_something_is_free(
    limiter: Callable[..., Limiter], time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = limiter(Rate(1, 10))
    one.charge("c")
    with pytest.raises(RateLimitedError):
        one.charge("c")
    monkeypatch.setattr(one, "_rates", None)
    time.at += 9
    with pytest.raises(RateLimitedError) as refused:
        one.recall("c")
    assert refused.value.retry_after_seconds == pytest.approx(1.0)


@on_sqlite
def test_a_lease_that_ran_out_while_the_machine_stood_still_counts(
    limiter: Callable[..., Limiter], time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = limiter(Rate(2, 10))
    change = Rates.change

    def slow(self: Rates, *given: Any) -> None:
        change(self, *given)
        time.at += LEASE_SECONDS

    monkeypatch.setattr(Rates, "change", slow)
    state = one.charge("c")
    assert (state.remaining, state.reset_seconds) == (0, 5.0)


def test_threads_and_processes_that_charge_at_once_take_the_rate_and_no_more(
    database: Database,
) -> None:
    """With the real clocks: the rate is so slow that nothing becomes free meanwhile."""
    rates = [Rates(database) for _ in range(4)]
    ones = [
        Limiter(Rate(60, 86_400), one, key=lambda _: b"c" * 32, timer=lambda: 0.0) for one in rates
    ]
    barrier = threading.Barrier(8)

    def charge(number: int) -> int:
        barrier.wait()
        return taken(ones[number % 4], 30)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(charge, range(8))) == 60


def test_the_clock_that_all_share_is_the_present(database: Database) -> None:
    seen: list[float] = []
    rates = Rates(database)

    def step(now: float, levels: Any) -> Any:
        seen.append(now)
        return [Level(1.0, now)]

    for _ in range(2):
        rates.change([b"k" * 32], step)
    assert seen[0] <= seen[1]
    assert seen[0] > 1_700_000_000


def test_what_a_step_raises_changes_nothing(database: Database) -> None:
    rates = Rates(database, clock=Hand())

    def step(_now: float, _levels: Any) -> Any:
        raise RateLimitedError(1)

    with pytest.raises(RateLimitedError):
        rates.change([b"k" * 32], step)
    with database.unsynced.read(None) as scope:
        assert scope.rows(sa.select(rate_table)) == []


def test_buckets_that_nobody_touched_for_long_are_removed(database: Database, time: Time) -> None:
    rates = Rates(database, clock=time)
    for key in (b"a" * 32, b"b" * 32):
        rates.change([key], lambda now, _: [Level(1.0, now)])
        time.at += 60
    rates.forget(older_than_seconds=90)
    with database.unsynced.read(None) as scope:
        assert [row.key for row in scope.rows(sa.select(rate_table))] == [b"b" * 32]


@on_sqlite
def test_on_sqlite_rates_neither_wait_for_the_disk_nor_for_uploads(database: Database) -> None:
    with database.write(None):  # an upload that commits
        Rates(database).change([b"k" * 32], lambda now, _: [Level(1.0, now)])
    with database.unsynced.read(None) as scope:
        row = scope.row(sa.text("PRAGMA synchronous"))
    assert row is not None
    assert row[0] == 1  # NORMAL


# Lock-out


@pytest.fixture
def access(database: Database, time: Time) -> Access:
    return Access(database, secret_key=KEY, issuer="https://e.example", clock=time, timer=time)


@pytest.fixture
def recorder(access: Access) -> NewClient:
    return access.create_client(organization="Acme", create_organization=True, name="Recorder")


def guess(access: Access, client_id: str, address: str, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(UnauthenticatedError):
            access.identify(client_id, "wrong", address=address)


def test_wrong_secrets_lock_out_their_address_and_nobody_else(
    database: Database, access: Access, recorder: NewClient, time: Time
) -> None:
    client_id, secret = recorder.client.id, recorder.secret
    guess(access, client_id, "192.0.2.1", CLIENT_FAILURES.count)
    other_process = Access(database, secret_key=KEY, issuer="https://e.example", clock=time)
    for process in (access, other_process):
        with pytest.raises(RateLimitedError) as refused:
            process.identify(client_id, secret, address="192.0.2.1")
        assert refused.value.retry_after_seconds == pytest.approx(60)
        assert process.identify(client_id, secret, address="192.0.2.2")
    time.at += 60
    assert access.identify(client_id, secret, address="192.0.2.1")


def test_right_secrets_are_never_counted_as_wrong(access: Access, recorder: NewClient) -> None:
    for _ in range(3 * CLIENT_FAILURES.count):
        assert access.identify(recorder.client.id, recorder.secret, address="192.0.2.1")


def test_an_unknown_client_is_locked_out_like_a_known_one(
    access: Access, recorder: NewClient
) -> None:
    for client_id in ("client-nobody", recorder.client.id):
        guess(access, client_id, "192.0.2.1", CLIENT_FAILURES.count)
        with pytest.raises(RateLimitedError) as refused:
            access.identify(client_id, "wrong", address="192.0.2.1")
        assert refused.value.retry_after_seconds == pytest.approx(60)


def test_an_address_that_guesses_at_many_clients_is_locked_out_whole(
    access: Access, recorder: NewClient
) -> None:
    for number in range(ADDRESS_FAILURES.count):
        guess(access, f"client-{number}", "2001:db8::1")
    for address in ("2001:db8::1", "2001:db8::ffff"):  # one /64
        with pytest.raises(RateLimitedError):
            access.identify(recorder.client.id, recorder.secret, address=address)
    assert access.identify(recorder.client.id, recorder.secret, address="2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("socket", "socket"),
    ],
)
def test_an_address_is_what_one_subscriber_has(address: str, network: str) -> None:
    assert network_of(address) == network


def test_the_token_requests_of_an_address_are_limited_whoever_asks(
    database: Database, time: Time
) -> None:
    access = Access(
        database, secret_key=KEY, issuer="i", token_rate_limit=Rate(2, 10), clock=time, timer=time
    )
    one, other, third = [
        access.create_client(organization="A", create_organization=True, name=name)
        for name in ("a", "b", "c")
    ]
    for made in (one, other):
        access.grant_token(made.client.id, made.secret, address="192.0.2.1")
    with pytest.raises(RateLimitedError) as refused:
        access.grant_token(third.client.id, third.secret, address="192.0.2.1")
    assert refused.value.retry_after_seconds == pytest.approx(5)
    assert access.grant_token(third.client.id, third.secret, address="192.0.2.2")


def test_the_token_requests_of_a_client_are_limited_wherever_it_is(
    database: Database, time: Time
) -> None:
    access = Access(
        database, secret_key=KEY, issuer="i", token_rate_limit=Rate(2, 10), clock=time, timer=time
    )
    made = access.create_client(organization="A", create_organization=True, name="a")
    guess(access, made.client.id, "192.0.2.9", 2)  # costs the client nothing
    for last in (1, 2):
        access.grant_token(made.client.id, made.secret, address=f"192.0.2.{last}")
    with pytest.raises(RateLimitedError) as refused:
        access.grant_token(made.client.id, made.secret, address="192.0.2.3")
    assert refused.value.retry_after_seconds == pytest.approx(5)


@on_sqlite
def test_no_rate_limits_nobody(access: Access) -> None:
    assert access.recall_rate("client") is None
    assert access.charge("client") is None


def test_the_buckets_names_tell_of_nobody(database: Database, access: Access) -> None:
    guess(access, "client-x", "192.0.2.1")
    with database.unsynced.read(None) as scope:
        keys = [bytes(row.key) for row in scope.rows(sa.select(rate_table))]
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}
    assert Keys(KEY)("failure", "192.0.2.1") in keys
    assert Keys(b"x" * 32)("failure", "192.0.2.1") not in keys
    assert Keys(KEY)("a", "b", "cd") != Keys(KEY)("a", "bc", "d")
