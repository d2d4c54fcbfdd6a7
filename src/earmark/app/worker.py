"""The worker process: dispatches, processes, watches, and stops in order."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from earmark.database import journal, workers
from earmark.database.slots import open_slots, take_free
from earmark.errors import UnavailableError
from earmark.jobs import Engine
from earmark.model import now
from earmark.pipeline.dispatcher import Dispatcher, Watchdog
from earmark.pipeline.run import Pipeline
from earmark.pipeline.takeover import SlotLostError, Takeover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from earmark.database import Database
    from earmark.pipeline import Step

WATCH_SECONDS = 2.0
"""Between looks for dead workers and lost jobs."""

SWEEP_SECONDS = 300.0
"""Between sweeps of the storage and of jobs that ended."""

KEEP_ENDED_SECONDS = 3600.0
"""How long the engine remembers a job that ended."""

INDEX_SECONDS = 1.0
"""Between looks for transcripts to be indexed; whoever searches reads those that wait."""

OUTAGE_SECONDS = 1.0
"""Between attempts while the database or the storage is away."""

LEAVE_SECONDS = 5.0
"""For what the worker's own threads are at, when it is stopped: all of it is short, unless the
database is away."""

_log = structlog.get_logger("earmark.worker")


@dataclass(frozen=True, slots=True)
class Pace:
    """How the worker behaves in time.

    Attributes:
        grace_seconds: for running steps when the worker is stopped.
        wait_factor: by which the waits between attempts at a step are multiplied.
    """

    grace_seconds: float = 30.0
    wait_factor: float = 1.0
    watch_seconds: float = WATCH_SECONDS
    sweep_seconds: float = SWEEP_SECONDS


def run_worker(
    database: Database,
    steps: Sequence[Step],
    *,
    concurrency: int = 0,
    sweep: Callable[[], object] = lambda: None,
    index: Callable[[], int] = lambda: 0,
    pace: Pace | None = None,
    stopping: threading.Event | None = None,
) -> None:
    """Works until SIGTERM or SIGINT, or until `stopping` is set; then ends the process if need be.

    It returns when every running step ended within the grace time. Otherwise it leaves the process
    with exit status 0 at once: what is unfinished is handed out again by another worker, or by
    this one at its next start.

    Args:
        database: with the newest schema; on PostgreSQL with the engine's as well.
        steps: in order.
        concurrency: interactions at once; 0 means one per processor.
        sweep: removes what nothing claims any more; called now and then.
        index: keeps the search index up, a part at a time; returns 0 when there was nothing to do.
        pace: when not the usual one.
        stopping: set to stop; signals set it too where this is the main thread.

    Raises:
        SlotLostError: another worker took this one's place; start anew.
        UnavailableError: the database could not be reached at the start.
    """
    stopping = stopping or threading.Event()
    _stop_on_signals(stopping)
    worker = Worker(
        database,
        steps,
        concurrency=concurrency or os.cpu_count() or 1,
        sweep=sweep,
        index=index,
        pace=pace or Pace(),
        stopping=stopping,
    )
    if not worker.run():
        _log.warning("worker.left_unfinished")
        # Threads in the middle of a step would keep the interpreter from ending.
        os._exit(0)


class Worker:
    """The parts of one worker process, joined."""

    def __init__(
        self,
        database: Database,
        steps: Sequence[Step],
        *,
        concurrency: int,
        sweep: Callable[[], object],
        index: Callable[[], int],
        pace: Pace,
        stopping: threading.Event,
    ) -> None:
        self._database = database
        self._sweep = sweep
        self._index_some = index
        self._pace = pace
        self._stopping = stopping
        self._failure: SlotLostError | None = None
        self._started_at = now()
        self._pipeline = Pipeline(database, steps, stopping=stopping, wait_factor=pace.wait_factor)
        slots = open_slots(database)
        self._worker_id, slot = take_free(slots, socket.gethostname())
        self._engine = Engine(
            database.engine.url.render_as_string(hide_password=False),
            worker_id=self._worker_id,
            work=self._pipeline.process,
            concurrency=concurrency,
        )
        self._dispatcher = Dispatcher(database, self._engine, stopping=stopping)
        self._takeover = Takeover(self._engine, slots, worker_id=self._worker_id, slot=slot)
        self._watchdog = Watchdog(database, self._engine, self._pipeline)

    def run(self) -> bool:
        """Works until stopped; says whether all that ran came to its end.

        Raises:
            SlotLostError, UnavailableError: see run_worker.
        """
        self._engine.start()
        _log.info("worker.started", worker=self._worker_id)
        threads = [
            threading.Thread(target=loop, name=f"earmark-{loop.__name__.strip('_')}", daemon=True)
            for loop in (
                self._dispatch,
                self._beat,
                self._watch,
                self._number,
                self._tidy,
                self._index,
            )
        ]
        for thread in threads:
            thread.start()
        self._stopping.wait()
        _await(threads)
        ended = self._engine.stop(self._pace.grace_seconds)
        self._leave()
        if ended:
            self._takeover.release()
        _log.info("worker.stopped", worker=self._worker_id)
        if self._failure is not None:
            raise self._failure
        return ended

    def _dispatch(self) -> None:
        self._repeat(self._dispatcher.poll, every_seconds=0)

    def _beat(self) -> None:
        self._repeat(self._say_alive, every_seconds=workers.BEAT_SECONDS)

    def _watch(self) -> None:
        self._repeat(self._take_care, every_seconds=self._pace.watch_seconds)

    def _number(self) -> None:
        self._repeat(self._number_events, every_seconds=self._pace.watch_seconds)

    def _tidy(self) -> None:
        self._repeat(self._tidy_up, every_seconds=self._pace.sweep_seconds)

    def _index(self) -> None:
        self._repeat(self._keep_index, every_seconds=0)

    def _keep_index(self) -> None:
        if not self._index_some():
            self._stopping.wait(INDEX_SECONDS)

    def _say_alive(self) -> None:
        with self._database.write(None) as scope:
            workers.beat(scope, self._worker_id, started_at=self._started_at, now=now())

    def _take_care(self) -> None:
        try:
            self._takeover.keep_slot()
        except SlotLostError as error:
            self._failure = error
            self._stopping.set()
            return
        taken = self._takeover.look()
        if taken:
            _log.warning("worker.took_over", jobs=taken)
        self._watchdog.look()

    def _number_events(self) -> None:
        """Readers would do it, but who reads for the first time in a year should not wait."""
        with self._database.read(None) as scope:
            organizations = journal.organizations_with_new_events(scope)
        for organization_id in organizations:
            left = True
            while left and not self._stopping.is_set():
                with self._database.write(organization_id) as scope:
                    left = journal.number_events(scope)

    def _tidy_up(self) -> None:
        self._sweep()
        self._engine.purge(older_than_seconds=KEEP_ENDED_SECONDS)

    def _leave(self) -> None:
        try:
            self._pipeline.excuse_running()
            with self._database.write(None) as scope:
                workers.leave(scope, self._worker_id)
        except UnavailableError:
            return  # its heartbeat grows old by itself

    def _repeat(self, action: Callable[[], None], *, every_seconds: float) -> None:
        """Does the action until the worker stops. The worker's edge: nothing ends this but that.

        An outage is logged once, however long it lasts.
        """
        away = False
        while not self._stopping.is_set():
            pause = every_seconds
            try:
                action()
                away = False
            except UnavailableError as error:
                pause = OUTAGE_SECONDS
                if not away:
                    _log.warning("worker.waits", action=action.__name__, error=str(error))
                away = True
            except Exception:  # noqa: BLE001 - the worker loop: logged, and tried again
                pause = max(every_seconds, OUTAGE_SECONDS)
                _log.exception("worker.action_failed", action=action.__name__)
            self._stopping.wait(pause)


def _await(threads: Iterable[threading.Thread]) -> None:
    """Waits for threads that are about to end, so that none uses what is closed next."""
    end = time.monotonic() + LEAVE_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _stop_on_signals(stopping: threading.Event) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
