"""Arrivals: each in its place for whoever reads them one after another, none missed."""

from __future__ import annotations

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from books import Books
from earmark.database import arrivals, journal, tables
from earmark.database import interactions as stored
from earmark.errors import ForbiddenError, InvalidError
from earmark.intake import Accepted, Intake, Limits
from earmark.interactions import MAX_LIMIT, Interactions, OrganizationInteractions
from earmark.model import ArrivalQuery, Grant, MediaType, Principal, Submission, new_id, now
from earmark.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from earmark.database import Database, Scope

SECOND = timedelta(seconds=1)
on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrivals")


@pytest.fixture
def everyone(database: Database, folder: Path) -> Interactions:
    return Interactions(database, open_store(f"file:{folder}/objects"))


@pytest.fixture
def mine(everyone: Interactions, principal: Principal) -> OrganizationInteractions:
    return everyone.for_(principal)


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


def listed(
    bound: OrganizationInteractions,
    query: ArrivalQuery | None = None,
    *,
    after: UUID | None = None,
    limit: int = MAX_LIMIT,
) -> list[UUID]:
    found = bound.list_arrivals(query or ArrivalQuery(), after=after, limit=limit)
    return [one.id for one in found]


def polled(
    bound: OrganizationInteractions, query: ArrivalQuery | None = None, limit: int = 2
) -> list[UUID]:
    """All pages, each after the last of the one before it."""
    found: list[UUID] = []
    while page := listed(bound, query, after=found[-1] if found else None, limit=limit):
        found += page
    return found


def test_arrivals_are_listed_oldest_first_page_by_page(
    mine: OrganizationInteractions, books: Books
) -> None:
    made = [books.arrive(at=datetime(2022, 1, 9 - day, tzinfo=UTC)) for day in range(5)]
    assert listed(mine) == made
    assert polled(mine) == made
    assert [one.id for one in mine.list_arrivals(ArrivalQuery(), after=made[1], limit=2)] == (
        made[2:4]
    )


def test_what_came_since_is_listed_after_the_last(
    mine: OrganizationInteractions, books: Books
) -> None:
    first = books.arrive()
    assert listed(mine) == [first]
    assert listed(mine, after=first) == []
    second = books.arrive()
    assert listed(mine, after=first) == [second]


@on_postgresql  # SQLite: one writer at a time
def test_of_two_uploads_that_overlap_none_is_missed(
    mine: OrganizationInteractions, database: Database, principal: Principal, folder: Path
) -> None:
    """The earlier of two real uploads is committed last, when a reader is past the later one."""
    with ThreadPoolExecutor(4) as pool:
        limits = Limits(1 << 20, 0, 1 << 20)
        intake = Intake(database, open_store(f"file:{folder}/in"), limits=limits, pool=pool)
        with database.write(principal.organization_id) as slow:
            early = _promise(intake, principal, slow, "early.wav")
            with ExitStack() as opened:
                quick = opened.enter_context(database.write(principal.organization_id))
                while _shard(quick) == _shard(slow):  # where it would wait for the other
                    quick = opened.enter_context(database.write(principal.organization_id))
                late = _promise(intake, principal, quick, "late.wav")
            assert listed(mine) == [late]
        assert listed(mine, after=late) == [early]
    assert listed(mine) == [late, early]
    received = [one.received_at for one in mine.list_arrivals(ArrivalQuery())]
    assert received[1] < received[0]


def _shard(scope: Scope) -> int:
    """Which part of the organization's total a connection counts in."""
    return int(scope.connection.exec_driver_sql("SELECT mod(pg_backend_pid(), 16)").scalar_one())


def _promise(intake: Intake, principal: Principal, scope: Scope, name: str) -> UUID:
    """What an upload does in its transaction, which is the caller's here."""
    accepted = Accepted(new_id(), name, 3, bytes(32), now())
    submission = Submission(name, MediaType.AUDIO, "{}")
    intake.for_(principal)._promise(scope, accepted, (), submission)
    return accepted.id


def test_a_place_stays_when_others_are_deleted(
    mine: OrganizationInteractions, books: Books
) -> None:
    first, second, third = (books.arrive() for _ in range(3))
    assert listed(mine) == [first, second, third]
    mine.delete(third)
    mine.delete(second)
    assert listed(mine, after=second) == []
    fourth = books.arrive()
    assert listed(mine, after=third) == [fourth]
    assert listed(mine, after=second) == [fourth]
    assert listed(mine) == [first, fourth]


@on_postgresql  # SQLite: one writer at a time
def test_a_deletion_waits_for_the_place_that_is_being_given(
    mine: OrganizationInteractions, books: Books, database: Database
) -> None:
    first, second = books.arrive(), books.arrive()
    with ThreadPoolExecutor(1) as pool:
        with database.write(books.organization_id) as scope:
            journal.number_events(scope)
            deleting = pool.submit(mine.delete, first)
            with pytest.raises(TimeoutError):
                deleting.result(0.2)
        deleting.result(10)
    assert listed(mine, after=first) == [second]


@on_postgresql
def test_no_place_is_given_to_what_is_being_deleted(
    mine: OrganizationInteractions, books: Books, database: Database
) -> None:
    first, second = books.arrive(), books.arrive()
    with ThreadPoolExecutor(1) as pool:
        with database.write(books.organization_id) as scope:
            journal.lock_arrivals(scope)
            assert stored.delete(scope, first)
            listing = pool.submit(listed, mine)
            with pytest.raises(TimeoutError):
                listing.result(0.2)
        assert listing.result(10) == [second]


def test_what_was_deleted_before_anybody_saw_it_has_no_place(
    mine: OrganizationInteractions, books: Books
) -> None:
    unseen, seen = books.arrive(), books.arrive()
    mine.delete(unseen)
    assert listed(mine) == [seen]
    with pytest.raises(InvalidError):
        mine.list_arrivals(ArrivalQuery(), after=unseen)


def test_who_goes_on_after_an_upload_that_nobody_listed_yet_misses_none(
    mine: OrganizationInteractions, books: Books
) -> None:
    first, second = books.arrive(), books.arrive()
    assert listed(mine, after=first) == [second]


def test_a_long_backlog_is_listed_in_full_pages(
    mine: OrganizationInteractions, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "NUMBERED_AT_ONCE", 2)
    made = [books.arrive() for _ in range(7)]
    assert listed(mine, limit=5) == made[:5]
    assert polled(mine, limit=3) == made


def test_events_and_arrivals_are_numbered_together(
    mine: OrganizationInteractions, books: Books, database: Database
) -> None:
    made = [books.arrive() for _ in range(3)]
    with database.write(books.organization_id) as scope:
        journal.announce(scope, kind="interaction.ready", interaction_id=made[0])
    assert len(mine.events()) == 4
    made.append(books.arrive())
    assert listed(mine) == made
    numbers = [row.number for row in books.all(tables.arrival)]
    assert sorted(numbers) == [1, 2, 3, 5]


def test_a_page_that_is_full_gives_no_places(mine: OrganizationInteractions, books: Books) -> None:
    made = [books.arrive(), books.arrive()]
    assert listed(mine) == made
    books.arrive()
    assert listed(mine, limit=2) == made
    assert len(books.all(tables.arrival)) == 2


def test_a_period_is_inclusive_on_both_sides(mine: OrganizationInteractions, books: Books) -> None:
    made = [books.arrive() for _ in range(4)]
    base = datetime(2022, 3, 18, 12, tzinfo=UTC)
    for number, id_ in enumerate(made):
        books.change(id_, received_at=base + number * SECOND)
    for since, until, found in (
        (None, None, made),
        (base, None, made),
        (base + SECOND, None, made[1:]),
        (base + SECOND, base + 2 * SECOND, made[1:3]),
        (base + SECOND, base + SECOND, made[1:2]),
        (None, base + SECOND, made[:2]),
        (None, base - SECOND, []),
        (base + 4 * SECOND, None, []),
        (base + SECOND / 2, base + 3 * SECOND / 2, made[1:2]),
    ):
        assert listed(mine, ArrivalQuery(since, until)) == found, (since, until)
    assert polled(mine, ArrivalQuery(base + SECOND, base + 3 * SECOND), limit=1) == made[1:]


def test_instants_of_places_never_go_back(mine: OrganizationInteractions, books: Books) -> None:
    base = now() - timedelta(hours=1)
    made = [books.arrive() for _ in range(4)]
    for id_, seconds in zip(made, (10, 5, 20, 15), strict=True):
        books.change(id_, received_at=base + seconds * SECOND)
    assert listed(mine, ArrivalQuery(until=base + 10 * SECOND)) == made[:2]
    assert listed(mine, ArrivalQuery(since=base + 11 * SECOND)) == made[2:]
    behind = books.arrive()
    books.change(behind, received_at=base)
    assert listed(mine, ArrivalQuery(since=base + 20 * SECOND)) == [made[2], made[3], behind]


def test_a_clock_that_is_ahead_does_not_make_all_that_follow_late(
    mine: OrganizationInteractions, books: Books
) -> None:
    ahead = books.arrive()
    books.change(ahead, received_at=now() + timedelta(days=365))
    listed(mine)
    after = books.arrive()
    assert listed(mine, ArrivalQuery(until=now() + SECOND)) == [ahead, after]


def test_kinds_of_media_calls_and_subtrees_are_found(
    mine: OrganizationInteractions, books: Books
) -> None:
    top = books.node("top")
    below = books.node("below", top)
    other = books.node("other")
    made = {
        "a": books.arrive(node_id=below, client_call_id="1"),
        "b": books.arrive(node_id=top, media_type=MediaType.CHAT, name="b.zip"),
        "c": books.arrive(node_id=other, client_call_id="2"),
        "d": books.arrive(client_call_id="1", media_type=MediaType.CHAT, name="d.zip"),
        "e": books.arrive(node_id=top, client_call_id="2"),
    }

    def found(**asked: Any) -> str:
        query = ArrivalQuery(**asked)
        ids = polled(mine, query)
        assert listed(mine, query) == ids
        names = {id_: name for name, id_ in made.items()}
        return "".join(names[id_] for id_ in ids)

    assert found(media_type=MediaType.CHAT) == "bd"
    assert found(media_type=MediaType.AUDIO) == "ace"
    assert found(hierarchy_ids=frozenset({top})) == "abe"
    assert found(hierarchy_ids=frozenset({below, other})) == "ac"
    assert found(hierarchy_ids=frozenset({top}), media_type=MediaType.CHAT) == "b"
    assert found(hierarchy_ids=frozenset({uuid4()})) == ""
    assert found(client_call_ids=frozenset({"1"})) == "ad"
    assert found(client_call_ids=frozenset({"1", "2", "3"})) == "acde"
    assert found(client_call_ids=frozenset({"1"}), media_type=MediaType.AUDIO) == "a"
    assert found(client_call_ids=frozenset({"2"}), hierarchy_ids=frozenset({top})) == "e"
    assert found(client_call_ids=frozenset({"x"})) == ""


def test_a_subtree_of_many_nodes_is_found(
    mine: OrganizationInteractions, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "MAX_BRANCHES", 2)
    top = books.node("top")
    nodes = [books.node(f"n{number}", top) for number in range(3)]
    made = [books.arrive(node_id=nodes[number]) for number in (0, 1, 2, 2, 1, 0, 0)]
    books.arrive()
    query = ArrivalQuery(hierarchy_ids=frozenset({top}))
    for limit in (1, 2, 3, 4, 10):
        assert polled(mine, query, limit) == made
    assert listed(mine, replace(query, media_type=MediaType.AUDIO), limit=5) == made[:5]


def test_what_is_asked_is_judged(mine: OrganizationInteractions) -> None:
    query = ArrivalQuery(
        since=now(),
        until=now() - SECOND,
        client_call_ids=frozenset({"\0", *map(str, range(100))}),
    )
    with pytest.raises(InvalidError) as caught:
        mine.list_arrivals(query, after=uuid4(), limit=0)
    assert [fault.field for fault in caught.value.faults] == [
        "limit",
        "until",
        "client_call_ids",
        "client_call_ids",
        "after",
    ]


def test_another_organization_has_places_of_its_own(
    everyone: Interactions,
    mine: OrganizationInteractions,
    books: Books,
    database: Database,
    other_principal: Principal,
) -> None:
    theirs = Books(database, other_principal.organization_id).arrive()
    own = books.arrive()
    assert listed(mine) == [own]
    assert listed(everyone.for_(other_principal)) == [theirs]
    with pytest.raises(InvalidError):
        mine.list_arrivals(ArrivalQuery(), after=theirs)


def test_arrivals_need_the_grant_to_read(everyone: Interactions, organization: UUID) -> None:
    uploader = Principal(organization, "uploader", frozenset({Grant.INGEST}))
    with pytest.raises(ForbiddenError):
        everyone.for_(uploader).list_arrivals(ArrivalQuery())


def test_organizations_with_new_events_are_known(
    books: Books, database: Database, other_organization: UUID
) -> None:
    def waiting() -> list[UUID]:
        with database.read(None) as scope:
            return journal.organizations_with_new_events(scope)

    assert waiting() == []
    books.arrive()
    assert waiting() == [books.organization_id]
    with database.write(books.organization_id) as scope:
        assert not journal.number_events(scope)
    assert waiting() == []


@on_sqlite
def test_every_list_is_a_walk_along_an_index(
    mine: OrganizationInteractions, books: Books, database: Database
) -> None:
    node = books.node("top")
    books.arrive(node_id=node)
    listed(mine)
    period = {"since": now() - SECOND, "until": now()}
    for asked, index in (
        ({}, "sqlite_autoindex_arrival_1"),
        (period, "sqlite_autoindex_arrival_1"),
        ({"media_type": MediaType.CHAT, **period}, "sqlite_autoindex_arrival_1"),
        ({"hierarchy_ids": frozenset({node}), **period}, "ix_arrival_hierarchy"),
        ({"client_call_ids": frozenset({"1", "2"})}, "ix_interaction_client_call_id"),
    ):
        plans = plans_of(database, books.organization_id, ArrivalQuery(**asked))
        assert any(index in line for line in plans), (asked, plans)
        tables_read = [line for line in plans if re.search(r"(SCAN|SEARCH) (arr|int)", line)]
        assert tables_read
        assert all("SEARCH" in line and "INDEX" in line for line in tables_read), plans
        walks = [line for line in tables_read if "arrival_1" in line or "hierarchy" in line]
        assert all("media_type=? AND number>?" in line for line in walks), plans
        if "client_call_ids" not in asked:  # what is merged then is sorted, a page of each
            after = [next_ for line, next_ in itertools.pairwise(plans) if line in tables_read]
            assert not [line for line in after if "TEMP B-TREE" in line], plans


@on_postgresql
def test_postgresql_walks_along_an_index_however_it_guesses(
    books: Books, database: Database, owner_of: Callable[[Database], Database]
) -> None:
    """Its guess of what row-level security lets through makes it sort all that match, else."""
    node = books.node("top")
    model = books.receive(node_id=node)
    copied = [
        f"""INSERT INTO interaction SELECT (copy).* FROM (SELECT jsonb_populate_record(
            interaction, jsonb_build_object('id', gen_random_uuid(), 'file_name', n::text)
        ) AS copy FROM interaction, generate_series(1, 4000) n WHERE id = '{model}') made""",
        """INSERT INTO arrival (organization_id, media_type, number, interaction_id, at,
            hierarchy_node_id) SELECT organization_id, media_type, row_number() OVER (), id,
            received_at, CASE WHEN random() < 0.02 THEN hierarchy_node_id END
            FROM interaction""",
        "ANALYZE arrival, interaction",
    ]
    owner = owner_of(database)  # whom ANALYZE needs
    for statement in copied:
        with owner.write(None) as scope:
            scope.run(sa.text(statement))
    query = ArrivalQuery(hierarchy_ids=frozenset({node}), media_type=MediaType.AUDIO)
    plan = "\n".join(plans_of(database, books.organization_id, query, "EXPLAIN"))
    assert "Index Scan using ix_arrival_hierarchy on arrival" in plan, plan
    assert "Sort" not in plan, plan  # of a single branch nothing is put together
    query = ArrivalQuery(client_call_ids=frozenset({"7"}), media_type=MediaType.AUDIO)
    plan = "\n".join(plans_of(database, books.organization_id, query, "EXPLAIN"))
    assert "ix_interaction_client_call_id" in plan, plan
    assert "pk_arrival" not in plan, plan  # the few are sorted, and not looked for among all


def plans_of(
    database: Database,
    organization: UUID,
    query: ArrivalQuery,
    words: str = "EXPLAIN QUERY PLAN",
) -> Sequence[str]:
    """How the database answers the statements of a query."""
    told: list[str] = []

    def explain(
        connection: sa.Connection, cursor: Any, statement: str, values: Any, *_: Any
    ) -> None:
        if statement.startswith("SELECT"):
            found: Iterable[Any] = connection.connection.cursor().execute(
                f"{words} {statement}", values
            )
            told.extend(str(row[-1]) for row in found)

    sa.event.listen(database.engine, "before_cursor_execute", explain)
    try:
        with database.read(organization) as scope:
            arrivals.find(scope, query, after=0, limit=100)
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", explain)
    return told
