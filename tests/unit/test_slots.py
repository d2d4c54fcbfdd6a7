"""Names that live workers hold, and their heartbeats."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from earmark.database import Database, tables, workers
from earmark.database import slots as slots_module
from earmark.database.slots import open_slots, take_free
from earmark.errors import UnavailableError
from earmark.model import now
from earmark.pipeline.takeover import SlotLostError, Takeover

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


class Engine:
    """Stands in for the engine: jobs begun, by worker."""

    def __init__(self, begun: dict[str, set[str]], here: Collection[str] = ()) -> None:
        self._begun = begun
        self.here = set(here)
        self.handed_out: list[str] = []

    def begun(self) -> dict[str, set[str]]:
        return {worker_id: set(jobs) for worker_id, jobs in self._begun.items()}

    def is_here(self, job_id: str) -> bool:
        return job_id in self.here

    def hand_out_again(self, job_ids: Collection[str]) -> None:
        self.handed_out += sorted(job_ids)


def test_a_name_has_one_holder_at_a_time(database: Database) -> None:
    slots = open_slots(database)
    first = slots.take("host-0")
    assert first.is_held()
    assert slots.take("host-0") is None
    other = slots.take("host-1")
    assert other is not None
    other.close()
    first.close()
    again = slots.take("host-0")
    assert again is not None
    again.close()


def test_the_first_free_name_is_taken(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = open_slots(database)
    names = [take_free(slots, "host") for _ in range(3)]
    assert [name for name, _ in names] == ["host-0", "host-1", "host-2"]
    names[1][1].close()
    name, slot = take_free(slots, "host")
    assert name == "host-1"
    monkeypatch.setattr(slots_module, "MAX_WORKERS", 3)
    with pytest.raises(UnavailableError):
        take_free(slots, "host")
    for held in (names[0][1], slot, names[2][1]):
        held.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/earmark.sqlite3")
    (tmp_path / "workers").write_text("a file in its place")
    with pytest.raises(UnavailableError):
        open_slots(database).take("host-0")


def test_a_server_that_is_away_leaves_it_open_who_lives() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError):
        open_slots(database).take("host-0")


def test_a_broken_connection_loses_the_name_until_it_is_taken_again(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    slots = open_slots(database)
    slot = slots.take("host-0")
    takeover = Takeover(Engine({}), slots, worker_id="host-0", slot=slot)
    takeover.keep_slot()
    _break_connections(database)
    assert not slot.is_held()
    takeover.keep_slot()
    assert slots.take("host-0") is None
    takeover.keep_slot()
    _break_connections(database)
    thief = slots.take("host-0")
    with pytest.raises(SlotLostError):
        takeover.keep_slot()
    thief.close()
    takeover.release()
    database.close()


def _break_connections(database: Database) -> None:
    kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    with database.read(None) as scope:
        scope.rows(sa.text(f"{kill} WHERE application_name = 'earmark-slot'"))


def test_jobs_of_dead_workers_alone_are_handed_out_again(database: Database) -> None:
    slots = open_slots(database)
    mine, living = slots.take("host-0"), slots.take("host-1")
    begun = {"host-0": {"a"}, "host-1": {"b"}, "host-2": {"c", "d"}, "host-3": {"e"}}
    engine = Engine(begun, here={"a"})
    takeover = Takeover(engine, slots, worker_id="host-0", slot=mine)
    assert takeover.look() == 3
    assert engine.handed_out == ["c", "d", "e"]
    free = slots.take("host-2")
    assert free is not None, "the dead worker's name is free again"
    for slot in (free, living):
        slot.close()
    takeover.release()


def test_jobs_of_our_own_that_no_thread_has_are_handed_out_at_the_second_look(
    database: Database,
) -> None:
    slots = open_slots(database)
    engine = Engine({"host-0": {"a", "b"}}, here={"b"})
    takeover = Takeover(engine, slots, worker_id="host-0", slot=slots.take("host-0"))
    assert [takeover.look(), engine.handed_out] == [0, []]
    assert [takeover.look(), engine.handed_out] == [1, ["a"]]
    assert takeover.look() == 0
    takeover.release()


def test_a_worker_is_alive_for_three_beats_after_its_last(database: Database) -> None:
    start = now()
    with database.write(None) as scope:
        assert not workers.any_alive(scope, start)
        workers.beat(scope, "host-0", started_at=start, now=start)
        assert workers.any_alive(scope, start + timedelta(seconds=14))
        assert not workers.any_alive(scope, start + timedelta(seconds=16))
        later = start + timedelta(seconds=10)
        workers.beat(scope, "host-0", started_at=start, now=later)
        assert workers.any_alive(scope, start + timedelta(seconds=16))


def test_a_worker_that_leaves_is_gone_and_a_dead_one_forgotten(database: Database) -> None:
    start = now()
    later = start + timedelta(hours=2)
    with database.write(None) as scope:
        workers.beat(scope, "dead-0", started_at=start, now=start)
        workers.beat(scope, "host-0", started_at=start, now=later)
        workers.beat(scope, "host-1", started_at=later, now=later)
        workers.leave(scope, "host-1")
        rows = scope.rows(sa.select(tables.worker))
    assert [(row.id, row.started_at, row.seen_at) for row in rows] == [("host-0", start, later)]
