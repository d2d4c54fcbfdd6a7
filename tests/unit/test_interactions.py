"""What was taken in is found, read, played, deleted and retried, on both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from books import NOON, Books
from earmark import interactions as module
from earmark.database import interactions as stored
from earmark.database import tables
from earmark.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from earmark.interactions import Interactions, OrganizationInteractions, media_key, waveform_key
from earmark.interactions._cursors import cursor_of, position_of
from earmark.model import (
    AgentSent,
    AudioFacts,
    Cause,
    Customer,
    Direction,
    Grant,
    Interaction,
    InteractionDate,
    MediaType,
    NodeRef,
    Principal,
    Query,
    Status,
    Step,
    StepStatus,
    Warn,
    new_id,
    now,
)
from earmark.storage.local import LocalStore
from earmark.upkeep.sweep import Sweeper, Swept

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from earmark.database import Database
    from earmark.storage import Store

DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """For the tests that store nothing, since each has 256 folders made."""
    return LocalStore(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def everyone(
    request: pytest.FixtureRequest, database: Database, empty_store: LocalStore
) -> Interactions:
    has_own = "store" in request.fixturenames
    return Interactions(database, request.getfixturevalue("store") if has_own else empty_store)


@pytest.fixture
def mine(everyone: Interactions, principal: Principal) -> OrganizationInteractions:
    return everyone.for_(principal)


@pytest.fixture
def theirs(everyone: Interactions, other_principal: Principal) -> OrganizationInteractions:
    return everyone.for_(other_principal)


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


@pytest.fixture
def other_books(database: Database, other_organization: UUID) -> Books:
    return Books(database, other_organization)


def put(store: Store, id_: UUID, data: bytes = b"abc") -> None:
    store.put(media_key(id_), data)
    store.put(waveform_key(id_), b'{"version": 2}')


def ids(found: module.Page) -> list[UUID]:
    return [interaction.id for interaction in found.items]


def found(mine: OrganizationInteractions, **query: Any) -> set[UUID]:
    return set(ids(mine.find(Query(**query))))


def without(principal: Principal, grant: Grant) -> Principal:
    return replace(principal, grants=principal.grants - {grant})


# Reading one


def test_everything_that_was_written_is_read_back(
    mine: OrganizationInteractions, books: Books
) -> None:
    node, agent = books.node("north"), books.agent("7")
    date = InteractionDate(NOON, -240, "2022-03-18T08:00:00-04:00")
    id_ = books.receive(
        "calls/ä.wav",
        agent_id=agent,
        node_id=node,
        status=Status.READY,
        interaction_date=date,
        direction=Direction.INBOUND,
        customer=Customer("Ana", "+1", "ana@example.org"),
        agent=AgentSent("7", "Sent", "Name"),
        extended={"a": [1, {"b": None}]},
        locale="es-MX",
        client_call_id="call-1",
        metadata_sent='{"sent": 1}',
    )
    facts = AudioFacts("wav", "pcm_mulaw", 8000, 2, 33.5, None)
    books.change(id_, audio={name: getattr(facts, name) for name in facts.__slots__})
    books.step(id_, "unpack", StepStatus.SKIPPED, position=2)
    books.step(id_, "listen", StepStatus.DONE, position=1)

    read = mine.get(id_)

    assert read.steps == (
        Step("listen", StepStatus.DONE, 3, NOON, NOON + DAY, None),
        Step("unpack", StepStatus.SKIPPED, 3, NOON, NOON + DAY, Cause("broken", "It is broken.")),
    )
    assert abs(now() - read.received_at) < timedelta(minutes=1)
    assert read == Interaction(
        id=id_,
        file_name="calls/ä.wav",
        media_type=MediaType.AUDIO,
        status=Status.READY,
        round=1,
        received_at=read.received_at,
        interaction_date=date,
        direction=Direction.INBOUND,
        customer=Customer("Ana", "+1", "ana@example.org"),
        agent_id=agent,
        agent=AgentSent("7", "Sent", "Name"),
        hierarchy=NodeRef(node, "north", "north"),
        locale="es-MX",
        client_call_id="call-1",
        extended={"a": [1, {"b": None}]},
        metadata_sent='{"sent": 1}',
        size_bytes=3,
        sha256=b"\xab" * 32,
        audio=facts,
        warnings=(Warn("container_differs", "It is a WAV."),),
        steps=read.steps,
    )
    assert mine.find(Query()).items == (read,)


def test_what_was_not_sent_is_none(mine: OrganizationInteractions, books: Books) -> None:
    read = mine.get(books.receive())
    assert (read.interaction_date, read.direction, read.hierarchy, read.audio) == (None,) * 4
    assert (read.customer, read.agent, read.agent_id) == (Customer(), AgentSent(), None)
    assert (dict(read.extended), read.steps) == ({}, ())


def test_steps_stand_in_their_order_whichever_began_first(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(status=Status.READY)
    for position, name in ((1, "b"), (0, "c"), (2, "a")):
        books.step(id_, name, StepStatus.DONE, position)
    assert [step.name for step in mine.get(id_).steps] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (AgentSent("7"), AgentSent("7", "Joined", "Agent")),
        (AgentSent("7", "Sent"), AgentSent("7", "Sent", None)),
        (AgentSent("7", None, "Sent"), AgentSent("7", None, "Sent")),
    ],
)
def test_the_joined_agents_names_stand_where_none_was_sent(
    mine: OrganizationInteractions, books: Books, sent: AgentSent, read: AgentSent
) -> None:
    assert mine.get(books.receive(agent_id=books.agent("7"), agent=sent)).agent == read


def test_another_organizations_interaction_is_unknown_to_every_method(
    theirs: OrganizationInteractions, mine: OrganizationInteractions, books: Books, store: Store
) -> None:
    id_ = books.receive(status=Status.FAILED)
    put(store, id_)
    for unknown in (id_, uuid4()):
        for method in (
            theirs.get,
            theirs.media,
            theirs.waveform,
            theirs.delete,
            theirs.retry,
        ):
            with pytest.raises(NotFoundError):
                method(unknown)
    assert theirs.find(Query()) == module.Page((), None)
    assert mine.get(id_).status is Status.FAILED
    assert b"".join(mine.media(id_).read()) == b"abc"


def test_each_method_needs_its_grant(
    everyone: Interactions, principal: Principal, books: Books
) -> None:
    id_ = books.receive(status=Status.FAILED)
    reader = everyone.for_(without(principal, Grant.READ))
    for read in (reader.get, reader.media, reader.waveform, lambda _: reader.find(Query())):
        with pytest.raises(ForbiddenError):
            read(id_)
    with pytest.raises(ForbiddenError):
        everyone.for_(without(principal, Grant.DELETE)).delete(id_)
    with pytest.raises(ForbiddenError):
        everyone.for_(without(principal, Grant.MANAGE)).retry(id_)


# Finding


def test_newest_come_first_by_their_own_instant_else_by_arrival(
    mine: OrganizationInteractions, books: Books
) -> None:
    arrived = books.receive()
    old, older = books.receive(at=NOON), books.receive(at=NOON - DAY)
    assert ids(mine.find(Query())) == [arrived, old, older]


def test_the_range_of_time_includes_its_beginning_and_excludes_its_end(
    mine: OrganizationInteractions, books: Books
) -> None:
    first, second, third = (books.receive(at=NOON + DAY * day) for day in range(3))
    assert found(mine, since=NOON + DAY) == {second, third}
    assert found(mine, until=NOON + DAY) == {first}
    assert found(mine, since=NOON, until=NOON + DAY * 2) == {first, second}
    assert found(mine, since=NOON + DAY, until=NOON) == set()


@pytest.mark.parametrize("status", [Status.RECEIVED, Status.PROCESSING])
def test_processing_finds_what_waits_for_it_too(
    mine: OrganizationInteractions, books: Books, status: Status
) -> None:
    by_status = {each: books.receive(status=each) for each in Status}
    assert found(mine, status=status) == {
        by_status[Status.RECEIVED],
        by_status[Status.PROCESSING],
    }
    assert found(mine, status=Status.READY) == {by_status[Status.READY]}
    assert found(mine, status=Status.FAILED) == {by_status[Status.FAILED]}


def test_each_plain_filter_finds_its_own(mine: OrganizationInteractions, books: Books) -> None:
    agent = books.agent("7")
    wanted = books.receive(
        agent_id=agent,
        agent=AgentSent("7"),
        locale="es-MX",
        direction=Direction.OUTBOUND,
        client_call_id="call 1",
    )
    books.receive(
        agent_id=books.agent("8"),
        agent=AgentSent("8"),
        direction=Direction.INBOUND,
        client_call_id="call 2",
    )
    books.receive()
    filters = {
        "agent_id": agent,
        "agent_code": "7",
        "locale": "es-MX",
        "direction": Direction.OUTBOUND,
        "client_call_id": "call 1",
    }
    for name, value in filters.items():
        assert found(mine, **{name: value}) == {wanted}, name
    assert found(mine, **filters) == {wanted}
    assert found(mine, **{**filters, "agent_code": "8"}) == set()


def test_a_node_finds_its_whole_subtree_and_nothing_beside_it(
    mine: OrganizationInteractions, books: Books
) -> None:
    top = books.node("top")
    middle = books.node("middle", top)
    leaf, beside = books.node("leaf", middle, top), books.node("beside", top)
    at = {node: books.receive(node_id=node) for node in (top, middle, leaf, beside)}
    books.receive()

    def under(*nodes: UUID, **more: Any) -> set[UUID]:
        return found(mine, hierarchy_ids=frozenset(nodes), **more)

    assert under(top) == set(at.values())
    assert under(middle) == {at[middle], at[leaf]}
    assert under(leaf, beside) == {at[leaf], at[beside]}
    assert under(middle, leaf) == {at[middle], at[leaf]}
    assert under(uuid4()) == set()
    assert under(middle, status=Status.PROCESSING) == {at[middle], at[leaf]}
    assert under(middle, status=Status.READY) == set()


def test_an_agents_interactions_are_found_under_a_node(
    mine: OrganizationInteractions, books: Books
) -> None:
    top, agent = books.node("top"), books.agent("7")
    wanted = books.receive(node_id=books.node("leaf", top), agent_id=agent)
    books.receive(node_id=top)
    books.receive(agent_id=agent)
    assert found(mine, hierarchy_ids=frozenset({top}), agent_id=agent) == {wanted}


def test_a_node_with_more_nodes_below_it_than_are_read_one_by_one_finds_them_all(
    mine: OrganizationInteractions, books: Books
) -> None:
    top = books.node("top")
    leaves = [books.node(str(number), top) for number in range(stored.MAX_BRANCHES + 1)]
    wanted = {books.receive(node_id=leaf) for leaf in leaves}
    books.receive(node_id=books.node("beside"))
    assert found(mine, hierarchy_ids=frozenset({top})) == wanted


def test_another_organizations_node_finds_nothing(
    mine: OrganizationInteractions, theirs: OrganizationInteractions, books: Books
) -> None:
    node = books.node("top")
    id_ = books.receive(node_id=node)
    query = Query(hierarchy_ids=frozenset({node}))
    assert ids(mine.find(query)) == [id_]
    assert ids(theirs.find(query)) == []


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("", {"calls/a.wav", "calls/b.wav", "Calls/a.wav", "calls%.wav", "é.wav"}),
        ("calls/", {"calls/a.wav", "calls/b.wav"}),
        ("/calls\\\\", {"calls/a.wav", "calls/b.wav"}),
        ("calls/a.wav", {"calls/a.wav"}),
        ("calls%", {"calls%.wav"}),
        ("C", {"Calls/a.wav"}),
        ("e\N{COMBINING ACUTE ACCENT}", {"é.wav"}),
        ("d", set()),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}\U0010ffff", set()),
        ("\U0010ffff", set()),
    ],
)
def test_a_prefix_is_taken_as_it_stands(
    mine: OrganizationInteractions, books: Books, prefix: str, names: set[str]
) -> None:
    for name in ("calls/a.wav", "calls/b.wav", "Calls/a.wav", "calls%.wav", "é.wav"):
        books.receive(name)
    page = mine.find(Query(prefix=prefix))
    assert {interaction.file_name for interaction in page.items} == names


@given(
    prefix=st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
def test_the_end_of_a_prefixs_range_is_beyond_all_that_begin_with_it(
    prefix: str, name: str
) -> None:
    beyond = stored._first_beyond(prefix).encode()
    inside = prefix.encode() <= name.encode() and (not beyond or name.encode() < beyond)
    assert inside == name.startswith(prefix)


def test_the_end_of_a_range_steps_over_what_no_text_holds() -> None:
    assert stored._first_beyond("a\ud7ff") == "a\ue000"
    assert stored._first_beyond("a\U0010ffff\U0010ffff") == "b"
    assert stored._first_beyond("\U0010ffff") == ""


@pytest.mark.parametrize(
    ("query", "options", "fields"),
    [
        ({"locale": "en-us"}, {}, ["locale"]),
        ({"prefix": "a\0"}, {}, ["prefix"]),
        ({"agent_code": "\ud800"}, {}, ["agent_code"]),
        ({"client_call_id": "\udfff"}, {}, ["client_call_id"]),
        ({}, {"limit": 0}, ["limit"]),
        ({}, {"limit": 1001}, ["limit"]),
        ({}, {"cursor": ""}, ["cursor"]),
        ({"locale": "x"}, {"limit": -1, "cursor": "x"}, ["locale", "limit", "cursor"]),
    ],
)
def test_wrong_values_are_named_all_at_once(
    mine: OrganizationInteractions,
    query: dict[str, Any],
    options: dict[str, Any],
    fields: list[str],
) -> None:
    with pytest.raises(InvalidError) as caught:
        mine.find(Query(**query), **options)
    assert [fault.field for fault in caught.value.faults] == fields


# Pages


def test_another_organizations_interactions_take_no_place_on_a_page(
    mine: OrganizationInteractions, books: Books, other_books: Books
) -> None:
    other_books.receive(at=NOON + DAY)
    id_ = books.receive(at=NOON)
    other_books.receive(at=NOON - DAY)
    page = mine.find(Query(), limit=1)
    assert (ids(page), page.next_cursor) == ([id_], None)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seconds=st.lists(st.integers(0, 3), max_size=9),
    limit=st.integers(1, 4),
    nodes=st.booleans(),
)
def test_pages_have_neither_gaps_nor_doubles_where_instants_are_equal(
    mine: OrganizationInteractions,
    books: Books,
    seconds: list[int],
    limit: int,
    nodes: bool,
) -> None:
    with books.database.write(books.organization_id) as scope:
        scope.run(sa.delete(tables.interaction))
    node = books.node("one") if nodes else None
    instants = {
        books.receive(at=NOON + timedelta(seconds=each), id_=uuid4(), node_id=node): each
        for each in seconds
    }
    query = Query(hierarchy_ids=frozenset({node}) if node else frozenset())
    pages = list(walk(mine, query, limit))
    expected = sorted(instants, key=lambda id_: (instants[id_], id_), reverse=True)
    assert [id_ for page in pages for id_ in ids(page)] == expected
    assert all(len(page.items) == limit for page in pages[:-1])


def walk(mine: OrganizationInteractions, query: Query, limit: int) -> Iterator[module.Page]:
    cursor = None
    for _ in range(100):
        page = mine.find(query, limit=limit, cursor=cursor)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return
    pytest.fail("the pages do not end")


def test_what_comes_and_goes_between_pages_moves_nothing_else(
    mine: OrganizationInteractions, books: Books
) -> None:
    old = [books.receive(at=NOON - DAY * day) for day in range(6)]
    first = mine.find(Query(), limit=2)
    books.receive(at=NOON + DAY)
    mine.delete(old[1])
    mine.delete(old[3])
    second = mine.find(Query(), limit=2, cursor=first.next_cursor)
    assert ids(first) + ids(second) == [old[0], old[1], old[2], old[4]]


def test_a_cursor_is_url_safe_and_keeps_the_microsecond(
    mine: OrganizationInteractions, books: Books
) -> None:
    late = books.receive(at=datetime(9999, 12, 31, 23, 59, 59, 999999, UTC))
    early = books.receive(at=datetime(1, 1, 1, tzinfo=UTC))
    page = mine.find(Query(), limit=1)
    assert page.next_cursor
    assert page.next_cursor.replace("-", "").replace("_", "").isalnum()
    rest = mine.find(Query(), limit=1, cursor=page.next_cursor)
    assert (ids(page), ids(rest), rest.next_cursor) == ([late], [early], None)
    assert rest.items[0].interaction_date == InteractionDate(
        datetime(1, 1, 1, tzinfo=UTC), 0, "0001-01-01T00:00:00+00:00"
    )


@given(st.text(st.characters(codec="utf-8"), max_size=40) | st.from_regex(r"[\w-]{32}"))
def test_a_cursor_is_read_back_exactly_or_refused(cursor: str) -> None:
    position = position_of(cursor)
    assert position is None or cursor_of(position) == cursor


def test_a_cursor_beyond_all_time_is_refused() -> None:
    assert position_of("_" * 32) is None


def test_a_page_of_huge_metadata_ends_early_and_goes_on(
    mine: OrganizationInteractions, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_CHARACTERS", 1000)
    monkeypatch.setattr(module, "LOAD_BATCH", 2)
    for day in range(5):
        books.receive(at=NOON - DAY * day, metadata_sent="x" * 600)
    sizes = [len(page.items) for page in walk(mine, Query(), 5)]
    assert sizes == [2, 2, 1]


def test_one_that_is_deleted_while_its_page_is_loaded_is_left_out(
    mine: OrganizationInteractions, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone, last = (books.receive(at=NOON - DAY * day) for day in range(3))
    real = stored.load

    def load(scope: Any, wanted: Any) -> Any:
        return real(scope, set(wanted) - {gone})

    monkeypatch.setattr(stored, "load", load)
    assert ids(mine.find(Query())) == [kept, last]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "ix_interaction_newest"),
        ({"agent_id": UUID(int=1)}, "ix_interaction_agent"),
        ({"agent_code": "7"}, "ix_interaction_agent_code"),
        ({"client_call_id": "7"}, "ix_interaction_client_call_id"),
        ({"status": Status.FAILED}, "ix_interaction_status"),
        ({"status": Status.PROCESSING}, "ix_interaction_status"),
        ({"hierarchy_ids": "leaf"}, "ix_interaction_hierarchy"),
    ],
)
def test_a_page_is_read_from_the_index_that_orders_it(
    sqlite_url: str, query: dict[str, Any], index: str
) -> None:
    from earmark.database import Database

    database = Database(sqlite_url)
    organization_id = new_id()
    with database.write(None) as scope:
        row = {"id": organization_id, "name": "One", "created_at": NOON}
        scope.insert(tables.organization, row)
    books = Books(database, organization_id)
    if "hierarchy_ids" in query:
        query = {"hierarchy_ids": frozenset({books.node("leaf")})}
    after = stored.Position(NOON, UUID(int=0))
    plans = []

    def explain(connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
        if "FROM interaction" in sql and "EXPLAIN" not in sql:
            plans.extend(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all())

    sa.event.listen(database.engine, "before_cursor_execute", explain)
    with database.read(organization_id) as scope:
        stored.positions(scope, Query(**query), after=after, limit=50)
    searches = [row[-1] for row in plans if "interaction USING" in row[-1]]
    assert searches
    for search in searches:
        assert f"COVERING INDEX {index} " in search
        assert "(occurred_at,id)<(?,?)" in search
    database.close()


# Media and waveform


def test_media_is_read_in_ranges(
    mine: OrganizationInteractions, books: Books, store: Store
) -> None:
    id_ = books.receive("calls/a.wav")
    put(store, id_, bytes(range(256)) * 5000)
    media = mine.media(id_)
    assert (media.file_name, media.size_bytes, media.sha256) == ("calls/a.wav", 3, b"\xab" * 32)
    assert b"".join(media.read()) == bytes(range(256)) * 5000
    assert b"".join(media.read(255, 258)) == b"\xff\x00\x01"
    assert sum(len(chunk) for chunk in media.read(1)) == 256 * 5000 - 1


def test_deleting_does_not_end_a_reading(
    mine: OrganizationInteractions, books: Books, store: Store
) -> None:
    id_ = books.receive()
    put(store, id_, b"x" * 3_000_000)
    chunks = mine.media(id_).read()
    first = next(chunks)
    mine.delete(id_)
    assert first + b"".join(chunks) == b"x" * 3_000_000
    assert list(store.keys(older_than_seconds=-1)) == []


def test_media_deleted_between_asking_and_reading_is_unknown(
    mine: OrganizationInteractions, books: Books, store: Store
) -> None:
    id_ = books.receive()
    put(store, id_)
    media = mine.media(id_)
    mine.delete(id_)
    with pytest.raises(NotFoundError):
        media.read()


def test_media_lost_by_the_storage_is_our_fault(
    mine: OrganizationInteractions, books: Books
) -> None:
    media = mine.media(books.receive())
    with pytest.raises(UnavailableError, match="missing"):
        media.read()


@pytest.mark.parametrize("status", [Status.RECEIVED, Status.PROCESSING])
def test_a_waveform_is_not_ready_while_the_recording_is_processed(
    mine: OrganizationInteractions, books: Books, status: Status
) -> None:
    id_ = books.receive(status=status)
    with pytest.raises(ConflictError) as caught:
        mine.waveform(id_)
    assert caught.value.code == "processing"


@pytest.mark.parametrize("status", [Status.READY, Status.FAILED])
def test_a_waveform_is_read_as_it_was_drawn(
    mine: OrganizationInteractions, books: Books, store: Store, status: Status
) -> None:
    id_ = books.receive(status=status)
    put(store, id_)
    assert mine.waveform(id_) == b'{"version": 2}'


@pytest.mark.parametrize("status", list(Status))
def test_a_chat_has_no_waveform(
    mine: OrganizationInteractions, books: Books, status: Status
) -> None:
    id_ = books.receive("a.zip", media_type=MediaType.CHAT, status=status)
    with pytest.raises(NotFoundError):
        mine.waveform(id_)


def test_what_failed_before_it_was_drawn_has_no_waveform(
    mine: OrganizationInteractions, books: Books
) -> None:
    with pytest.raises(NotFoundError):
        mine.waveform(books.receive(status=Status.FAILED))


# Deleting


def test_deleting_leaves_only_its_trace_and_frees_the_name(
    mine: OrganizationInteractions, books: Books, store: Store
) -> None:
    id_ = books.receive("a.wav")
    books.step(id_, "listen", StepStatus.RUNNING)
    put(store, id_)
    mine.delete(id_)
    assert books.all(tables.interaction) == books.all(tables.step) == []
    assert list(store.keys(older_than_seconds=-1)) == []
    (audit,), (event,) = books.all(tables.audit), books.all(tables.event)
    assert audit.actor == "client:first-client"
    assert (audit.action, audit.subject) == ("interaction.delete", str(id_))
    assert (event.kind, event.interaction_id) == ("interaction.deleted", id_)
    with pytest.raises(NotFoundError):
        mine.delete(id_)
    assert len(books.all(tables.audit)) == 1
    assert mine.get(books.receive("a.wav")).file_name == "a.wav"


class _BrokenStore(LocalStore):
    @override
    def delete(self, key: str) -> None:
        raise UnavailableError("no")


def test_objects_that_cannot_be_removed_are_left_to_the_sweeper(
    database: Database, principal: Principal, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    id_ = books.receive()
    put(store, id_)
    broken = Interactions(database, _BrokenStore(tmp_path / "objects"))
    broken.for_(principal).delete(id_)
    assert set(store.keys(older_than_seconds=-1)) == {media_key(id_), waveform_key(id_)}
    assert Sweeper(database, store).sweep(grace_seconds=-1) == Swept(deleted=2)
    assert list(store.keys(older_than_seconds=-1)) == []


def test_deleting_forgets_failed_downloads_of_the_same_name_alone(
    everyone: Interactions,
    principal: Principal,
    books: Books,
    other_books: Books,
) -> None:
    def download(books: Books, name: str, status: str) -> UUID:
        id_ = new_id()
        ended = None if status == "downloading" else NOON
        row = {"id": id_, "client_id": "c", "file_name": name, "status": status, "attempts": 1}
        with books.database.write(books.organization_id) as scope:
            scope.insert(tables.download, {**row, "created_at": NOON, "finished_at": ended})
        return id_

    id_ = books.receive("Ana Example.wav")
    download(books, "Ana Example.wav", "failed")
    kept = {
        download(books, "Ana Example.wav", "downloading"),
        download(books, "other.wav", "failed"),
        download(other_books, "Ana Example.wav", "failed"),
    }
    everyone.for_(principal).delete(id_)
    with books.database.read(None) as scope:
        left = {row.id for row in scope.rows(sa.select(tables.download.c.id))}
    assert left == kept


# Retrying


def test_a_failed_interaction_is_received_again_without_the_steps_that_are_not_done(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_, bystander = (books.receive(status=Status.FAILED) for _ in range(2))
    for position, status in enumerate(StepStatus):
        books.step(id_, status.value, status, position)
    books.step(bystander, "listen", StepStatus.FAILED)
    mine.retry(id_)
    again = mine.get(id_)
    assert (again.status, again.round) == (Status.RECEIVED, 2)
    assert [step.name for step in again.steps] == ["done"]
    assert (mine.get(bystander).status, len(mine.get(bystander).steps)) == (Status.FAILED, 1)
    (audit,), (event,) = books.all(tables.audit), books.all(tables.event)
    assert (audit.action, audit.subject, audit.detail) == (
        "interaction.retry",
        str(id_),
        {"round": 2},
    )
    assert (event.kind, event.interaction_id) == ("interaction.retried", id_)


def test_a_ready_interaction_with_a_skipped_step_is_received_again(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(status=Status.READY)
    books.step(id_, "listen", StepStatus.DONE)
    books.step(id_, "unpack", StepStatus.SKIPPED, 1)
    mine.retry(id_)
    assert mine.get(id_).status is Status.RECEIVED


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.RECEIVED, "processing"),
        (Status.PROCESSING, "processing"),
        (Status.READY, "nothing_to_retry"),
    ],
)
def test_what_neither_failed_nor_was_skipped_is_not_retried(
    mine: OrganizationInteractions, books: Books, status: Status, code: str
) -> None:
    id_ = books.receive(status=status)
    books.step(id_, "listen", StepStatus.DONE)
    other = books.receive(status=Status.READY)
    books.step(other, "unpack", StepStatus.SKIPPED)
    with pytest.raises(ConflictError) as caught:
        mine.retry(id_)
    assert caught.value.code == code
    assert mine.get(id_).round == 1
    assert books.all(tables.audit) == books.all(tables.event) == []


def test_what_waits_for_its_next_attempt_need_not_wait_longer(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(status=Status.RECEIVED)
    books.step(id_, "listen", StepStatus.DONE)
    books.step(id_, "transcribe", StepStatus.WAITING, 1)
    mine.retry(id_)
    again = mine.get(id_)
    assert (again.round, [step.name for step in again.steps]) == (2, ["listen"])


def test_a_ready_interaction_of_which_a_step_failed_is_received_again(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(status=Status.READY)
    books.step(id_, "extra", StepStatus.FAILED)
    mine.retry(id_)
    assert mine.get(id_).status is Status.RECEIVED


def troubled(books: Books) -> dict[str, UUID]:
    """An interaction of each kind that a bulk retry meets, by what its step bears."""
    made = {}
    for status, step, code in (
        (Status.FAILED, StepStatus.FAILED, "unreadable"),
        (Status.FAILED, StepStatus.FAILED, "worker_lost"),
        (Status.READY, StepStatus.SKIPPED, "speech_off"),
        (Status.RECEIVED, StepStatus.WAITING, "speech_unreachable"),
    ):
        made[code] = books.receive(status=status)
        books.step(made[code], "listen", StepStatus.DONE)
        books.step(made[code], "transcribe", step, 1, code=code)
    made["ready"] = books.receive(status=Status.READY)
    books.step(made["ready"], "listen", StepStatus.DONE)
    made["received"] = books.receive()
    return made


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), {"unreadable", "worker_lost", "speech_off", "speech_unreachable"}),
        (Query(error_code="worker_lost"), {"worker_lost"}),
        (Query(status=Status.FAILED), {"unreadable", "worker_lost"}),
        (Query(step_statuses=frozenset({StepStatus.SKIPPED})), {"speech_off"}),
        (Query(error_code="speech_off", status=Status.FAILED), set()),
    ],
)
def test_a_bulk_retry_puts_back_what_its_query_finds_and_no_more(
    mine: OrganizationInteractions, books: Books, query: Query, expected: set[str]
) -> None:
    made = troubled(books)
    would = mine.retry_found(query, dry_run=True)
    assert {mine.get(id_).round for id_ in made.values()} == {1}
    assert books.all(tables.audit) == []
    done = mine.retry_found(query)
    assert done == would == module.Retried(len(expected), {})
    assert {name for name, id_ in made.items() if mine.get(id_).round == 2} == expected
    for name in expected:
        again = mine.get(made[name])
        assert (again.status, [step.name for step in again.steps]) == (Status.RECEIVED, ["listen"])
    told = {str(made[name]) for name in expected}
    assert {row.subject for row in books.all(tables.audit)} == told
    assert {str(row.interaction_id) for row in books.all(tables.event)} == told
    assert len(books.all(tables.event)) == len(expected)
    assert mine.retry_found(query) == module.Retried(0, {})


def test_a_bulk_retry_by_ids_says_why_it_left_others_alone(
    mine: OrganizationInteractions, books: Books, other_books: Books
) -> None:
    made = troubled(books)
    foreign = other_books.receive(status=Status.FAILED)
    done = mine.retry_these([*made.values(), *made.values(), foreign, new_id()])
    assert done.retried == 4
    assert done.left == {"processing": 1, "nothing_to_retry": 1, "not_found": 2}
    again = mine.retry_these(list(made.values()))
    assert (again.retried, again.left) == (0, {"processing": 5, "nothing_to_retry": 1})
    assert other_books.all(tables.audit) == books.all(tables.audit)[4:] == []


def test_a_bulk_retry_goes_on_where_the_last_one_ended(
    mine: OrganizationInteractions, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_BATCH", 2)
    ids = [books.receive(status=Status.FAILED) for _ in range(7)]
    for id_ in ids:
        books.step(id_, "listen", StepStatus.FAILED)
    counts, cursor = [], None
    while True:
        done = mine.retry_found(Query(), limit=3, cursor=cursor)
        counts.append(done.retried)
        cursor = done.next_cursor
        if cursor is None:
            break
    assert counts == [3, 3, 1]
    assert all(mine.get(id_).round == 2 for id_ in ids)


def test_two_bulk_retries_at_once_put_each_back_once(
    mine: OrganizationInteractions, books: Books
) -> None:
    ids = [books.receive(status=Status.FAILED) for _ in range(20)]
    for id_ in ids:
        books.step(id_, "listen", StepStatus.FAILED)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(mine.retry_these, (ids, ids[::-1]))
    assert first.retried + second.retried == 20
    assert {mine.get(id_).round for id_ in ids} == {2}


def test_a_bulk_retry_needs_the_grant_and_a_good_query(
    everyone: Interactions, principal: Principal
) -> None:
    poor = everyone.for_(replace(principal, grants=frozenset({Grant.READ})))
    with pytest.raises(ForbiddenError):
        poor.retry_found(Query())
    with pytest.raises(ForbiddenError):
        poor.retry_these([])
    with pytest.raises(InvalidError):
        everyone.for_(principal).retry_found(Query(error_code="\0"), limit=0, cursor="?")


def test_an_operator_is_told_as_such(everyone: Interactions, books: Books) -> None:
    id_ = books.receive(status=Status.FAILED)
    everyone.for_operator(books.organization_id).retry_these([id_])
    assert [row.actor for row in books.all(tables.audit)] == ["operator"]


def test_a_code_is_found_by_its_index(mine: OrganizationInteractions, books: Books) -> None:
    made = troubled(books)
    page = mine.find(Query(error_code="speech_off"))
    assert [one.id for one in page.items] == [made["speech_off"]]


def test_a_second_retry_finds_the_first_under_way(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(status=Status.FAILED)
    mine.retry(id_)
    with pytest.raises(ConflictError):
        mine.retry(id_)
    assert mine.get(id_).round == 2


def test_of_two_retries_at_once_the_second_finds_the_first_under_way(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(status=Status.FAILED)
    with ThreadPoolExecutor(1) as pool:
        with books.database.write(books.organization_id) as scope:
            assert stored.status_of(scope, id_) is Status.FAILED
            second = pool.submit(mine.retry, id_)
            time.sleep(0.3)  # long enough for a retry that does not wait
            assert stored.receive_again(scope, id_) == 2
        with pytest.raises(ConflictError):
            second.result()
    assert mine.get(id_).round == 2
