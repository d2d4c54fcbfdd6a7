"""Transactions bound to one organization, and the two databases alike."""

from __future__ import annotations

import sqlite3
import threading
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from earmark.database import (
    Database,
    Piece,
    core,
    migrate,
    processing,
    submissions,
    tables,
    workers,
)
from earmark.errors import SettingsError, UnavailableError
from earmark.model import (
    AgentSent,
    Customer,
    Direction,
    InteractionDate,
    MediaType,
    Submission,
    Warn,
    new_id,
    now,
)
from processing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Scope

BOUND = [table for table in tables.metadata.sorted_tables if "organization_id" in table.c]
sqlite_alone = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
postgresql_alone = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)


def node(name: str, **values: Any) -> dict[str, Any]:
    times = {"created_at": now(), "modified_at": now()}
    return {"id": new_id(), "name": name, "is_active": True, **times, **values}


@pytest.fixture
def nodes(database, organization, other_organization) -> dict[str, UUID]:
    """A node in each organization; its id by its name."""
    made = {"mine": node("mine"), "theirs": node("theirs")}
    for name, owner in (("mine", organization), ("theirs", other_organization)):
        with database.write(owner) as scope:
            scope.insert(tables.hierarchy_node, made[name])
    return {name: row["id"] for name, row in made.items()}


# Bound to one organization


def names(database: Database, owner: UUID | None, statement: sa.Select[Any]) -> set[str]:
    with database.read(owner) as scope:
        return {row.name for row in scope.rows(statement)}


def test_reading_finds_rows_of_the_organization_alone(database, organization, nodes):
    every = sa.select(tables.hierarchy_node)
    assert names(database, organization, every) == {"mine"}
    assert names(database, None, every) == {"mine", "theirs"}
    theirs = every.where(tables.hierarchy_node.c.id == nodes["theirs"])
    assert names(database, organization, theirs) == set()
    with database.read(organization) as scope:
        assert scope.row(theirs) is None


@pytest.mark.parametrize("outer", [False, True])
def test_joined_tables_are_bound_too(database, organization, nodes, outer):
    one, other = tables.hierarchy_node, tables.hierarchy_node.alias()
    joined = one.join(other, sa.true(), isouter=outer)
    statement = sa.select(other.c.name).select_from(joined)
    found = names(database, organization, statement)
    if outer and database.is_sqlite:  # held by the reference, which this join does not have
        assert "mine" in found
    else:
        assert found == {"mine"}


def test_a_statement_of_the_same_form_is_bound_as_the_first_was(
    database, organization, other_organization, nodes
):
    table = tables.hierarchy_node
    for _ in range(2):
        part = sa.select(table.c.name, table.c.organization_id).subquery()
        for owner, name in ((organization, "mine"), (other_organization, "theirs")):
            assert names(database, owner, sa.select(table.c.name)) == {name}
            assert names(database, owner, sa.select(part.c.name)) == {name}
            alias = table.alias()
            assert names(database, owner, sa.select(alias.c.name)) == {name}


def test_changing_and_deleting_reach_rows_of_the_organization_alone(
    database, organization, other_organization, nodes
):
    table = tables.hierarchy_node
    with database.write(organization) as scope:
        assert scope.run(sa.update(table).values(name="changed")) == 1
        assert scope.run(sa.delete(table).where(table.c.id == nodes["theirs"])) == 0
    assert names(database, other_organization, sa.select(table)) == {"theirs"}


def test_whatever_a_row_says_it_is_added_to_the_organization(
    database, organization, other_organization
):
    forged = node("forged", organization_id=other_organization)
    with database.write(organization) as scope:
        scope.insert(tables.hierarchy_node, forged, node("second"))
        scope.insert(tables.hierarchy_node)
        code = {"code": "c", "node_id": forged["id"], "position": 0}
        forged_code = {**code, "organization_id": other_organization}
        assert scope.insert_if_absent(tables.hierarchy_code, forged_code)
        assert not scope.insert_if_absent(tables.hierarchy_code, forged_code)
    every = sa.select(tables.hierarchy_node)
    assert names(database, other_organization, every) == set()
    assert names(database, organization, every) == {"forged", "second"}


def test_a_row_with_an_expression_says_whether_it_was_added(database, organization):
    with database.unsynced.write(organization) as scope:
        lease = {"key_hash": b"k" * 32, "holder": new_id(), "held_until": scope.moment + 1}
        assert scope.insert_if_absent(tables.idempotency_lease, lease)
        assert not scope.insert_if_absent(tables.idempotency_lease, lease)


def test_tables_of_the_service_itself_are_bound_to_nobody(database, organization):
    with database.write(organization) as scope:
        workers.beat(scope, "one", started_at=now(), now=now())
        assert workers.any_alive(scope, now())
        assert scope.row(sa.select(sa.literal(1).label("one"))).one == 1


def test_no_row_can_point_into_another_organization(database, organization, nodes):
    with pytest.raises(sa.exc.IntegrityError), database.write(organization) as scope:
        scope.insert(tables.hierarchy_node, node("child", parent_id=nodes["theirs"]))


@postgresql_alone
@pytest.mark.parametrize("table", BOUND, ids=lambda table: table.name)
def test_row_level_security_is_forced_on_every_table_of_an_organization(database, table):
    with database.read(None) as scope:
        row = scope.row(
            sa.text(
                "SELECT relrowsecurity, relforcerowsecurity, (SELECT count(*) FROM pg_policies "
                "WHERE tablename = relname) FROM pg_class WHERE oid = to_regclass(:name)"
            ).bindparams(name=table.name)
        )
    assert tuple(row) == (True, True, 1)


@postgresql_alone
def test_row_level_security_holds_under_statements_that_nothing_filters(
    database, organization, other_organization, nodes
):
    raw = sa.text("SELECT name FROM hierarchy_node")
    assert names(database, organization, raw) == {"mine"}
    with database.write(organization) as scope:
        assert scope.run(sa.text("UPDATE hierarchy_node SET name = 'changed'")) == 1
        assert scope.run(sa.text("DELETE FROM hierarchy_node WHERE name = 'theirs'")) == 0
    assert names(database, other_organization, raw) == {"theirs"}
    forged = node("forged", organization_id=other_organization)
    stopped = pytest.raises(sa.exc.ProgrammingError, match="row-level security")
    with stopped, database.write(organization) as scope:
        scope.connection.execute(sa.insert(tables.hierarchy_node), [forged])


@postgresql_alone
def test_a_transaction_that_was_bound_to_nobody_by_mistake_sees_nothing(database, nodes):
    with database.engine.begin() as connection:
        assert connection.execute(sa.select(tables.hierarchy_node)).all() == []


# Transactions


def test_what_raises_undoes_everything(database, organization):
    def fail() -> None:
        with database.write(organization) as scope:
            scope.insert(tables.hierarchy_node, node("undone"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(database, organization, sa.select(tables.hierarchy_node)) == set()


def test_a_reader_sees_all_as_it_was_at_one_moment(database, organization):
    every = sa.select(tables.hierarchy_node.c.name)
    with database.read(organization) as scope:
        assert scope.rows(every) == []
        with database.write(organization) as other:
            other.insert(tables.hierarchy_node, node("since"))
        assert scope.rows(every) == []
    assert names(database, organization, every) == {"since"}


def test_writers_of_many_threads_all_come_through(database, organization):
    def add(number: int) -> None:
        for turn in range(10):
            with database.write(organization) as scope:
                scope.insert(tables.hierarchy_node, node(f"{number}-{turn}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database, organization, sa.select(tables.hierarchy_node))) == 80


# Work that shares a transaction


def shared(database: Database, organization: UUID, work: Callable[[Scope], Any]) -> Any:
    """Does one piece of work, with whatever else waits."""
    piece = Piece(organization, work)
    database.share([piece])
    return piece.result()


class Crew:
    """Threads whose pieces of work wait for one another's transactions."""

    def __init__(self, database: Database, organization: UUID) -> None:
        self.database = database
        self.organization = organization
        self.results: dict[str, Any] = {}
        self.threads: list[threading.Thread] = []
        self.commits = 0
        event.listen(database._writers, "commit", self.count)

    def count(self, _connection: object) -> None:
        self.commits += 1

    def begin(self, name: str, work: Callable[[Scope], Any]) -> None:
        """One more thread; returns when its work waits."""

        def run() -> None:
            try:
                self.results[name] = shared(self.database, self.organization, work)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
                self.results[name] = error

        waiting = len(self.database._waiting)
        self.threads.append(threading.Thread(target=copy_context().run, args=(run,)))
        self.threads[-1].start()
        wait_until(lambda: len(self.database._waiting) > waiting)

    def end(self) -> None:
        for thread in self.threads:
            thread.join(20)


@pytest.fixture
def crew(database, organization) -> Crew:
    return Crew(database, organization)


def adding(name: str, failure: BaseException | None = None) -> Callable[[Scope], str]:
    """Work that adds a node, and then may fail."""

    def work(scope: Scope) -> str:
        scope.insert(tables.hierarchy_node, node(name))
        if failure:
            raise failure
        return name

    return work


EVERY_NODE = sa.select(tables.hierarchy_node.c.name)


def test_work_is_committed_and_gives_its_result(database, organization):
    assert shared(database, organization, adding("one")) == "one"
    done = []

    def failing(scope: Scope) -> None:
        done.append("two")
        adding("two", KeyError())(scope)

    with pytest.raises(KeyError):
        shared(database, organization, failing)
    assert done == ["two"], "alone, it is not done anew"
    assert names(database, organization, EVERY_NODE) == {"one"}


@sqlite_alone
def test_work_that_waits_shares_one_commit(database, organization, crew):
    with database.write(None):
        for name in "abcde":
            crew.begin(name, adding(name))
        crew.commits = -1  # this one's own
    crew.end()
    assert crew.results == {name: name for name in "abcde"}
    assert names(database, organization, EVERY_NODE) == set("abcde")
    assert crew.commits == 1


@sqlite_alone
def test_but_not_endlessly_much(database, organization, crew, monkeypatch):
    monkeypatch.setattr(core, "TOGETHER", 2)
    with database.write(None):
        for name in "abcde":
            crew.begin(name, adding(name))
        crew.commits = -1
    crew.end()
    assert names(database, organization, EVERY_NODE) == set("abcde")
    assert crew.commits == 3


@sqlite_alone
def test_work_that_fails_undoes_nothing_but_itself(database, organization, crew):
    failure, done = KeyError("b"), []

    def noting(name: str) -> Callable[[Scope], str]:
        def work(scope: Scope) -> str:
            scope.after_commit.append(lambda: done.append(name))
            return adding(name, failure if name == "b" else None)(scope)

        return work

    with database.write(None):
        for name in "abc":
            crew.begin(name, noting(name))
    crew.end()
    assert crew.results == {"a": "a", "b": failure, "c": "c"}
    assert names(database, organization, EVERY_NODE) == {"a", "c"}
    assert sorted(done) == ["a", "c"], "each once, and only if it was committed"


@sqlite_alone
def test_work_is_done_in_the_context_of_its_caller(database, crew):
    speaker: ContextVar[str] = ContextVar("speaker", default="nobody")
    with database.write(None):
        for name in "ab":
            speaking = copy_context()
            speaking.run(speaker.set, name)
            speaking.run(crew.begin, name, lambda _scope: speaker.get())
    crew.end()
    assert crew.results == {"a": "a", "b": "b"}


@sqlite_alone
@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (sa.exc.OperationalError("COMMIT", {}, Exception("disk I/O error")), UnavailableError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["the disk", "an interruption"],
)
def test_what_cannot_be_committed_is_told_to_all(database, organization, crew, failure, told):
    def fail(_connection: object) -> None:
        event.remove(database._writers, "commit", fail)
        raise failure

    with database.write(None):
        for name in "ab":
            crew.begin(name, adding(name))
        crew.begin("c", lambda _scope: event.listen(database._writers, "commit", fail))
    crew.end()
    kinds = {type(error) for error in crew.results.values()}
    assert kinds == {UnavailableError, told}
    assert names(database, organization, EVERY_NODE) == set()
    assert crew.results["a"] is not crew.results["b"]
    assert shared(database, organization, adding("since")) == "since"


@pytest.mark.parametrize("shared", [False, True])
def test_who_names_the_same_thing_waits_unless_both_share_it(database, shared):
    """On SQLite there is one writer at a time anyhow."""
    entered, order = threading.Event(), []

    def second() -> None:
        with database.write(None) as scope:
            entered.set()
            scope.serialise("name\0s", "thing", shared=shared)
            order.append("second")

    with database.write(None) as scope:
        scope.serialise("name\0s", "thing", shared=shared)
        thread = threading.Thread(target=second)
        thread.start()
        if scope.is_postgresql:
            assert entered.wait(20)
            thread.join(20 if shared else 0.3)
        order.append("first")
    thread.join()
    free = shared and not database.is_sqlite
    assert order == (["second", "first"] if free else ["first", "second"])


def test_instants_keep_their_microseconds_and_come_back_in_utc(database, organization):
    east = timezone(timedelta(hours=5, minutes=45))
    moment = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=east)
    row = node("instant", created_at=moment)
    with database.write(organization) as scope:
        scope.insert(tables.hierarchy_node, row)
        found = scope.row(sa.select(tables.hierarchy_node)).created_at
    assert found == moment
    assert found.tzinfo is UTC


# The two databases


@sqlite_alone
@pytest.mark.parametrize("used", ["read", "write"])
def test_sqlite_keeps_what_it_promised_and_checks_references(database, used):
    full, normal = 2, 1
    expected = {"journal_mode": "wal", "synchronous": full, "foreign_keys": 1}
    expected |= {"busy_timeout": 15_000, "secure_delete": 1}
    for one, synchronous in ((database, full), (database.unsynced, normal)):
        with getattr(one, used)(None) as scope:
            found = {name: scope.row(sa.text(f"PRAGMA {name}"))[0] for name in expected}
        assert found == {**expected, "synchronous": synchronous}


@sqlite_alone
def test_a_sqlite_that_another_process_writes_for_too_long_is_unavailable(
    database, database_url, monkeypatch
):
    monkeypatch.setattr("earmark.database.core.BUSY_SECONDS", 0.1)
    impatient = Database(database_url)
    with database.write(None), pytest.raises(UnavailableError), impatient.write(None):
        pass
    with database.write(None), impatient.read(None) as scope:
        assert scope.row(sa.text("SELECT 1"))[0] == 1  # readers never wait
    impatient.close()


class Racing:
    """A connection that is refused without being made to wait, as in a race for a new file."""

    def __init__(self, *codes: int) -> None:
        self.errors = []
        for code in codes:
            self.errors.append(sqlite3.OperationalError("refused"))
            self.errors[-1].sqlite_errorcode = code

    def execute(self, _statement: str) -> None:
        if self.errors:
            raise self.errors.pop(0)


def test_who_loses_the_race_for_a_new_sqlite_file_tries_again():
    racing = Racing(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY)
    core._keep_a_log_ahead(racing)  # type: ignore[arg-type]
    assert not racing.errors


@pytest.mark.parametrize(("code", "busy_seconds"), [(sqlite3.SQLITE_BUSY, -1), (10, 15)])
def test_but_neither_for_ever_nor_for_another_reason(monkeypatch, code, busy_seconds):
    monkeypatch.setattr(core, "BUSY_SECONDS", busy_seconds)
    with pytest.raises(sqlite3.OperationalError):
        core._keep_a_log_ahead(Racing(code, code))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "mysql://u@h/d", "sqlite://", "postgresql+asyncpg://u@h/d", "sqlite:"),
        "sqlite:///a?b",  # all from the ? on would be dropped, and another file opened
    ],
)
def test_a_url_of_anything_else_is_refused(url):
    with pytest.raises(SettingsError, match="must be sqlite:///path or postgresql://"):
        Database(url)


@pytest.mark.parametrize(
    "url", ["sqlite:////no/such/folder/x.sqlite3", "postgresql://u@127.0.0.1:1/x"]
)
def test_a_database_that_cannot_be_reached_is_unavailable(url):
    database = Database(url)
    with pytest.raises(UnavailableError) as caught, database.read(None):
        pass
    assert caught.value.__cause__ is not None
    database.close()


def test_a_damaged_sqlite_file_is_told_as_such(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"no database" * 1000)
    database = Database(f"sqlite:///{tmp_path / 'x'}")
    with pytest.raises(UnavailableError, match="damaged"), database.read(None):
        pass
    database.close()


# Migrations


def test_the_migrations_make_the_tables_that_the_code_knows(database):
    assert migrate.is_current(database)
    with database.read(None) as scope:
        context = MigrationContext.configure(
            scope.connection, opts={"compare_type": True, "compare_server_default": True}
        )
        differences = [
            difference
            for difference in compare_metadata(context, tables.metadata)
            if "alembic_version" not in str(difference)
        ]
    assert differences == []


def test_the_newest_migration_is_the_one_that_is_asked_for():
    config = Config()
    config.set_main_option("script_location", str(migrate._SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.HEAD]


def test_upgrading_makes_everything_once(database_kind, tmp_path, request):
    if database_kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'new'}"
    else:
        server = request.getfixturevalue("postgres_server")
        name = server.create()
        request.addfinalizer(lambda: server.drop(name))
        url = server.owner_url(name)
    one, other = Database(url), Database(url)
    assert not migrate.is_current(one)
    failures = []

    def upgrade(database: Database) -> None:
        try:
            migrate.upgrade(database)
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=upgrade, args=(database,)) for database in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    migrate.upgrade(one)
    assert migrate.is_current(other)
    one.close()
    other.close()


def test_what_was_received_before_waits_came_is_due_at_once(database_kind, tmp_path, request):
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
    with database.write(None) as scope:
        config.attributes["connection"] = scope.connection
        command.upgrade(config, "0001")
        organization_id, id_ = new_id(), new_id()
        row = {"id": organization_id, "name": "Old", "created_at": now()}
        scope.insert(tables.organization, row)
        sample = {
            "id": id_,
            "organization_id": organization_id,
            "file_name": "a.wav",
            "media_type": MediaType.AUDIO,
            "status": "received",
            "round": 1,
            "received_at": now(),
            "occurred_at": now(),
            "apply_hierarchy_to_agent": False,
            "locale": "en-US",
            "extended": {},
            "metadata_sent": "{}",
            "size_bytes": 1,
            "sha256": bytes(32),
            "warnings": [],
        }
        columns = [sa.column(name, tables.interaction.c[name].type) for name in sample]
        scope.connection.execute(sa.insert(sa.table("interaction", *columns)).values(sample))
    migrate.upgrade(database)
    with database.write(None) as scope:
        assert processing.any_due(scope)
        job = processing.next_due(scope)
    assert (job.interaction_id, job.round) == (id_, 1)
    database.close()


@sqlite_alone
def test_another_versions_database_is_not_current(database):
    with database.write(None) as scope:
        scope.run(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    assert not migrate.is_current(database)


# Submissions


def submission(**values: Any) -> Submission:
    return Submission("a/é.wav", MediaType.AUDIO, '{"x": 1}', **values)


def add(database: Database, owner: UUID, sent: Submission) -> bool:
    with database.write(owner) as scope:
        return submissions.add(
            scope,
            sent,
            id_=new_id(),
            received_at=now(),
            size_bytes=3 << 31,
            sha256=bytes(range(32)),
            agent_id=None,
            node_id=None,
            warnings=[Warn("code", "message")],
        )


def test_a_name_is_held_by_one_interaction_of_each_organization(
    database, organization, other_organization
):
    assert add(database, organization, submission())
    assert not add(database, organization, submission())
    assert add(database, other_organization, submission())
    with database.read(organization) as scope:
        assert submissions.holder(scope, "a/é.wav").sha256 == bytes(range(32))
        assert submissions.holder(scope, "A/é.wav") is None


def test_a_submission_is_kept_with_all_that_it_says(database, organization):
    moment = datetime(2022, 3, 19, 1, 52, 26, tzinfo=UTC)
    assert add(
        database,
        organization,
        submission(
            direction=Direction.INBOUND,
            customer=Customer("N", "P", "E"),
            agent=AgentSent("7", "F", "L"),
            interaction_date=InteractionDate(moment, -240, "2022-03-18T21:52:26-04:00"),
            extended={"k": [1, None, {"ñ": 1.5}]},
            client_call_id="c",
        ),
    )
    with database.read(organization) as scope:
        row = scope.row(sa.select(tables.interaction))
    assert (row.direction, row.customer_phone, row.agent_last_name) == ("inbound", "P", "L")
    assert row.occurred_at == row.interaction_at == moment
    assert (row.interaction_offset_minutes, row.size_bytes) == (-240, 3 << 31)
    assert row.extended == {"k": [1, None, {"ñ": 1.5}]}
    assert row.warnings == [{"code": "code", "message": "message"}]


def test_a_submission_without_a_date_takes_place_when_it_arrives(database, organization):
    add(database, organization, submission())
    with database.read(organization) as scope:
        row = scope.row(sa.select(tables.interaction))
    assert row.occurred_at == row.received_at
    assert row.interaction_at is None
