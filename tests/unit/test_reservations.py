"""What uploads on their way take of a quota, and what is stored: counted once, by all together."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from books import Books
from earmark.database import Database, idempotency, interactions, migrate, tables
from earmark.database.reservations import HOLD_SECONDS, Reservations
from earmark.database.scope import Scope
from earmark.errors import (
    EarmarkError,
    StorageQuotaError,
    TooManyUploadsError,
    UnavailableError,
)
from earmark.intake import Intake, Limits, keyed
from earmark.intake import reservations as intake_reservations
from earmark.interactions import Interactions
from earmark.model import Correction, Quota, Usage, new_id, now
from earmark.storage import open_store
from processing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from earmark.model import Principal

KILOBYTE = Quota(stored_bytes=1000)
TWO = Quota(uploads_at_once=2)

PROCESSES = 4
"""With a connection pool each, as far as the database can tell."""


class Moment:
    """The clock that all processes share."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __get__(self, _scope: object, _kind: object) -> Any:
        return sa.literal(self.at)


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    made = Moment()
    monkeypatch.setattr(Scope, "moment", made)
    return made


@pytest.fixture
def reservations(database: Database) -> Reservations:
    return Reservations(database)


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


@pytest.fixture
def take(reservations: Reservations, organization: UUID) -> Callable[..., tuple[UUID, int]]:
    """Makes a reservation; returns its id and what was reserved."""

    def taken(
        quota: Quota, least: int = 1, wanted: int | None = None, *, id_: UUID | None = None
    ) -> tuple[UUID, int]:
        id_ = id_ or new_id()
        size = reservations.reserve(
            organization, id_, quota, least_bytes=least, wanted_bytes=wanted or least
        )
        return id_, size

    return taken


def stored(database: Database, organization: UUID) -> int:
    return Reservations(database).usage(organization).stored_bytes


def recounted(database: Database, organization: UUID) -> int:
    sizes = sa.select(sa.func.coalesce(sa.func.sum(tables.interaction.c.size_bytes), 0))
    with database.read(organization) as scope:
        (row,) = scope.rows(sizes.select_from(tables.interaction))
    return int(row[0])


def remove(database: Database, organization: UUID, id_: UUID) -> None:
    with database.write(organization) as scope:
        assert interactions.delete(scope, id_)


# At once


def test_one_upload_too_many_is_refused_until_another_ends(
    take: Callable[..., Any], reservations: Reservations, organization: UUID
) -> None:
    first, _ = take(TWO)
    take(TWO)
    with pytest.raises(TooManyUploadsError) as refused:
        take(TWO)
    assert refused.value.retry_after_seconds == 1
    assert reservations.usage(organization).uploads == 2
    reservations.release(organization, first)
    take(TWO)


def test_one_that_has_its_place_keeps_it_when_fewer_are_allowed(
    take: Callable[..., Any],
) -> None:
    first, _ = take(TWO)
    take(TWO)
    assert take(Quota(uploads_at_once=1), 10, id_=first) == (first, 10)


def test_another_organization_has_its_own_places_and_its_own_room(
    take: Callable[..., Any], reservations: Reservations, other_organization: UUID
) -> None:
    both = Quota(stored_bytes=100, uploads_at_once=1)
    take(both, 100)
    reserved = reservations.reserve(
        other_organization, new_id(), both, least_bytes=100, wanted_bytes=100
    )
    assert reserved == 100
    assert reservations.usage(other_organization) == Usage(0, 1, 100)


# Bytes


def test_as_much_is_reserved_as_is_wanted_or_as_fits(take: Callable[..., Any]) -> None:
    assert take(KILOBYTE, 1, 600)[1] == 600
    assert take(KILOBYTE, 1, 600)[1] == 400
    with pytest.raises(StorageQuotaError):
        take(KILOBYTE, 1)


def test_what_does_not_fit_reserves_nothing_and_leaves_what_was_reserved(
    take: Callable[..., Any], reservations: Reservations, organization: UUID
) -> None:
    id_, _ = take(KILOBYTE, 600)
    with pytest.raises(StorageQuotaError):
        take(KILOBYTE, 401)
    with pytest.raises(StorageQuotaError):
        take(KILOBYTE, 1001, id_=id_)
    assert reservations.usage(organization) == Usage(0, 1, 600)
    assert take(KILOBYTE, 1000, id_=id_) == (id_, 1000)


def test_what_is_stored_takes_room_and_what_is_deleted_gives_it_back(
    take: Callable[..., Any], books: Books, database: Database, organization: UUID
) -> None:
    id_ = books.receive(size_bytes=900)
    with pytest.raises(StorageQuotaError):
        take(KILOBYTE, 101)
    take(KILOBYTE, 100)
    remove(database, organization, id_)
    take(KILOBYTE, 900)


def test_an_upload_that_was_committed_and_not_yet_released_counts_once(
    take: Callable[..., Any], books: Books
) -> None:
    id_, _ = take(KILOBYTE, 400)
    books.receive(id_=id_, size_bytes=400)
    take(KILOBYTE, 600)
    with pytest.raises(StorageQuotaError):
        take(KILOBYTE, 1)


# Processes


@pytest.mark.parametrize(
    ("quota", "refusal"),
    [
        pytest.param(Quota(uploads_at_once=7), TooManyUploadsError, id="at once"),
        pytest.param(Quota(stored_bytes=700), StorageQuotaError, id="bytes"),
    ],
)
def test_processes_that_reserve_at_once_take_all_that_there_is_and_no_more(
    database: Database,
    database_url: str,
    organization: UUID,
    quota: Quota,
    refusal: type[EarmarkError],
) -> None:
    processes = [Database(database_url) for _ in range(PROCESSES)]
    ready = threading.Barrier(2 * PROCESSES)

    def reserve(number: int) -> int:
        one, count = Reservations(processes[number % PROCESSES]), 0
        ready.wait(20)
        for _ in range(5):
            try:
                one.reserve(organization, new_id(), quota, least_bytes=100, wanted_bytes=100)
            except refusal:
                continue
            count += 1
        return count

    with ThreadPoolExecutor(2 * PROCESSES) as pool:
        assert sum(pool.map(reserve, range(2 * PROCESSES))) == 7
    for process in processes:
        process.close()


def test_processes_that_reserve_commit_and_delete_never_have_more_than_the_quota(
    database: Database, database_url: str, organization: UUID
) -> None:
    quota = Quota(stored_bytes=500)
    processes = [Database(database_url) for _ in range(PROCESSES)]
    most: list[int] = []

    def work(number: int) -> None:
        process, chance = processes[number], random.Random(number)
        one, mine, own = Reservations(process), Books(process, organization), []
        for _ in range(12):
            id_ = new_id()
            try:
                one.reserve(organization, id_, quota, least_bytes=100, wanted_bytes=100)
            except StorageQuotaError:
                if own:
                    remove(process, organization, own.pop())
                continue
            if chance.random() < 0.8:
                own.append(mine.receive(id_=id_, size_bytes=100))
            one.release(organization, id_)
            most.append(recounted(process, organization))

    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(work, range(PROCESSES)))
    for process in processes:
        process.close()
    assert 300 < max(most) <= 500
    assert stored(database, organization) == recounted(database, organization)


def test_what_a_process_that_died_had_reserved_is_free_when_its_time_is_over(
    take: Callable[..., Any], reservations: Reservations, moment: Moment, organization: UUID
) -> None:
    both = Quota(stored_bytes=1000, uploads_at_once=1)
    id_, _ = take(both, 1000)
    moment.at += HOLD_SECONDS - 1
    with pytest.raises(TooManyUploadsError):
        take(both)
    moment.at += 1
    other, _ = take(both, 1000)
    reservations.release(organization, other)
    assert take(both, 1000, id_=id_) == (id_, 1000), "one that only stood still goes on"


def test_what_is_kept_stays_and_what_nobody_keeps_is_forgotten(
    take: Callable[..., Any],
    reservations: Reservations,
    moment: Moment,
    organization: UUID,
    database: Database,
) -> None:
    kept, _ = take(TWO)
    take(TWO)
    moment.at += HOLD_SECONDS
    reservations.keep([kept])
    assert reservations.usage(organization).uploads == 1
    with database.unsynced.read(None) as scope:
        assert [row.id for row in scope.rows(sa.select(tables.reservation))] == [kept]


# What is stored


def test_what_is_stored_follows_whatever_is_added_and_removed(
    database: Database, organization: UUID, other_organization: UUID
) -> None:
    chance = random.Random(1)
    ours, theirs = Books(database, organization), Books(database, other_organization)
    there: list[tuple[UUID, UUID]] = []
    for number in range(40):
        books, owner = (
            (ours, organization) if chance.random() < 0.5 else (theirs, other_organization)
        )
        if there and chance.random() < 0.4:
            remove(database, *there.pop(chance.randrange(len(there))))
        else:
            size = chance.randrange(1 << 40)
            there.append((owner, books.receive(name=f"{number}.wav", size_bytes=size)))
        for one in (organization, other_organization):
            assert stored(database, one) == recounted(database, one)


def test_one_statement_over_several_organizations_counts_for_each(
    database: Database, organization: UUID, other_organization: UUID
) -> None:
    for owner, size in ((organization, 10), (other_organization, 200)):
        for number in range(3):
            Books(database, owner).receive(name=f"{number}.wav", size_bytes=size)
    assert [stored(database, one) for one in (organization, other_organization)] == [30, 600]
    with database.write(None) as scope:
        scope.run(sa.delete(tables.interaction))
    assert [stored(database, one) for one in (organization, other_organization)] == [0, 0]


def test_what_is_undone_was_never_counted(
    database: Database, organization: UUID, books: Books
) -> None:
    id_ = books.receive(size_bytes=10)
    with database.write(organization) as scope:
        interactions.delete(scope, id_)
        scope.connection.rollback()
    assert stored(database, organization) == 10


def test_a_correction_changes_nothing_of_what_is_stored(
    database: Database, principal: Principal, books: Books, tmp_path: Path
) -> None:
    id_ = books.receive(size_bytes=10)
    here = Interactions(database, open_store((tmp_path / "storage").as_uri()))
    here.for_(principal).correct(id_, Correction(phone="1", locale="es-MX"))
    assert stored(database, principal.organization_id) == 10


def test_an_upgrade_counts_what_is_stored_already(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if database_kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'old'}"
    else:
        server = request.getfixturevalue("postgres_server")
        name = server.create()
        request.addfinalizer(lambda: server.drop(name))
        url = server.owner_url(name)
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(migrate._SCRIPTS))
    organizations = [new_id(), new_id()]
    with database.write(None) as scope:
        config.attributes["connection"] = scope.connection
        command.upgrade(config, "0006")
        for id_ in organizations:
            row = {"id": id_, "name": str(id_), "created_at": now()}
            columns = [sa.column(name, tables.organization.c[name].type) for name in row]
            insert = sa.insert(sa.table("organization", *columns))
            scope.connection.execute(insert.values(row))
    for number in range(3):
        Books(database, organizations[0]).receive(name=f"{number}.wav", size_bytes=1 << 33)
    migrate.upgrade(database)
    assert [stored(database, one) for one in organizations] == [3 << 33, 0]
    with database.write(None) as scope:
        scope.run(sa.delete(tables.interaction))
    assert stored(database, organizations[0]) == 0
    database.close()


# One process


@pytest.fixture
def intake(database: Database, principal: Principal, tmp_path: Path) -> Iterator[Intake]:
    store = open_store((tmp_path / "storage").as_uri())
    limits = Limits(upload_bytes=1 << 40, reserve_bytes=0, buffer_bytes=1 << 20)
    with ThreadPoolExecutor(4) as pool:
        yield Intake(database, store, limits=limits, pool=pool, quota=lambda _: TWO)


def held(database: Database) -> list[float]:
    with database.unsynced.read(None) as scope:
        return [row.held_until for row in scope.rows(sa.select(tables.reservation))]


def test_a_process_keeps_what_is_on_its_way_until_it_ends(
    intake: Intake, principal: Principal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_reservations, "KEEP_SECONDS", 0.01)

    async def story() -> None:
        async with intake.tended():
            async with await intake.for_(principal).admit(None):
                (first,) = held(database)
                await asyncio.to_thread(wait_until, lambda: held(database) > [first])
            assert held(database) == []

    asyncio.run(story())


@pytest.mark.parametrize(
    ("module", "keeper", "stored"),
    [
        (intake_reservations, intake_reservations.Reservations, Reservations),
        (keyed, keyed.KeyedUploads, idempotency.Leases),
    ],
    ids=["reservations", "idempotency keys"],
)
def test_nothing_is_kept_while_nothing_is_on_its_way(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, module: Any, keeper: Any, stored: Any
) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.01)
    kept: list[object] = []
    monkeypatch.setattr(stored, "keep", lambda _self, ids: kept.append(ids))
    keep, looked = keeper._keep, threading.Event()

    def keeping(self: Any) -> None:
        keep(self)
        looked.set()

    monkeypatch.setattr(keeper, "_keep", keeping)

    async def story() -> None:
        async with intake.tended():
            assert await asyncio.to_thread(looked.wait, 20)

    asyncio.run(story())
    assert kept == []


def test_an_outage_ends_neither_the_keeping_nor_the_upload(
    intake: Intake, principal: Principal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_reservations, "KEEP_SECONDS", 0.01)
    away = threading.Event()
    tried = threading.Event()

    def unless_away(act: Callable[..., None]) -> Callable[..., None]:
        def acting(self: Reservations, *args: Any) -> None:
            if away.is_set():
                tried.set()
                raise UnavailableError("away")
            act(self, *args)

        return acting

    for name in ("keep", "release"):
        monkeypatch.setattr(Reservations, name, unless_away(getattr(Reservations, name)))

    async def story() -> None:
        async with intake.tended():
            async with await intake.for_(principal).admit(None):
                away.set()
                await asyncio.to_thread(tried.wait, 20)
                away.clear()
                (first,) = held(database)
                await asyncio.to_thread(wait_until, lambda: held(database) > [first])
                away.set()
            assert len(held(database)) == 1, "it ends by itself"

    asyncio.run(story())


def test_who_leaves_while_a_place_is_reserved_leaves_none(
    intake: Intake, principal: Principal, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    reserve = Reservations.reserve

    def slow(self: Reservations, *args: Any, **facts: Any) -> int:
        begun.set()
        assert go_on.wait(20)
        return reserve(self, *args, **facts)

    monkeypatch.setattr(Reservations, "reserve", slow)
    ended = threading.Event()
    release = Reservations.release

    def releasing(self: Reservations, *args: Any) -> None:
        release(self, *args)
        ended.set()

    monkeypatch.setattr(Reservations, "release", releasing)

    async def story() -> None:
        admitting = asyncio.create_task(intake.for_(principal).admit(None))
        await asyncio.to_thread(begun.wait, 20)
        admitting.cancel()
        await asyncio.gather(admitting, return_exceptions=True)
        go_on.set()
        assert await asyncio.to_thread(ended.wait, 20)

    asyncio.run(story())
    assert held(database) == []


def test_who_goes_away_without_a_quota_has_nothing_to_give_back(
    database: Database, principal: Principal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def no_quota(_organization: UUID) -> Quota:
        asked.set()
        assert go_on.wait(20)
        return Quota()

    monkeypatch.setattr(Reservations, "release", lambda *_: pytest.fail("nothing was reserved"))
    store = open_store((tmp_path / "storage").as_uri())
    limits = Limits(upload_bytes=1 << 40, reserve_bytes=0, buffer_bytes=1 << 20)
    with ThreadPoolExecutor(1) as pool:
        intake = Intake(database, store, limits=limits, pool=pool, quota=no_quota)

        async def story() -> None:
            admitting = asyncio.create_task(intake.for_(principal).admit(None))
            await asyncio.to_thread(asked.wait, 20)
            admitting.cancel()
            await asyncio.gather(admitting, return_exceptions=True)

        asyncio.run(story())
        go_on.set()
    assert held(database) == []
