"""The engine itself, on both databases: what survives, what runs when, what is told."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from earmark import jobs
from earmark.errors import SettingsError, UnavailableError
from earmark.jobs import Engine, State, UnfinishedError
from processing import hasten, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from postgres import Server


class Work:
    """What jobs do here: note their arguments, and wait while `hold` is set."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.now = 0
        self.most = 0
        self.go = threading.Event()
        self.go.set()
        self.leave = False
        self._lock = threading.Lock()

    def __call__(self, *arguments: str) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.go.wait(20)
        with self._lock:
            self.now -= 1
        if self.leave:
            raise UnfinishedError
        self.done.append(arguments)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def start(
    engine_url: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Engine]]:
    """Starts an engine, the one before it ended; the last one ends with the test."""
    hasten(monkeypatch)
    engines: list[Engine] = []

    def started(worker_id: str = "here-0", concurrency: int = 2) -> Engine:
        if engines:
            assert engines.pop().stop(20)
        engine = Engine(engine_url, worker_id=worker_id, work=work, concurrency=concurrency)
        engine.start()
        engines.append(engine)
        return engine

    yield started
    work.go.set()
    for engine in engines:
        engine.stop(20)


def ended(engine: Engine, *job_ids: str) -> Callable[[], bool]:
    return lambda: engine.states(job_ids) == dict.fromkeys(job_ids, State.ENDED)


def test_a_job_runs_with_its_arguments_and_ends(start: Callable[..., Engine], work: Work) -> None:
    engine = start()
    assert engine.states(["a"]) == {}
    assert engine.states([]) == {}
    engine.begin("a", "one", "two")
    wait_until(ended(engine, "a"))
    assert work.done == [("one", "two")]


def test_no_more_jobs_run_than_there_is_room_for(start: Callable[..., Engine], work: Work) -> None:
    work.go.clear()
    engine = start(concurrency=2)
    assert engine.wait_for_room(0)
    engine.begin("a")
    engine.begin("b")
    assert engine.states(["a"]) == {"a": State.UNFINISHED}
    assert not engine.wait_for_room(0.05)
    work.go.set()
    assert engine.wait_for_room(10)


def test_a_job_left_unfinished_is_taken_up_at_the_next_start(
    start: Callable[..., Engine], work: Work
) -> None:
    work.leave = True
    engine = start()
    engine.begin("a", "one")
    wait_until(lambda: not engine.is_here("a"))
    assert engine.begun() == {"here-0": {"a"}}
    work.leave = False
    again = start()
    wait_until(ended(again, "a"))
    assert work.done == [("one",)]


def test_jobs_of_another_worker_wait_until_they_are_handed_out_again(
    start: Callable[..., Engine], work: Work
) -> None:
    work.leave = True
    engine = start("dead-0")
    engine.begin("a", "one")
    wait_until(lambda: not engine.is_here("a"))
    work.leave = False
    other = start("alive-0")
    time.sleep(0.5)  # it looks 20 times a second
    assert work.done == []
    assert other.begun() == {"dead-0": {"a"}}
    other.hand_out_again({"a"})
    other.hand_out_again(())
    wait_until(ended(other, "a"))
    assert work.done == [("one",)]


def test_jobs_handed_out_again_wait_for_room_too(start: Callable[..., Engine], work: Work) -> None:
    work.leave = True
    engine = start(concurrency=3)
    for job_id in ("a", "b", "c"):
        engine.begin(job_id)
    wait_until(lambda: not any(map(engine.is_here, ("a", "b", "c"))))
    work.leave, work.most = False, 0
    again = start(concurrency=1)
    wait_until(ended(again, "a", "b", "c"))
    assert work.most == 1


def test_what_waits_for_room_is_not_begun_by_a_worker_that_stops(
    start: Callable[..., Engine], work: Work
) -> None:
    work.leave = True
    engine = start()
    engine.begin("a")
    wait_until(lambda: not engine.is_here("a"))
    work.leave = False
    work.go.clear()
    again = start(concurrency=1)
    again.begin("b")
    wait_until(lambda: again.is_here("a"))
    stopped = threading.Thread(target=again.stop, args=(20,))
    stopped.start()
    wait_until(lambda: not again.is_here("a"))
    work.go.set()
    stopped.join(20)
    last = start()
    wait_until(ended(last, "a", "b"))
    assert len(work.done) == 2


def test_stopping_tells_when_something_still_runs(
    start: Callable[..., Engine], work: Work
) -> None:
    work.go.clear()
    engine = start()
    engine.begin("a")
    assert not engine.stop(0.05)
    work.go.set()
    assert engine.stop(20)


@contextmanager
def nobody_writes(engine_url: str) -> Iterator[None]:
    """Holds the engine's tables as an overloaded database does; reading goes on."""
    database = jobs._database(jobs._url(engine_url), 1)
    with database.connect() as connection:
        if database.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE dbos.workflow_status IN EXCLUSIVE MODE")
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        connection.rollback()
    database.dispose()


def test_a_worker_stops_when_it_is_written_down_that_its_jobs_ended(
    start: Callable[..., Engine], work: Work, engine_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.go.clear()
    engine = start()
    engine.begin("a")
    wait_until(lambda: work.now)
    with nobody_writes(engine_url):
        work.go.set()
        wait_until(lambda: not engine.is_here("a"))
        monkeypatch.setattr(jobs, "SETTLE_SECONDS", 0.2)
        assert not engine.stop(20)
    monkeypatch.setattr(jobs, "SETTLE_SECONDS", 20)
    assert engine.stop(20)
    assert start().begun() == {}


def test_an_ended_job_that_is_forgotten_may_begin_again(
    start: Callable[..., Engine], work: Work
) -> None:
    engine = start()
    for _ in range(2):
        engine.begin("a")
        wait_until(ended(engine, "a"))
        engine.forget("a")
    assert len(work.done) == 2


def test_ended_jobs_are_purged_and_others_kept(
    start: Callable[..., Engine], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PURGE_BATCH", 2)
    engine = start(concurrency=4)
    for job_id in ("a", "b", "c"):
        engine.begin(job_id)
    wait_until(ended(engine, "a", "b", "c"))
    work.go.clear()
    engine.begin("d")
    assert engine.purge(older_than_seconds=3600) == 0
    assert engine.purge(older_than_seconds=-60) == 3
    assert engine.states(["a", "b", "c", "d"]) == {"d": State.UNFINISHED}


def test_a_job_that_cannot_begin_takes_no_room(start: Callable[..., Engine]) -> None:
    engine = start(concurrency=1)
    with pytest.raises(Exception, match="ID"):
        engine.begin("")
    assert engine.wait_for_room(0)


def test_what_is_kept_of_a_job_is_text_that_runs_no_code_when_read(
    start: Callable[..., Engine], engine_url: str
) -> None:
    engine = start()
    engine.begin("a", "one")
    wait_until(ended(engine, "a"))
    url = jobs._url(engine_url)
    postgresql = url.get_backend_name() == "postgresql"
    database = sa.create_engine(url.set(drivername="postgresql+psycopg") if postgresql else url)
    table = "dbos.workflow_status" if postgresql else "workflow_status"
    with database.connect() as connection:
        kinds = connection.execute(sa.text(f"SELECT serialization FROM {table}")).scalars().all()
    database.dispose()
    assert kinds == ["portable_json"]


def test_sqlite_commits_of_the_engine_are_durable(sqlite_url: str) -> None:
    database = jobs._database(jobs._url(sqlite_url), 1)
    with database.connect() as connection:
        modes = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    database.dispose()
    assert modes == ["wal", 2, 1, 30000]
    assert str(database.url.database).endswith("/engine.sqlite3")


def test_a_worker_makes_no_tables_on_postgresql(postgres_url: str) -> None:
    engine = Engine(postgres_url, worker_id="here-0", work=Work(), concurrency=1)
    with pytest.raises(SettingsError, match="earmark database upgrade"):
        engine.start()
    database = sa.create_engine(sa.make_url(postgres_url).set(drivername="postgresql+psycopg"))
    assert "dbos" not in sa.inspect(database).get_schema_names()
    database.dispose()


def test_what_the_engine_commits_on_postgresql_waits_for_the_disk(postgres_url: str) -> None:
    database = jobs._database(sa.make_url(postgres_url), 1)
    for _ in range(2):
        with database.begin() as connection:
            assert connection.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"
    database.dispose()


def test_upgrading_twice_is_upgrading_once(postgres_server: Server) -> None:
    name = postgres_server.create()
    for _ in range(2):
        jobs.migrate(postgres_server.owner_url(name), app_role=postgres_server.app_role)
    postgres_server.drop(name)


def test_a_database_that_is_away_is_named_as_that(unused_port: int) -> None:
    url = f"postgresql://nobody@127.0.0.1:{unused_port}/none"
    engine = Engine(url, worker_id="here-0", work=Work(), concurrency=1)
    with pytest.raises(UnavailableError):
        engine.start()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_engine_speaks_through_the_common_log_and_seldom(
    start: Callable[..., Engine],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    start()
    log = logging.getLogger("dbos")
    for rarely in log.filters:
        getattr(rarely, "_last", {}).clear()
    for number in range(3):
        log.warning("again %s", number)
    log.info("nothing of interest")
    assert [record.message for record in caplog.records] == ["again 0"]
    assert capfd.readouterr() == ("", "")


def test_a_web_process_does_without_the_engine() -> None:
    code = (
        "import sys, earmark.intake, earmark.interactions, earmark.database.processing,"
        " earmark.database.workers; sys.exit('dbos' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_engines_file_lies_beside_ours_in_a_folder_of_any_name() -> None:
    url = jobs._url("sqlite:////what%3F/50%25 %23/earmark.sqlite3")
    written = url.render_as_string(hide_password=False)
    assert sa.make_url(written).database == url.database == "/what?/50% #/engine.sqlite3"
