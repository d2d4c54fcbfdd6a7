"""Interactions found by what was said: the same on both databases, and as a plain reading does."""

from __future__ import annotations

import random
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from books import DAY, NOON, Books
from earmark.database import Database, migrate, search, search_index, tables
from earmark.errors import InvalidError, NotFoundError, UnavailableError
from earmark.interactions import Interactions, OrganizationInteractions, transcript_key
from earmark.model import Direction, Grant, Principal, Query, Status, StepStatus, new_id
from earmark.model import search as model_search
from earmark.model.search import MAX_QUERY_WORDS, PREFIX_MARK, words
from earmark.model.transcript import Segment, Speaker, Transcript
from earmark.pipeline.indexing import Indexer
from earmark.render.json import Json
from earmark.storage.local import LocalStore
from saying import plainly_holds, say, transcript

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from uuid import UUID

    from postgres import Server

sqlite_alone = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
postgresql_alone = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("objects"))


@pytest.fixture
def mine(database: Database, store: LocalStore, principal: Principal) -> OrganizationInteractions:
    return Interactions(database, store).for_(principal)


@pytest.fixture
def theirs(
    database: Database, store: LocalStore, other_principal: Principal
) -> OrganizationInteractions:
    return Interactions(database, store).for_(other_principal)


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


@pytest.fixture
def indexer(database: Database, store: LocalStore) -> Indexer:
    return Indexer(database, store)


def call(books: Books, *lines: str, at: datetime | None = None, **about: Any) -> UUID:
    """An interaction in which this is said."""
    language = about.pop("language", "en")
    id_ = books.receive(at=at, status=about.pop("status", Status.READY), **about)
    say(books.database, books.organization_id, id_, transcript(*lines, language=language))
    return id_


def work_off(indexer: Indexer) -> None:
    while indexer.work():
        pass


def ids(mine: OrganizationInteractions, q: str, **query: Any) -> list[UUID]:
    """All that is found, over as many pages as it takes."""
    limit = query.pop("limit", 50)
    found: list[UUID] = []
    cursor = None
    for _ in range(1000):
        page = mine.find(Query(q=q, **query), limit=limit, cursor=cursor)
        found += [interaction.id for interaction in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the pages do not end")


@pytest.fixture(params=["waiting", "indexed"])
def settle(request: pytest.FixtureRequest, indexer: Indexer) -> Callable[[], None]:
    """Has what was said so far get its number, or wait for it."""
    return (lambda: work_off(indexer)) if request.param == "indexed" else (lambda: None)


# What is found


def test_words_phrases_and_beginnings_are_found_whether_indexed_yet_or_not(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    one = call(books, "Good morning, I'd like to CANCEL my order.", "Surely.", at=NOON)
    settle()
    two = call(books, "¿Cuándo llegó el médico?", "Mañana por la mañana.", at=NOON + DAY)
    three = call(books, "The morning is good to order; cancellation costs.", at=NOON + DAY * 2)
    settle()
    assert ids(mine, "morning") == [three, one]
    assert ids(mine, "GOOD Order") == [three, one]
    assert ids(mine, '"good morning"') == [one]
    assert ids(mine, '"morning good"') == []
    assert ids(mine, "cancel") == [one]
    assert ids(mine, "cancel*") == [three, one]
    assert ids(mine, "cance*") == [three, one]
    assert ids(mine, "c*") == [three, two, one]
    assert ids(mine, '"to canc*"') == [one]
    assert ids(mine, "id surely") == [one]
    assert ids(mine, "i'd") == [one]
    assert ids(mine, "medico llego") == [two]
    assert ids(mine, "MÉDICO") == [two]
    assert ids(mine, "manana") == ids(mine, "mañana") == [two]
    assert ids(mine, "morning mañana") == []
    assert ids(mine, "nobody") == ids(mine, "nobo*") == ids(mine, "x*") == []


def test_operators_of_databases_are_words_like_others(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    said = call(books, "This or that, not near and far: 100% of O'Brien; drop table\\ x_y")
    settle()
    for q in ("or", "NEAR", "NOT this", "this AND far", "100%", "o'brien", '"drop table"', "x_y"):
        assert ids(mine, q) == [said], q
    for q in ("NEAR/2", "this & that", "this | that", "a:b", "(this)", "^this", "{this that}:x"):
        wanted = [said] if plainly_holds(["This or that, not near and far 100 x y"], q) else []
        assert ids(mine, q) == wanted, q


def test_a_phrase_goes_on_where_the_same_speaker_does_and_no_further(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    call_ids = {}
    for name, apart in (("two", True), ("one", False)):
        call_ids[name] = books.receive(at=NOON, status=Status.READY)
        said = transcript("please cancel", "my account", apart=apart)
        say(books.database, books.organization_id, call_ids[name], said)
    chat = books.receive(at=NOON, status=Status.READY)
    lines = tuple(
        Segment(text, Speaker.AGENT, at=NOON) for text in ("please cancel", "my account")
    )
    say(books.database, books.organization_id, chat, Transcript(lines, "en"))
    settle()
    assert ids(mine, '"cancel my"') == [call_ids["one"]]
    assert set(ids(mine, "cancel my")) == {*call_ids.values(), chat}
    (found,) = mine.find(Query(q='"cancel my"')).matches.values()
    assert [(match.text, match.ranges) for match in found] == [
        ("please cancel", ((7, 13),)),
        ("my account", ((0, 2),)),
    ]


def test_every_filter_holds_beside_the_words(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    agent, top = books.agent("7"), books.node("top")
    leaf = books.node("leaf", top)
    wanted = call(
        books,
        "refund please",
        at=NOON,
        name="calls/1.wav",
        agent_id=agent,
        node_id=leaf,
        locale="es-MX",
        direction=Direction.INBOUND,
        client_call_id="c1",
    )
    settle()
    call(books, "no word of it", at=NOON, agent_id=agent, node_id=leaf)
    other = call(books, "refund refused", at=NOON - DAY, status=Status.FAILED)
    settle()
    assert ids(mine, "refund") == [wanted, other]
    for filters in (
        {"agent_id": agent},
        {"hierarchy_ids": frozenset({top})},
        {"hierarchy_ids": frozenset({leaf}), "agent_id": agent, "status": Status.READY},
        {"locale": "es-MX"},
        {"direction": Direction.INBOUND},
        {"client_call_id": "c1"},
        {"prefix": "calls/"},
        {"since": NOON},
        {"status": Status.READY},
    ):
        assert ids(mine, "refund", **filters) == [wanted], filters
    assert ids(mine, "refund", until=NOON) == ids(mine, "refund", status=Status.FAILED) == [other]
    assert ids(mine, "refund", agent_code="7") == []
    assert ids(mine, "refund", status=Status.PROCESSING) == []


def test_a_filter_lets_through_what_is_older_than_a_page_of_others(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    wanted = call(books, "The same word.", at=NOON, locale="es-MX")
    for day in range(1, 4):
        call(books, "The same word.", at=NOON + DAY * day, locale="en-US")
    settle()
    page = mine.find(Query(q="same", locale="es-MX"), limit=1)
    assert [item.id for item in page.items] == [wanted]


def test_another_organization_finds_nothing_of_it(
    mine: OrganizationInteractions,
    theirs: OrganizationInteractions,
    books: Books,
    other_organization: UUID,
    settle: Callable[[], None],
) -> None:
    said = call(books, "secret word")
    others = Books(books.database, other_organization)
    own = call(others, "another word")
    settle()
    assert (ids(mine, "word"), ids(theirs, "word")) == ([said], [own])
    for q in ("secret", "secr*", '"secret word"', "s*"):
        assert ids(theirs, q) == []


# Alike everywhere

PLAIN = (
    "yes",
    "no",
    "call",
    "called",
    "cancel",
    "año",
    "Ano",
    "él",
    "e-mail",
    "don't",
    "7",
    "2,5",
)
TEXTS = st.lists(st.sampled_from(PLAIN), min_size=1, max_size=6).map(" ".join)
CORPUS = st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=8)
BARE = st.sampled_from((*PLAIN, "c*", "ca*", "call*", "canc*", "ELLA", "e-m*", "an*"))
QUOTED = st.builds('"{}"'.format, TEXTS)
QUERIES = (
    st.lists(BARE | QUOTED, min_size=1, max_size=3)
    .map(" ".join)
    .filter(lambda q: len(words(q)) <= MAX_QUERY_WORDS)
)


@pytest.fixture(scope="module")
def both(
    sqlite_template: Path,
    postgres_server: Server,
    postgres_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Database, ...]]:
    """A database of each kind, for organizations that come and go."""
    path = tmp_path_factory.mktemp("both") / "earmark.sqlite3"
    shutil.copyfile(sqlite_template, path)
    name = postgres_server.create(postgres_template)
    databases = (Database(f"sqlite:///{path}"), Database(postgres_server.url(name)))
    yield databases
    for database in databases:
        database.close()
    postgres_server.drop(name)


@given(
    corpus=CORPUS,
    queries=st.lists(QUERIES, min_size=1, max_size=6),
    indexed=st.integers(0, 8),
    limit=st.integers(1, 4),
    walks=st.booleans(),
)
@settings(max_examples=15)
def test_both_databases_find_what_a_plain_reading_finds(  # noqa: PLR0917 - fixtures and examples
    both: tuple[Database, ...],
    store: LocalStore,
    corpus: list[list[str]],
    queries: list[str],
    indexed: int,
    limit: int,
    walks: bool,
) -> None:
    for database in both:
        mine, said = spoken(database, store, corpus, indexed)
        order = [interaction.id for interaction in mine.find(Query()).items]
        with pytest.MonkeyPatch.context() as patch:
            if walks:
                walk_always(patch)
            for q in queries:
                plainly = [id_ for id_ in order if plainly_holds(said[id_], q)]
                assert ids(mine, q, limit=limit) == plainly, (q, database)
                spanish = [id_ for id_ in plainly if mine.get(id_).locale == "es-MX"]
                assert ids(mine, q, limit=limit, locale="es-MX") == spanish, (q, database)


def spoken(
    database: Database, store: LocalStore, corpus: list[list[str]], indexed: int
) -> tuple[OrganizationInteractions, dict[UUID, list[str]]]:
    """A new organization in which this was said, the first so many of it indexed."""
    organization = new_id()
    with database.write(None) as scope:
        row = {"id": organization, "name": str(organization), "created_at": NOON}
        scope.insert(tables.organization, row)
    books = Books(database, organization)
    said: dict[UUID, list[str]] = {}
    for number, lines in enumerate(corpus):
        if number == indexed:
            work_off(Indexer(database, store))
        locale = "es-MX" if number % 3 else "en-US"
        said[call(books, *lines, at=NOON + DAY * (number * 7 % 5), locale=locale)] = lines
    principal = Principal(organization, "x", frozenset(Grant))
    return Interactions(database, store).for_(principal), said


def walk_always(patch: pytest.MonkeyPatch, at_most: int = 3) -> None:
    """Has searches walk in small strides and give up soon."""
    patch.setattr(search._Indexed, "_few", lambda *_: False)
    patch.setattr(search, "FIRST_STRIDE", 1)
    patch.setattr(search, "LAST_STRIDE", 2)
    patch.setattr(search, "WALKED_AT_MOST", at_most)
    patch.setattr(search, "READ_AT_ONCE", 1)
    patch.setattr(search, "READ_AT_MOST", 2)


@pytest.mark.parametrize("few", [True, False], ids=["looked up", "walked"])
def test_many_documents_of_many_blocks_are_found_page_by_page(
    mine: OrganizationInteractions,
    books: Books,
    indexer: Indexer,
    monkeypatch: pytest.MonkeyPatch,
    few: bool,
) -> None:
    for module in (search, search_index):
        monkeypatch.setattr(module, "BLOCK_DOCUMENTS", 16)
    monkeypatch.setattr(search_index, "BITMAP_BYTES", 2)
    monkeypatch.setattr(search_index, "INDEXED_AT_ONCE", 7)
    if not few:
        walk_always(monkeypatch)
    chance = random.Random(1)
    said = {}
    for number in range(50):
        lines = [" ".join(chance.choices(["alpha", "beta", "gamma", "delta"], k=2))]
        at = NOON + timedelta(hours=chance.randrange(20))
        said[call(books, *lines, at=at)] = lines
        if number % 20 == 19:
            work_off(indexer)
    order = [interaction.id for interaction in mine.find(Query()).items]
    for q in ("alpha", "alpha beta", '"alpha beta"', "ga*", "gamm*", '"beta gamm*"', "omega"):
        expected = [id_ for id_ in order if plainly_holds(said[id_], q)]
        assert ids(mine, q, limit=7) == expected, q
    gone = order[::3]
    for id_ in gone:
        mine.delete(id_)
    left = [id_ for id_ in order if id_ not in gone]
    for q in ("alpha", '"alpha beta"', "gamm*"):
        expected = [id_ for id_ in left if plainly_holds(said[id_], q)]
        assert ids(mine, q, limit=7) == expected, q


def test_a_walk_past_many_that_are_no_hits_ends_early_and_leads_on(
    mine: OrganizationInteractions,
    books: Books,
    indexer: Indexer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needle = call(books, "A needle.", at=NOON)
    for day in range(1, 8):
        call(books, "Nothing but hay.", at=NOON + DAY * day)
    work_off(indexer)
    walk_always(monkeypatch)
    page = mine.find(Query(q="needle"))
    assert (page.items, page.next_cursor is None) == ((), False)
    assert ids(mine, "needle") == [needle]


@pytest.mark.parametrize("few", [True, False], ids=["looked up", "walked"])
def test_a_page_reads_no_more_than_so_many_transcripts_and_leads_on(
    mine: OrganizationInteractions,
    books: Books,
    indexer: Indexer,
    monkeypatch: pytest.MonkeyPatch,
    few: bool,
) -> None:
    monkeypatch.setattr(model_search, "PAIRS", 1)  # any two words may be neighbours
    phrase = call(books, "Of the same mind.", at=NOON)
    for day in range(1, 8):
        call(books, "The same of it.", at=NOON + DAY * day)
    work_off(indexer)
    if not few:
        walk_always(monkeypatch, at_most=100)
    monkeypatch.setattr(search, "READ_AT_ONCE", 1)
    monkeypatch.setattr(search, "READ_AT_MOST", 2)
    page = mine.find(Query(q='"of the"'))
    assert (page.items, page.next_cursor is None) == ((), False)
    assert ids(mine, '"of the"') == [phrase]


def test_of_many_that_wait_the_first_are_found_and_the_rest_once_they_have_their_number(
    mine: OrganizationInteractions,
    books: Books,
    indexer: Indexer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "WAITING_AT_MOST", 3)
    first = [call(books, "We wait.", at=NOON + DAY * i) for i in (2, 1, 3, 5, 4)]
    assert set(ids(mine, "wait")) == set(first[:3])
    work_off(indexer)
    assert set(ids(mine, "wait")) == set(first)


def test_of_no_interaction_nothing_is_looked_up() -> None:
    nothing: Any = None
    assert search.documents(nothing, []) == {}


def test_a_posting_takes_no_more_than_a_bitmap_and_loses_none(
    mine: OrganizationInteractions,
    books: Books,
    indexer: Indexer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "BLOCK_DOCUMENTS", 64)
    monkeypatch.setattr(search_index, "BLOCK_DOCUMENTS", 64)
    monkeypatch.setattr(search_index, "BITMAP_BYTES", 8)
    for number in range(1, 13):
        call(books, "Alike.", at=NOON + DAY * number)
        work_off(indexer)
        with books.database.read(books.organization_id) as scope:
            posting = sa.select(tables.search_posting.c.documents)
            row = scope.row(posting.where(tables.search_posting.c.key == "alike"))
        assert row is not None
        assert len(row.documents) == min(2 * number, 8)
        assert len(ids(mine, "alike")) == number


def test_pages_have_neither_gaps_nor_doubles_while_calls_come_and_go(
    mine: OrganizationInteractions, books: Books, indexer: Indexer
) -> None:
    old = [call(books, "word", at=NOON + DAY * day) for day in range(6)]
    first = mine.find(Query(q="word"), limit=2)
    call(books, "word", at=NOON + DAY * 9)
    mine.delete(old[3])
    work_off(indexer)
    second = mine.find(Query(q="word"), limit=2, cursor=first.next_cursor)
    third = mine.find(Query(q="word"), limit=2, cursor=second.next_cursor)
    pages = [[item.id for item in page.items] for page in (first, second, third)]
    assert pages == [[old[5], old[4]], [old[2], old[1]], [old[0]]]
    assert third.next_cursor is None


# What is shown


def test_a_match_tells_its_line_hits_speaker_and_time(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    id_ = call(books, "Well, hello.", "Llamó e\u0301l: LLAMÓ ayer.", "Nothing.")
    settle()
    (match,) = mine.find(Query(q="llamo")).matches[id_]
    assert (match.text, match.speaker, match.start_seconds, match.at) == (
        "Llamó e\u0301l: LLAMÓ ayer.",
        Speaker.CUSTOMER,
        2.0,
        None,
    )
    assert [match.text[start:stop] for start, stop in match.ranges] == ["Llamó", "LLAMÓ"]
    (match,) = mine.find(Query(q="el")).matches[id_]
    assert [match.text[start:stop] for start, stop in match.ranges] == ["e\u0301l"]
    assert mine.find(Query()).matches == {}


# Changing and forgetting


def test_another_transcript_takes_the_place_of_the_first(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    id_ = call(books, "the first words")
    settle()
    say(books.database, books.organization_id, id_, transcript("segunda versión", language="es"))
    settle()
    assert ids(mine, "first") == ids(mine, "fir*") == ids(mine, '"the first"') == []
    assert ids(mine, "version") == [id_]
    assert len(books.all(tables.search_document)) == 1


def test_a_deleted_interaction_leaves_no_word_and_no_number(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    id_ = call(books, "an unspeakable secret", "indeed")
    settle()
    mine.delete(id_)
    assert books.all(tables.search_document) == books.all(tables.search_posting) == []
    with pytest.raises(NotFoundError):
        mine.delete(id_)
    after = call(books, "something else")
    settle()
    assert ids(mine, "unspeakable") == []
    assert ids(mine, "else") == [after]


def test_deleting_leaves_the_words_of_others(
    mine: OrganizationInteractions, books: Books, indexer: Indexer
) -> None:
    gone, kept = call(books, "shared one"), call(books, "shared two")
    work_off(indexer)
    mine.delete(gone)
    keys = {row.key for row in books.all(tables.search_posting)}
    assert {"shared", "two"} <= keys
    assert not {"one", f"{PREFIX_MARK}one"} & keys
    assert ids(mine, "shared") == [kept]


@sqlite_alone
def test_after_a_checkpoint_the_file_holds_no_word_of_what_was_deleted(
    mine: OrganizationInteractions, books: Books, indexer: Indexer, database: Database
) -> None:
    call(books, "harmless talk")
    id_ = call(books, "xylophonist quadrille")
    work_off(indexer)
    path = Path(str(database.engine.url.database))

    def holds_it() -> bool:
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        connection.close()
        return b"xylophonist" in path.read_bytes()

    assert holds_it()
    mine.delete(id_)
    assert not holds_it()


def test_a_changed_date_moves_an_interaction_among_those_found(
    mine: OrganizationInteractions,
    books: Books,
    settle: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    walk_always(monkeypatch, at_most=100)
    moved = call(books, "word", at=NOON)
    other = call(books, "word", at=NOON + DAY)
    settle()
    assert ids(mine, "word") == [other, moved]
    books.change(moved, occurred_at=NOON + DAY * 2)
    assert ids(mine, "word") == [moved, other]
    books.change(moved, occurred_at=NOON - DAY)
    assert ids(mine, "word") == [other, moved]


def test_indexing_and_deleting_at_once_lose_nothing(
    mine: OrganizationInteractions, books: Books, indexer: Indexer
) -> None:
    said = [call(books, f"common number{i}", at=NOON + DAY * i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(work_off, indexer) for _ in range(2)]
        work += [pool.submit(mine.delete, id_) for id_ in said[::2]]
        for done in work:
            done.result()
    assert ids(mine, "common") == said[1::2][::-1]
    assert ids(mine, "number4") == []
    assert ids(mine, "number5") == [said[5]]
    numbers = [row.number for row in books.all(tables.search_document)]
    assert None not in numbers
    assert len(set(numbers)) == 20


# Transcripts from before there was an index


@pytest.fixture
def old_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterable[str]:
    """The URL of a database with the tables before this."""
    if database_kind == "sqlite":
        url = f"sqlite:///{tmp_path}/old.sqlite3"
        yield _first_tables(url)
        return
    server = request.getfixturevalue("postgres_server")
    name = server.create()
    yield _first_tables(server.owner_url(name))
    server.drop(name)


def _first_tables(url: str) -> str:
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(migrate._SCRIPTS))
    with database.write(None) as scope:
        config.attributes["connection"] = scope.connection
        command.upgrade(config, "0002")
    database.close()
    return url


def test_transcripts_from_before_the_index_are_read_into_it_bit_by_bit(
    old_url: str, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(old_url)
    organization = new_id()
    with database.write(None) as scope:
        row = {"id": organization, "name": "First", "created_at": NOON}
        scope.insert(tables.organization, row)
    books = Books(database, organization)
    facts = {"language": "en", "segment_count": 1, "word_count": 2}
    old = [books.receive(at=NOON + DAY * i, status=Status.READY) for i in range(5)]
    for number, id_ in enumerate(old):
        books.change(id_, transcript=facts)
        if number:  # that of the first was lost
            store.put(transcript_key(id_), Json().render(transcript(f"old number{number}")))
    store.put(transcript_key(old[4]), b"{}")
    bare = books.receive(at=NOON, status=Status.FAILED)

    migrate.upgrade(database)
    monkeypatch.setattr("earmark.pipeline.indexing.READ_AT_ONCE", 2)
    everyone = Interactions(database, store)
    mine = everyone.for_(Principal(organization, "x", frozenset(Grant)))
    assert ids(mine, "old") == []
    mine.delete(old[3])
    indexer = Indexer(database, store)
    assert indexer.work() == 2
    found = ids(mine, "old")
    assert len(found) < 3
    work_off(indexer)
    assert ids(mine, "old") == [old[2], old[1]]
    assert ids(mine, "number2") == [old[2]]
    assert len(books.all(tables.search_document)) == 2
    assert mine.get(bare).status is Status.FAILED
    database.close()


def test_what_was_saved_meanwhile_is_not_replaced_by_what_was_read(
    books: Books, mine: OrganizationInteractions
) -> None:
    id_ = call(books, "the new one")
    with books.database.write(books.organization_id) as scope:
        search_index.fill(scope, id_, transcript("the old one"))
        search_index.fill(scope, id_, None)
    assert (ids(mine, "new"), ids(mine, "old")) == ([id_], [])


class _AwayStore(LocalStore):
    @override
    def read(self, key: str, start: int = 0, stop: int | None = None) -> Any:
        raise UnavailableError("away")


def test_while_the_storage_is_away_nothing_is_taken_for_lost(
    books: Books, database: Database, store: LocalStore, tmp_path: Path
) -> None:
    id_ = call(books, "words")
    with database.write(books.organization_id) as scope:
        scope.run(sa.update(tables.search_document).values(content=None))
    with pytest.raises(UnavailableError):
        Indexer(database, _AwayStore(tmp_path / "away")).work()
    with database.read(None) as scope:
        assert search_index.unread(scope, limit=9) == [(books.organization_id, id_)]


# What cannot be asked


@pytest.mark.parametrize(
    ("q", "mend"),
    [
        ("", "at least one word"),
        ('?! … "" -', "at least one word"),
        ("*", "asterisk"),
        ("a*b", "asterisk"),
        ('"good*" mor*ning', "asterisk"),
        ('say "good', "partner"),
        ("refund -paid", "excluded"),
        ("x" * 501, "500 characters"),
        ("a " * 9 + "b " * 9 + "c d e f g h i j k l m n o p q", "16 words"),
        ("nul\0", "without NUL"),
        ("half\ud800", "without NUL"),
    ],
)
@sqlite_alone
def test_what_cannot_be_read_is_refused_with_its_mend(
    mine: OrganizationInteractions, q: str, mend: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        mine.find(Query(q=q))
    (fault,) = caught.value.faults
    assert fault.field == "q"
    assert mend in fault.message


@given(q=st.text(max_size=40) | st.text('"*- ab', max_size=12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_either_searched_for_or_refused(
    mine: OrganizationInteractions,
    q: str,
) -> None:
    wrong = set()
    try:
        assert mine.find(Query(q=q)).items == ()
    except InvalidError as error:
        wrong = {fault.field for fault in error.faults}
    assert wrong <= {"q"}


# Stems


@sqlite_alone
def test_stems_are_refused_where_there_are_none(mine: OrganizationInteractions) -> None:
    with pytest.raises(InvalidError) as caught:
        mine.find(Query(q="call", stem=True))
    assert [fault.field for fault in caught.value.faults] == ["stem"]


@postgresql_alone
def test_stems_find_other_forms_in_the_language_of_the_transcript(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    called = call(books, "She was calling twice", at=NOON)
    happy = call(books, "What happiness is this", at=NOON + DAY)
    settle()
    spanish = call(books, "Cancelaron la cita", at=NOON + DAY * 2, language="es")
    call(books, "el calling es inglés", at=NOON + DAY * 3, language="es")
    settle()
    assert ids(mine, "calls", stem=True) == [called]
    assert ids(mine, "calls") == []
    assert ids(mine, "happy", stem=True) == [happy]
    assert ids(mine, "cancelar", stem=True) == [spanish]
    assert ids(mine, "she calls", stem=True) == [called]
    assert ids(mine, '"was calls"', stem=True) == []
    assert ids(mine, "the", stem=True) == []
    assert ids(mine, "is", stem=True) == [happy]
    (match,) = mine.find(Query(q="calls", stem=True)).matches[called]
    assert [match.text[start:stop] for start, stop in match.ranges] == ["calling"]


# Retrying what was found


def test_a_retry_of_many_reaches_those_alone_in_which_it_was_said(
    mine: OrganizationInteractions, books: Books, settle: Callable[[], None]
) -> None:
    wanted, other = (call(books, word, status=Status.FAILED) for word in ("refund", "thanks"))
    for id_ in (wanted, other):
        books.step(id_, "listen", StepStatus.FAILED)
    settle()
    assert mine.retry_found(Query(q="refund")).retried == 1
    assert mine.get(wanted).status is Status.RECEIVED
    assert mine.get(other).status is Status.FAILED
    assert ids(mine, "thanks", error_code="broken") == [other]
    assert ids(mine, "thanks", error_code="other") == []
