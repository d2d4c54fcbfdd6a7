"""The engine that hands out jobs and remembers them across deaths of workers.

The only importer of DBOS, through public names only. It has a database of its own: on SQLite the
file `engine.sqlite3` beside ours, on PostgreSQL the schema `dbos` in ours. Jobs carry ids, never
content. Importing this takes seconds and tens of megabytes: workers do, web processes must not.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID, error
from sqlalchemy import event

from earmark.errors import SettingsError, UnavailableError
from earmark.pooled import await_disk, drop_spoilt
from earmark.telemetry import Rarely

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

APP_NAME = "earmark"
VERSION = "1"
"""Pinned: the engine would hash the source, and jobs of another hash would wait for ever."""

MAX_RECOVERIES = 5
"""Times a job is handed out again after its worker died. Steps count their own attempts and end
sooner; this stops what dies before it reaches a step."""

RECOVERY_QUEUE = "recovered"
POLL_SECONDS = 0.5
PURGE_BATCH = 500
BUSY_SECONDS = 30
SPARE_CONNECTIONS = 6
"""For the engine's own threads, the dispatcher and the watchdog, beside one for each job."""
SETTLE_SECONDS = 5.0
"""For what came of the last jobs to be written down while this worker stops."""
OLD_TABLES = "The engine's tables are not of this version; run `earmark database upgrade` first."
_find = partial(DBOS.list_workflows, load_input=False, load_output=False)
_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class UnfinishedError(BaseException):
    """Raised by a job that leaves unfinished because its worker stops.

    It is no Exception, so that the engine takes it for no outcome and hands the job out again.
    """


class State(Enum):
    """What the engine knows of a job."""

    UNFINISHED = "unfinished"
    ENDED = "ended"


def migrate(database_url: str, *, app_role: str = "") -> None:
    """Makes or upgrades the engine's tables; on SQLite a starting worker does that itself.

    Args:
        database_url: on PostgreSQL, under the role that owns the tables or is to own them.
        app_role: on PostgreSQL, the role that workers have, when it is another.
    """
    _quieten()
    address = _url(database_url).render_as_string(hide_password=False)
    DBOS.migrate(address, application_role=app_role or None)


class Engine:
    """This worker's part of the engine. One at a time in a process."""

    def __init__(
        self,
        database_url: str,
        *,
        worker_id: str,
        work: Callable[..., None],
        concurrency: int,
    ) -> None:
        """Opens nothing yet.

        Args:
            database_url: Earmark's own.
            worker_id: of no other live process; after a restart best the same again.
            work: called with a job's arguments, in a thread; raises only UnfinishedError.
            concurrency: jobs at once in this worker.
        """
        self._work = work
        self._concurrency = concurrency
        self._url = _url(database_url)
        self._database = _database(self._url, concurrency + SPARE_CONNECTIONS)
        self._worker_id = worker_id
        self._running: set[str] = set()
        self._waiting: set[str] = set()
        self._left: deque[str] = deque(maxlen=concurrency)
        self._changed = threading.Condition()
        self._stopping = False

    def start(self) -> None:
        """Opens the engine's database and goes on with what this worker's id left behind.

        Raises:
            SettingsError: on PostgreSQL, the engine's tables are not there or too old.
            UnavailableError: the database is away.
        """
        _quieten()
        config = DBOSConfig(
            name=APP_NAME,
            system_database_url=self._url.render_as_string(hide_password=False),
            system_database_engine=self._database,
            executor_id=self._worker_id,
            application_version=VERSION,
            serializer=DBOSPortableJSONSerializer(),
            run_migrations=self._url.get_backend_name() == "sqlite",
            # Jobs send each other nothing; listening for it wakes a thread 100 times a second.
            use_listen_notify=False,
            notification_listener_polling_interval_sec=0.1,  # stopping waits for it
            enable_otlp=False,
            log_level="WARNING",
        )
        DBOS(config=config)
        workflow = DBOS.workflow(name="process", max_recovery_attempts=MAX_RECOVERIES)
        self._workflow = workflow(self._entry())
        try:
            DBOS.launch()
            DBOS.register_queue(
                RECOVERY_QUEUE,
                worker_concurrency=self._concurrency,
                polling_interval_sec=POLL_SECONDS,
                on_conflict="always_update",
            )
        except (error.DBOSException, sa.exc.DBAPIError) as cause:
            self._close()
            if isinstance(cause, sa.exc.OperationalError):
                raise UnavailableError("the database cannot serve now") from cause
            raise SettingsError(OLD_TABLES) from cause

    def begin(self, job_id: str, *arguments: str) -> None:
        """Has a job run here, at once; from here on it survives the death of this process.

        Only for a job of which `state` knows nothing.
        """
        with self._changed:
            self._running.add(job_id)
        try:
            with SetWorkflowID(job_id):
                DBOS.start_workflow(self._workflow, *arguments)
        except BaseException:
            self._leave(job_id)
            raise

    def wait_for_room(self, timeout_seconds: float) -> bool:
        """Waits until fewer jobs run here than may; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(self._has_room, timeout_seconds)

    def states(self, job_ids: Collection[str]) -> dict[str, State]:
        """Where jobs stand; those of which the engine knows nothing are left out."""
        if not job_ids:
            return {}
        found = _find(workflow_ids=list(job_ids))
        return {
            job.workflow_id: State.ENDED if job.status in _ENDED else State.UNFINISHED
            for job in found
        }

    def forget(self, job_id: str) -> None:
        """Removes an ended job, so that its id may begin again."""
        DBOS.delete_workflows([job_id])

    def begun(self) -> dict[str, set[str]]:
        """The jobs that workers have begun and not ended, dead workers' too, by worker."""
        by_worker: dict[str, set[str]] = defaultdict(set)
        for job in _find(status="PENDING"):
            by_worker[job.executor_id or ""].add(job.workflow_id)
        return by_worker

    def is_here(self, job_id: str) -> bool:
        """Whether a thread of this process has the job."""
        with self._changed:
            return job_id in self._running or job_id in self._waiting

    def hand_out_again(self, job_ids: Collection[str]) -> None:
        """Lets any worker take these jobs, though one had begun them; that one must be dead."""
        if job_ids:
            DBOS.resume_workflows(list(job_ids), queue_name=RECOVERY_QUEUE)

    def purge(self, *, older_than_seconds: float) -> int:
        """Removes jobs that ended that long ago; returns how many."""
        before = (datetime.now(UTC) - timedelta(seconds=older_than_seconds)).isoformat()
        removed = 0
        while old := _find(status=list(_ENDED), completed_before=before, limit=PURGE_BATCH):
            DBOS.delete_workflows([job.workflow_id for job in old])
            removed += len(old)
        return removed

    def stop(self, grace_seconds: float) -> bool:
        """Begins nothing more and waits for what runs; says whether all of it ended.

        What did not end is handed out again once the process is gone.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            ended = self._changed.wait_for(lambda: not self._running, grace_seconds)
        if ended:  # in a thread: while the database is away, the engine waits without end
            settling = threading.Thread(target=self._settle, daemon=True)
            settling.start()
            settling.join(SETTLE_SECONDS)
            ended = not settling.is_alive()
        if ended:
            self._close()
        return ended

    def _settle(self) -> None:
        """Waits until the engine wrote down that jobs ended, which it does when they have left."""
        while self._left and self.begun().get(self._worker_id, set()) & set(self._left):
            sleep(0.01)
        self._left.clear()

    def _close(self) -> None:
        DBOS.destroy(destroy_registry=True)
        self._database.dispose()

    def _entry(self) -> Callable[..., None]:
        def process(*arguments: str) -> None:  # a function: methods are registered otherwise
            self._enter(str(DBOS.workflow_id), arguments)

        return process

    def _enter(self, job_id: str, arguments: tuple[str, ...]) -> None:
        """Runs a job; one that was handed out again waits here for room first."""
        with self._changed:
            if job_id not in self._running:
                self._waiting.add(job_id)
                self._changed.wait_for(lambda: self._stopping or self._has_room())
                self._waiting.discard(job_id)
                if self._stopping:
                    raise UnfinishedError
                self._running.add(job_id)
        try:
            self._work(*arguments)
            self._left.append(job_id)
        finally:
            self._leave(job_id)

    def _leave(self, job_id: str) -> None:
        with self._changed:
            self._running.discard(job_id)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._running) < self._concurrency


def _url(database_url: str) -> sa.URL:
    """The engine's database beside ours."""
    url = sa.make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return url
    return url.set(database=str(Path(str(url.database)).with_name("engine.sqlite3")))


def _database(url: sa.URL, connections: int) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=connections,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5, "application_name": "earmark-engine"},
        )
        drop_spoilt(engine)
        await_disk(engine)
        return engine
    engine = sa.create_engine(url, pool_size=connections, connect_args={"timeout": BUSY_SECONDS})
    drop_spoilt(engine, Path(str(url.database)))

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _quieten() -> None:
    """Sends the engine's warnings the way of all logs instead of to a console of its own."""
    log = logging.getLogger("dbos")
    if not log.handlers:
        log.addHandler(logging.NullHandler())  # with one there, it adds none and propagates
        log.addFilter(Rarely())
    log.setLevel(logging.WARNING)
