"""Turns received interactions into jobs, and ends what no worker works at any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from earmark.database import processing
from earmark.jobs import State

if TYPE_CHECKING:
    from threading import Event

    from earmark.database import Database
    from earmark.database.processing import Job
    from earmark.jobs import Engine
    from earmark.pipeline.run import Pipeline

POLL_SECONDS = 0.25
"""How long a received interaction waits at most before an idle worker sees it."""

_log = structlog.get_logger("earmark.worker")


class Dispatcher:
    """Begins a job for each received interaction as soon as this worker has room for it.

    What waits stays in the outbox, so that whose turn it is gets decided when a place is free:
    an organization with few interactions does not stand behind another's thousand.
    """

    def __init__(self, database: Database, engine: Engine, *, stopping: Event) -> None:
        self._database = database
        self._engine = engine
        self._stopping = stopping

    def poll(self) -> None:
        """Begins what there is room for; then rests for `POLL_SECONDS`, or until there is room.

        Raises:
            UnavailableError: the database is away.
        """
        if self._engine.wait_for_room(POLL_SECONDS) and not self.dispatch():
            self._stopping.wait(POLL_SECONDS)

    def dispatch(self) -> bool:
        """Begins one job; False if nothing waits.

        The job is begun before the row says so: after a crash in between, the row is received
        still and the job's id tells that it was begun.
        """
        with self._database.read(None) as scope:
            if not processing.any_due(scope):
                return False
        with self._database.write(None) as scope:
            job = processing.next_due(scope)
            if job is None:
                return False
            self._begin(job)
            processing.mark_processing(scope, job)
        return True

    def _begin(self, job: Job) -> None:
        state = self._engine.states([job.id]).get(job.id)
        if state is State.UNFINISHED:
            return
        if state is State.ENDED:  # our database was restored to an earlier time than the engine's
            self._engine.forget(job.id)
        arguments = (str(job.organization_id), str(job.interaction_id), str(job.round))
        self._engine.begin(job.id, *arguments)


class Watchdog:
    """Sees to it that nothing stays in processing that nobody processes."""

    def __init__(self, database: Database, engine: Engine, pipeline: Pipeline) -> None:
        self._database = database
        self._engine = engine
        self._pipeline = pipeline
        self._suspects: frozenset[str] = frozenset()

    def look(self) -> int:
        """Ends the rounds whose job is lost, given up or ended without an outcome.

        A round is ended at the second look that finds it so: a single one may fall between two
        transactions of a worker.

        Returns:
            how many rounds were ended.

        Raises:
            UnavailableError: the database is away.
        """
        with self._database.read(None) as scope:
            jobs = processing.in_processing(scope)
            put_off = processing.any_put_off_too_far(scope)
        if put_off:
            with self._database.write(None) as scope:
                processing.hasten(scope)
            _log.warning("interaction.hastened", why="the clock was set back")
        states = self._engine.states([job.id for job in jobs])
        lost = [job for job in jobs if states.get(job.id) is not State.UNFINISHED]
        ended = sum(self._end(job) for job in lost if job.id in self._suspects)
        self._suspects = frozenset(job.id for job in lost)
        return ended

    def _end(self, job: Job) -> bool:
        if not self._pipeline.abandon(job, processing.WORKER_LOST):
            return False
        _log.error("interaction.worker_lost", interaction_id=str(job.interaction_id))
        return True
