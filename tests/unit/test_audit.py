"""The audit trail: what is told, how it is sealed, and that nobody changes it unnoticed."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import sqlalchemy as sa

from earmark import audit as audit_module
from earmark import telemetry
from earmark.audit import ANCHOR_NAME, LATE_SECONDS, Anchor, Audit, BrokenTrailError
from earmark.database import Database, journal, migrate, trail
from earmark.database.tables import audit, audit_head, audit_seal
from earmark.database.types import JSON, Instant
from earmark.errors import InvalidError, UnavailableError
from earmark.model import new_id, now
from earmark.telemetry import Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Scope

KEY = b"a" * 32

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)


@pytest.fixture
def trail_of(database: Database) -> Audit:
    """The trail without a folder: all that is known stands in the database."""
    return Audit(database, key=KEY)


def tell(database: Database, organization: UUID | None, count: int = 1, **facts: Any) -> None:
    for number in range(count):
        with database.write(organization) as scope:
            told = {"actor": "client:x", "action": "a.b", "subject": str(number), **facts}
            journal.record(scope, **told)


Meddling: TypeAlias = "Callable[[], AbstractContextManager[Scope]]"


@pytest.fixture
def meddling(database: Database, owner_of: Callable[[Database], Database]) -> Meddling:
    """A transaction of somebody who owns the tables, and takes the protection away first."""
    return lambda: unprotected(owner_of(database))


@pytest.fixture
def owned(
    database: Database, owner_of: Callable[[Database], Database]
) -> tuple[Database, Database]:
    """The database, and the same under the role that owns its tables."""
    return database, owner_of(database)


@contextmanager
def unprotected(database: Database) -> Iterator[Scope]:
    names = ("audit", "audit_seal")
    with database.write(None) as scope:
        if scope.is_postgresql:
            for name in names:
                scope.run(sa.text(f"ALTER TABLE {name} DISABLE TRIGGER append_only"))
        else:
            for name in names:
                for change in ("update", "delete"):
                    scope.run(sa.text(f"DROP TRIGGER IF EXISTS {name}_no_{change}"))
        yield scope
        if scope.is_postgresql:
            for name in names:
                scope.run(sa.text(f"ALTER TABLE {name} ENABLE TRIGGER append_only"))


def faults(trail_of: Audit, anchor: Anchor | None = None) -> list[str]:
    return [*trail_of.verify(anchor).faults]


def cut(scope: Scope, number: int) -> None:
    """Removes all seals after a number, with their rows."""
    seals = sa.select(audit_seal.c.sequence).where(audit_seal.c.number > number)
    gone = [row.sequence for row in scope.rows(seals)]
    scope.run(sa.delete(audit_seal).where(audit_seal.c.number > number))
    scope.run(sa.delete(audit).where(audit.c.sequence.in_(gone)))


def head_row(database: Database) -> dict[str, Any]:
    with database.read(None) as scope:
        row = scope.row(sa.select(audit_head))
    assert row is not None
    return dict(row._mapping)


# What is told


def test_a_row_says_who_did_what_when_and_from_where(
    database: Database, organization: UUID, trail_of: Audit
) -> None:
    before = now()
    token = telemetry.origin.set(Origin("request-1", "192.0.2.1"))
    tell(database, organization, detail={"b": 1, "a": ["é"]})
    telemetry.origin.reset(token)
    tell(database, None, actor="worker")
    first, second = trail_of.rows(None)
    assert before <= first.at <= now()
    assert (first.organization_id, first.actor, first.action) == (organization, "client:x", "a.b")
    assert (first.request_id, first.address) == ("request-1", "192.0.2.1")
    assert first.detail == {"b": 1, "a": ["é"]}
    assert (second.organization_id, second.request_id, second.address) == (None, None, None)


def test_rows_are_read_by_organization_time_and_subject_in_pages(
    database: Database,
    organization: UUID,
    other_organization: UUID,
    trail_of: Audit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_module, "BATCH", 2)
    tell(database, organization, 5)
    tell(database, other_organization)
    middle = now()
    tell(database, organization, 2)

    def subjects(**query: Any) -> list[str]:
        return [row.subject for row in trail_of.rows(organization, **query)]

    assert subjects() == ["0", "1", "2", "3", "4", "0", "1"]
    assert subjects(since=middle) == ["0", "1"]
    assert subjects(until=middle) == ["0", "1", "2", "3", "4"]
    assert subjects(subject="1") == ["1", "1"]
    assert len([*trail_of.rows(None)]) == 8
    assert set(trail_of.organization_names().values()) == {"First", "Second"}


def test_an_organization_does_not_see_what_concerns_the_service(
    database: Database, organization: UUID, trail_of: Audit
) -> None:
    tell(database, None)
    assert [*trail_of.rows(organization)] == []
    with database.read(organization) as scope:
        raw = scope.connection.execute(sa.text("SELECT count(*) FROM audit")).scalar()
    assert raw == (0 if scope.is_postgresql else 1)


# Reads


def test_a_read_is_durable_when_it_is_told(database: Database, organization: UUID) -> None:
    reads = journal.Reads(database)
    reads.record(organization, actor="client:x", action="interaction.read_media", subject="1")
    with database.read(organization) as scope:
        (row,) = scope.rows(sa.select(audit))
    assert (row.action, row.subject, row.organization_id) == (
        "interaction.read_media",
        "1",
        organization,
    )


def test_reads_that_come_at_once_share_a_transaction_and_none_is_lost(
    database: Database, organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = journal.Reads(database)
    commits: list[int] = []
    going = threading.Event()
    write = journal.Reads._write

    def slow(self: journal.Reads, batch: Any) -> None:
        going.wait(10)
        commits.append(len(batch.rows))
        write(self, batch)

    monkeypatch.setattr(journal.Reads, "_write", slow)

    def read(number: int) -> None:
        token = telemetry.origin.set(Origin(f"request-{number}"))
        reads.record(organization, actor="client:x", action="a.b", subject=str(number))
        telemetry.origin.reset(token)

    with ThreadPoolExecutor(32) as pool:
        told = [pool.submit(read, number) for number in range(32)]
        while len(reads._waiting.rows) < 32:
            pass
        going.set()
        for one in told:
            one.result()
    assert sum(commits) == 32
    assert len(commits) <= 2
    with database.read(organization) as scope:
        rows = scope.rows(sa.select(audit))
    assert {row.subject for row in rows} == {str(number) for number in range(32)}
    assert all(row.request_id == f"request-{row.subject}" for row in rows)


@on_sqlite
def test_a_read_that_cannot_be_told_fails_for_all_who_waited_and_the_next_is_told(
    database: Database, organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = journal.Reads(database)
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise UnavailableError("away")

        patch.setattr(database, "write", away)
        with pytest.raises(UnavailableError, match="audit trail cannot be written"):
            reads.record(organization, actor="x", action="a.b", subject="1")
        patch.setattr(database, "write", None)  # a fault of ours
        with pytest.raises(TypeError):
            reads.record(organization, actor="x", action="a.b", subject="1")
    reads.record(organization, actor="x", action="a.b", subject="2")
    with database.read(organization) as scope:
        assert [row.subject for row in scope.rows(sa.select(audit))] == ["2"]


# Append only


@pytest.mark.parametrize("table", ["audit", "audit_seal"])
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET {} = 7", "DELETE FROM {}", "TRUNCATE {} CASCADE"]
)
def test_what_is_written_can_be_neither_changed_nor_removed(
    owned: tuple[Database, Database],
    organization: UUID,
    trail_of: Audit,
    table: str,
    statement: str,
) -> None:
    """On PostgreSQL not even by the owner; that the service's role may not is told elsewhere."""
    database, owner = owned
    if database.is_sqlite and statement.startswith("TRUNCATE"):
        return  # SQLite knows none
    tell(database, organization)
    trail_of.seal()
    column = {"audit": "subject", "audit_seal": "number"}[table]
    refused = pytest.raises(sa.exc.DatabaseError, match=f"{table} is append only")
    with refused, owner.write(None) as scope:
        scope.run(sa.text(statement.format(table, column)))
    assert faults(trail_of) == []
    assert len([*trail_of.rows(None)]) == 1


# Sealing


def test_sealed_rows_verify_and_the_rest_is_named(
    database: Database, organization: UUID, trail_of: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "BATCH", 3)
    assert trail_of.seal() == 0
    assert trail_of.head() is None
    tell(database, organization, 8)
    tell(database, None)
    assert trail_of.seal() == 9
    assert trail_of.seal() == 0
    tell(database, organization, 2)
    report = trail_of.verify()
    assert report.faults == []
    assert report.head == trail_of.head()
    assert report.head is not None
    assert report.head.number == 9
    assert (report.unsealed.rows, report.late) == (2, False)
    assert report.unsealed.oldest_at is not None
    assert trail_of.seal() == 2
    assert trail_of.verify(report.head).faults == []
    assert trail_of.verify().unsealed.rows == 0


def test_rows_that_wait_too_long_are_told(database: Database, organization: UUID) -> None:
    later = now() + timedelta(seconds=LATE_SECONDS + 1)
    tell(database, organization)
    assert not Audit(database, key=KEY).verify().late
    assert Audit(database, key=KEY, clock=lambda: later).verify().late


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "client:y"},
        {"action": "a.c"},
        {"subject": "9"},
        {"request_id": "other"},
        {"address": "192.0.2.9"},
        {"detail": {"a": 2}},
        {"at": now() - timedelta(microseconds=1)},
        {"organization_id": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_row_is_found_and_named(
    database: Database,
    organization: UUID,
    trail_of: Audit,
    change: dict[str, Any],
    meddling: Meddling,
) -> None:
    tell(database, organization, 5)
    trail_of.seal()
    middle = [*trail_of.rows(None)][2].sequence
    with meddling() as scope:
        scope.run(sa.update(audit).where(audit.c.sequence == middle).values(**change))
    assert faults(trail_of) == [f"Row {middle}, sealed as 3, or its seal was changed."]


def test_a_removed_row_is_found_and_named(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 5)
    trail_of.seal()
    second = [*trail_of.rows(None)][1].sequence
    with meddling() as scope:
        scope.run(sa.delete(audit).where(audit.c.sequence == second))
    assert faults(trail_of) == [f"Row {second}, sealed as 2, is missing."]


def test_rows_removed_with_their_seals_are_found(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 6)
    trail_of.seal()
    with meddling() as scope:
        gone = sa.select(audit_seal.c.sequence).where(audit_seal.c.number.in_([3, 4]))
        scope.run(sa.delete(audit).where(audit.c.sequence.in_(gone)))
        scope.run(sa.delete(audit_seal).where(audit_seal.c.number.in_([3, 4])))
    assert faults(trail_of) == ["Seals 3 to 4 are missing."]


def test_rows_exchanged_with_each_other_are_found(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 4)
    trail_of.seal()
    first, second = [row.sequence for row in [*trail_of.rows(None)][:2]]
    with meddling() as scope:
        for number, sequence in ((1, -1), (2, first), (1, second)):
            scope.run(
                sa.update(audit_seal)
                .where(audit_seal.c.number == number)
                .values(sequence=sequence)
            )
    assert len(faults(trail_of)) == 2


def test_a_cut_end_is_found_and_nothing_is_sealed_over_it(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 5)
    trail_of.seal()
    with meddling() as scope:
        cut(scope, 3)
    told = ["The end is missing: the head tells of seal 5, the last one is 3."]
    assert faults(trail_of)[:1] == told
    tell(database, organization)
    with pytest.raises(BrokenTrailError, match=r"The end is missing.*earmark audit verify"):
        trail_of.seal()
    assert faults(trail_of)[:1] == told


def test_a_cut_end_with_a_head_made_to_fit_is_found_by_the_key(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 5)
    trail_of.seal()
    with meddling() as scope:
        cut(scope, 3)
        last = trail.seal_at(scope, 3)
        assert last is not None
        scope.run(sa.update(audit_head).values(number=3, hash=last.hash))
    assert faults(trail_of) == ["The head was not written with this secret key."]
    tell(database, organization)
    for action in (trail_of.seal, trail_of.head):
        with pytest.raises(BrokenTrailError, match="not written with this key"):
            action()


@pytest.mark.parametrize("kept", ["by the operator", "beside the worker"])
def test_a_cut_end_with_an_old_head_put_back_is_found_by_what_was_kept_elsewhere(
    database: Database, organization: UUID, tmp_path: Path, kept: str, meddling: Meddling
) -> None:
    beside = kept == "beside the worker"
    trail_of = Audit(database, key=KEY, folder=tmp_path / "new" if beside else None)
    tell(database, organization, 3)
    trail_of.seal()
    old = head_row(database)
    tell(database, organization, 2)
    trail_of.seal()
    anchor = None if beside else trail_of.head()
    with meddling() as scope:
        cut(scope, 3)
        scope.run(sa.update(audit_head).values(**old))
    found = ["The end is missing: the kept head tells of seal 5."]
    assert faults(trail_of, anchor) == found
    if beside:
        tell(database, organization)
        with pytest.raises(BrokenTrailError, match="The end is missing"):
            trail_of.seal()
    else:  # which goes on, and is found out all the same
        tell(database, organization, 4)
        trail_of.seal()
        assert faults(trail_of, anchor) == ["Seal 5 is not the one that the kept head tells of."]


def test_a_trail_begun_anew_is_found_by_the_head_beside_the_worker(
    database: Database, organization: UUID, tmp_path: Path, meddling: Meddling
) -> None:
    trail_of = Audit(database, key=KEY, folder=tmp_path)
    tell(database, organization, 3)
    trail_of.seal()
    with meddling() as scope:
        for table in (audit_seal, audit_head):
            scope.run(sa.delete(table))
    assert faults(trail_of) == ["The end is missing: the kept head tells of seal 3."]
    with pytest.raises(BrokenTrailError):
        trail_of.seal()


def test_a_missing_head_is_found(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 3)
    trail_of.seal()
    with meddling() as scope:
        scope.run(sa.delete(audit_head))
    assert faults(trail_of) == ["The head is gone or old: it tells of seal 0, the last one is 3."]
    tell(database, organization)
    with pytest.raises(BrokenTrailError, match="The head is gone"):
        trail_of.seal()


def test_each_seal_covers_the_one_before(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 4)
    trail_of.seal()
    with meddling() as scope:
        second = audit_seal.c.number == 2
        scope.run(sa.update(audit_seal).where(second).values(hash=b"x" * 32))
    first, *others = faults(trail_of)
    assert ", sealed as 2, or its seal was changed." in first
    assert [", sealed as 3, or its seal was changed." in one for one in others] == [True]


def test_a_changed_last_seal_is_found(
    database: Database, organization: UUID, trail_of: Audit, meddling: Meddling
) -> None:
    tell(database, organization, 3)
    trail_of.seal()
    with meddling() as scope:
        last = audit_seal.c.number == 3
        scope.run(sa.update(audit_seal).where(last).values(hash=b"x" * 32))
    assert faults(trail_of)[-1] == "Seal 3 is not the one that the head tells of."
    tell(database, organization)
    with pytest.raises(BrokenTrailError, match="Seal 3 is not the one"):
        trail_of.seal()


def test_another_key_neither_verifies_nor_seals(
    database: Database, organization: UUID, trail_of: Audit
) -> None:
    tell(database, organization, 2)
    trail_of.seal()
    other = Audit(database, key=b"b" * 32)
    assert len(faults(other)) == 3
    tell(database, organization)
    with pytest.raises(BrokenTrailError):
        other.seal()


@on_postgresql
def test_a_row_that_is_committed_after_later_ones_is_sealed_too(
    database: Database, organization: UUID, trail_of: Audit
) -> None:
    with database.write(organization) as slow:
        journal.record(slow, actor="a", action="a.b", subject="slow")
        tell(database, organization, 2)
        assert trail_of.seal() == 2
    assert trail_of.seal() == 1
    assert faults(trail_of) == []
    order = []
    with database.read(None) as scope:
        order = [seal.row.subject for seal in trail.seals(scope, after=0, limit=9) if seal.row]
    assert order == ["0", "1", "slow"]


def test_rows_that_were_sealed_long_ago_are_not_looked_at_again(
    database: Database, organization: UUID
) -> None:
    late = [now() + timedelta(hours=1)]
    trail_of = Audit(database, key=KEY, clock=lambda: late[0])
    tell(database, organization, 3)
    trail_of.seal()
    assert head_row(database)["settled"] == [*trail_of.rows(None)][-1].sequence
    late[0] = now()
    tell(database, organization)
    trail_of.seal()
    assert head_row(database)["settled"] == [*trail_of.rows(None)][-2].sequence


def test_workers_that_seal_at_once_make_one_chain(
    database: Database, organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "BATCH", 5)
    tell(database, organization, 40)
    workers = [Audit(database, key=KEY) for _ in range(4)]
    barrier = threading.Barrier(4)

    def seal(one: Audit) -> int:
        barrier.wait()
        return one.seal()

    with ThreadPoolExecutor(4) as pool:
        sealed = sum(pool.map(seal, workers))
    sealed += workers[0].seal()
    assert sealed == 40
    report = workers[0].verify()
    assert (report.faults, report.unsealed.rows) == ([], 0)


def test_the_chain_is_the_same_on_both_databases(
    database: Database, organization: UUID, trail_of: Audit
) -> None:
    """What a row is hashed as does not depend on how a database gives it back."""
    row = trail.AuditRow(
        sequence=1,
        organization_id=None,
        at=now(),
        actor="a",
        action="a.b",
        subject="s",
        request_id=None,
        address=None,
        detail={"number": 1, "float": 1.5, "text": "é\u2028", "none": None, "list": [1, {"a": 2}]},
    )
    with database.write(None) as scope:
        values = {"at": row.at, "actor": "a", "action": "a.b", "subject": "s"}
        scope.insert(audit, {**values, "sequence": 1, "detail": dict(row.detail)})
    (read,) = trail_of.rows(None)
    assert audit_module.canonical(read) == audit_module.canonical(row)


# The head outside


@on_sqlite
def test_the_head_is_kept_beside_the_worker_after_each_seal(
    database: Database, organization: UUID, tmp_path: Path
) -> None:
    trail_of = Audit(database, key=KEY, folder=tmp_path)
    for count in (1, 2):
        tell(database, organization)
        trail_of.seal()
        kept = json.loads((tmp_path / ANCHOR_NAME).read_text())["head"]
        assert Anchor.parse(kept) == trail_of.head()
        assert kept.startswith(f"{count}:")
    assert [path.name for path in tmp_path.glob("audit-*")] == [ANCHOR_NAME]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"head": 1}', '{"head": "1:xy"}'])
@on_sqlite
def test_a_kept_head_that_cannot_be_read_is_told(
    database: Database, organization: UUID, tmp_path: Path, content: str
) -> None:
    (tmp_path / ANCHOR_NAME).write_text(content)
    trail_of = Audit(database, key=KEY, folder=tmp_path)
    tell(database, organization)
    for action in (trail_of.verify, trail_of.seal):
        with pytest.raises(BrokenTrailError, match=ANCHOR_NAME):
            action()


@on_sqlite
def test_a_folder_that_cannot_be_written_does_not_keep_rows_from_their_seal(
    database: Database, organization: UUID, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    trail_of = Audit(database, key=KEY, folder=tmp_path / "file")
    tell(database, organization)
    with pytest.raises(BrokenTrailError):  # nobody can tell whether a head is kept there
        trail_of.seal()
    (folder := tmp_path / "folder").mkdir()
    (folder / f"{ANCHOR_NAME}.{audit_module.os.getpid()}").mkdir()
    assert Audit(database, key=KEY, folder=folder).seal() == 1


@pytest.mark.parametrize(
    "text", ["", "1", "1:", f"0:{'0' * 64}", f"1:{'0' * 63}", f"-1:{'0' * 64}", f"1:{'G' * 64}"]
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="earmark audit head"):
        Anchor.parse(text)


def test_a_head_is_read_as_it_is_printed() -> None:
    anchor = Anchor(12, b"\x01" * 32)
    assert Anchor.parse(f" {anchor}\n") == anchor


# From the first version's tables


def test_rows_from_before_are_kept_and_sealed(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = Database(first_url(database_kind, tmp_path, request))
    organization = new_id()
    old = {"organization_id": organization, "at": now(), "action": "a.b", "subject": "s"}
    with database.write(None) as scope:
        made = {"created_at": now(), "name": "old"}
        scope.insert(OLD_ORGANIZATION, {"id": organization, **made})
        client = {"id": "c", "organization_id": organization, "secret_hash": b"x", "grants": []}
        scope.insert(OLD_CLIENT, {**client, **made})
        scope.insert(OLD_AUDIT, {**old, "sequence": 7, "actor": "old", "detail": {}})
    migrate.upgrade(database)
    trail_of = Audit(database, key=KEY)
    tell(database, organization)
    assert [(row.sequence, row.actor) for row in trail_of.rows(organization)] == [
        (7, "old"),
        (8, "client:x"),
    ]
    assert trail_of.seal() == 2
    assert faults(trail_of) == []
    with database.read(None) as scope:
        names = scope.rows(sa.text("SELECT name FROM client"))
        assert [row.name for row in names] == ["old"]
        inspector = sa.inspect(scope.connection)
        assert {index["name"] for index in inspector.get_indexes("audit")} == {
            "ix_audit_organization_id"
        }
    database.close()


def old(name: str, /, **columns: Any) -> sa.Table:
    """A table with the columns that it had."""
    made = [sa.Column(column, kind) for column, kind in columns.items()]
    return sa.Table(name, sa.MetaData(), *made)


OLD_ORGANIZATION = old("organization", id=sa.Uuid, name=sa.Text, created_at=Instant)
OLD_CLIENT = old(
    "client",
    id=sa.Text,
    organization_id=sa.Uuid,
    name=sa.Text,
    secret_hash=sa.LargeBinary,
    grants=JSON,
    created_at=Instant,
)
OLD_AUDIT = old(
    "audit",
    sequence=sa.Integer,
    organization_id=sa.Uuid,
    at=Instant,
    actor=sa.Text,
    action=sa.Text,
    subject=sa.Text,
    detail=JSON,
)


def first_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A database as the first version left it."""
    from alembic import command
    from alembic.config import Config

    url = f"sqlite:///{tmp_path / 'old.sqlite3'}"
    if kind == "postgresql":
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
        if kind == "postgresql":
            scope.run(sa.text("SELECT setval('audit_sequence_seq', 7)"))
    database.close()
    return url
