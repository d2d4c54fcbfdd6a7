"""Real worker processes on both databases: killed, stopped, followed by others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from earmark.app.worker import Pace, Worker
from earmark.database import arrivals, journal, processing, tables, workers
from earmark.errors import UnavailableError
from earmark.model import Status, now
from earmark.pipeline.takeover import SlotLostError
from processing import Scripted, events, load, receive, wait_until, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.process import BaseProcess
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database


@pytest.fixture(scope="session")
def forks() -> multiprocessing.context.BaseContext:
    """Makes processes that have the worker's modules loaded: importing them takes seconds."""
    context = multiprocessing.get_context("forkserver")
    # A child that runs in another program's place imports that too: here, pytest.
    context.set_forkserver_preload(["earmark.app.worker", "pytest"])
    return context


@pytest.fixture
def database_url(engine_url: str) -> str:
    """Takes the place of the common one: workers need the engine's tables too."""
    return engine_url


@pytest.fixture
def start(
    forks: multiprocessing.context.BaseContext, database_url: str, tmp_path: Path
) -> Iterator[Callable[..., BaseProcess]]:
    """Starts worker processes; what is left of them is killed."""
    processes: list[BaseProcess] = []

    def started(grace_seconds: float = 10) -> BaseProcess:
        process = forks.Process(target=work, args=(database_url, tmp_path, grace_seconds))
        process.start()
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.join()
        process.close()


def runs(folder: Path) -> list[list[str]]:
    """Process id and interaction id of each run of a step so far."""
    noted = folder / "ran"
    return [line.split() for line in noted.read_text().splitlines()] if noted.exists() else []


def all_are(database: Database, status: Status, *interaction_ids: UUID) -> Callable[[], bool]:
    return lambda: all(load(database, one).status is status for one in interaction_ids)


def names(database: Database) -> list[str]:
    """The workers that say that they live."""
    with database.read(None) as scope:
        return [row.id for row in scope.rows(sa.select(tables.worker.c.id))]


def hold(folder: Path) -> None:
    (folder / "hold").touch()


def release(folder: Path) -> None:
    (folder / "hold").unlink()


def test_a_worker_tells_that_it_lives_processes_and_leaves(
    start: Callable[..., BaseProcess], database: Database, organization: UUID
) -> None:
    def alive() -> bool:
        with database.read(None) as scope:
            return workers.any_alive(scope, now())

    assert not alive()
    process = start()
    wait_until(alive)
    interaction_id = receive(database, organization)
    received_at = time.monotonic()
    wait_until(all_are(database, Status.READY, interaction_id))
    assert time.monotonic() - received_at < 5
    assert events(database, interaction_id) == [("interaction.ready", {"round": 1})]
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 0
    assert not alive()


def test_a_worker_numbers_events_before_anybody_reads_them(
    start: Callable[..., BaseProcess], database: Database, organization: UUID
) -> None:
    def waiting() -> list[UUID]:
        with database.read(None) as scope:
            return journal.organizations_with_new_events(scope)

    interaction_id = receive(database, organization)
    with database.write(organization) as scope:
        journal.announce(scope, kind="interaction.received", interaction_id=interaction_id)
    assert waiting() == [organization]
    start()
    wait_until(all_are(database, Status.READY, interaction_id))
    wait_until(lambda: not waiting())
    with database.read(organization) as scope:
        assert arrivals.number_of(scope, interaction_id) == 1


def test_everything_received_is_processed_though_the_worker_is_killed(
    start: Callable[..., BaseProcess], database: Database, organization: UUID, tmp_path: Path
) -> None:
    hold(tmp_path)
    process = start()
    received = [receive(database, organization) for _ in range(6)]
    wait_until(lambda: len(runs(tmp_path)) == 2)
    process.kill()
    process.join()
    release(tmp_path)
    start()
    wait_until(all_are(database, Status.READY, *received))
    attempts = sorted(load(database, one).steps[0].attempts for one in received)
    assert attempts == [1, 1, 1, 1, 2, 2]
    assert all(len(events(database, one)) == 1 for one in received)


def test_a_file_that_kills_its_worker_ends_failed_after_three_attempts(
    start: Callable[..., BaseProcess], database: Database, organization: UUID, tmp_path: Path
) -> None:
    deadly = receive(database, organization)
    (tmp_path / "deadly").write_text(str(deadly))
    for _ in range(3):
        process = start()
        process.join(20)
        assert process.exitcode == -signal.SIGKILL
    harmless = receive(database, organization)
    start()
    wait_until(all_are(database, Status.FAILED, deadly))
    wait_until(all_are(database, Status.READY, harmless))
    (step,) = load(database, deadly).steps
    assert (step.attempts, step.error) == (3, processing.WORKER_LOST)
    assert len([one for _, one in runs(tmp_path) if one == str(deadly)]) == 3


def test_another_worker_takes_over_what_a_dead_one_had_begun(
    start: Callable[..., BaseProcess], database: Database, organization: UUID, tmp_path: Path
) -> None:
    hold(tmp_path)
    first = start()
    received = [receive(database, organization) for _ in range(2)]
    wait_until(lambda: len(runs(tmp_path)) == 2)
    second = start()
    wait_until(lambda: len(names(database)) == 2)
    time.sleep(0.5)  # it looks ten times a second for what a dead one left
    assert len(runs(tmp_path)) == 2, "a live worker's jobs are its own"
    first.kill()
    first.join()
    release(tmp_path)
    wait_until(all_are(database, Status.READY, *received))
    assert {int(pid) for pid, _ in runs(tmp_path)[2:]} == {second.pid}
    assert [load(database, one).steps[0].attempts for one in received] == [2, 2]


def test_a_stopped_worker_ends_its_steps_and_begins_no_more(
    start: Callable[..., BaseProcess], database: Database, organization: UUID, tmp_path: Path
) -> None:
    hold(tmp_path)
    process = start()
    received = [receive(database, organization) for _ in range(3)]
    wait_until(lambda: len(runs(tmp_path)) == 2)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    release(tmp_path)
    process.join(20)
    assert process.exitcode == 0
    begun = {one for _, one in runs(tmp_path)}
    for one in received:
        expected = Status.READY if str(one) in begun else Status.RECEIVED
        assert load(database, one).status is expected
    assert len(begun) == 2
    start()
    wait_until(all_are(database, Status.READY, *received))


def test_what_outlasts_the_grace_time_is_resumed_at_the_next_start(
    start: Callable[..., BaseProcess], database: Database, organization: UUID, tmp_path: Path
) -> None:
    hold(tmp_path)
    process = start(grace_seconds=0.2)
    interaction_id = receive(database, organization)
    wait_until(lambda: len(runs(tmp_path)) == 1)
    os.kill(process.pid, signal.SIGTERM)
    process.join(10)
    assert process.exitcode == 0
    assert load(database, interaction_id).status is Status.PROCESSING
    release(tmp_path)
    start()
    wait_until(all_are(database, Status.READY, interaction_id))
    assert load(database, interaction_id).steps[0].attempts == 2


@pytest.fixture
def worker(
    database: Database, database_url: str
) -> Iterator[Callable[..., tuple[Worker, threading.Event]]]:
    """A worker in this process, in a thread."""
    stopping = threading.Event()
    threads: list[threading.Thread] = []

    def started(**parts) -> tuple[Worker, threading.Event]:
        pace = Pace(grace_seconds=20, watch_seconds=0.1, sweep_seconds=0.05)
        made = Worker(
            database,
            [Scripted()],
            concurrency=2,
            pace=pace,
            stopping=stopping,
            **{"sweep": lambda: None, "index": lambda: 0, **parts},
        )
        threads.append(threading.Thread(target=made.run))
        threads[0].start()
        return made, stopping

    yield started
    stopping.set()
    for thread in threads:
        thread.join(30)


def test_an_outage_is_logged_once_and_waited_for(
    worker: Callable[..., tuple[Worker, threading.Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earmark.app.worker.OUTAGE_SECONDS", 0.01)
    calls: list[int] = []

    def sweep() -> None:
        calls.append(1)
        if len(calls) in {2, 3, 4, 7}:
            raise UnavailableError("the disk is away")
        if len(calls) == 9:
            raise ValueError("a fault of our own")

    with capture_logs() as logs:
        worker(sweep=sweep)
        wait_until(lambda: len(calls) > 10)
    told = [line["event"] for line in logs if line.get("action") == "_tidy_up"]
    assert told == ["worker.waits", "worker.waits", "worker.action_failed"]


def test_the_search_index_is_kept_up_at_once_while_there_is_something_to_do(
    worker: Callable[..., tuple[Worker, threading.Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earmark.app.worker.INDEX_SECONDS", 60)
    left = [0, 5, 7]
    _, stopping = worker(index=left.pop)
    wait_until(lambda: not left)
    stopping.set()


def test_a_stopped_worker_first_ends_what_its_own_threads_are_at(
    worker: Callable[..., tuple[Worker, threading.Event]], database: Database
) -> None:
    begun, go = threading.Event(), threading.Event()

    def index() -> int:
        begun.set()
        assert go.wait(20)
        return 0

    _, stopping = worker(index=index)
    assert begun.wait(20)
    wait_until(lambda: names(database))
    stopping.set()
    time.sleep(0.3)
    assert names(database), "it left while one was still at it"
    go.set()
    wait_until(lambda: not names(database))


def test_a_worker_whose_name_is_taken_stops(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = threading.Event()
    made = Worker(
        database,
        [Scripted()],
        concurrency=1,
        sweep=lambda: None,
        index=lambda: 0,
        pace=Pace(grace_seconds=20, watch_seconds=0.05),
        stopping=stopping,
    )
    monkeypatch.setattr(type(made._takeover._slot), "is_held", lambda _: False)
    with pytest.raises(SlotLostError):
        made.run()
    assert stopping.is_set()
