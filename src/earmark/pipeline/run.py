"""Runs the steps of one interaction, each attempt counted in our own ledger first."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from earmark.database import processing
from earmark.database.processing import GoneError, Job, SupersededError
from earmark.errors import MediaError, UnavailableError
from earmark.jobs import UnfinishedError
from earmark.model import Cause, Status, StepStatus, now
from earmark.pipeline import Done, Item, Skipped, TransientError
from earmark.pipeline.notes import Notes
from earmark.pipeline.patience import FAULTS, OUTAGES
from earmark.pipeline.turnstile import Turnstile
from earmark.sandbox import CrashedError
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from threading import Event
    from typing import TypeVar

    from earmark.database import Database, Scope
    from earmark.database.processing import Claim
    from earmark.pipeline import Outcome, Step
    from earmark.pipeline.patience import Patience

    T = TypeVar("T")

RECONNECT_SECONDS = 1.0
"""Between attempts to write an outcome while the database is away."""

INTERNAL = Cause(
    "internal",
    "Earmark could not process this because of a fault of its own. Retry it; if it fails again, "
    "give the id of the interaction to your operator, whose log holds the details.",
)
UNAVAILABLE = Cause(
    "unavailable",
    "Storage or database could not be reached while this was processed. Retry it when they can.",
)
SHORT_OF_RESOURCES = Cause(
    "short_of_resources",
    "The machine had no more memory, processes, open files or room on its disk for this. Give it "
    "more, or lower EARMARK_WORKER_CONCURRENCY; then retry it.",
)
DECODER_KILLED = Cause(
    "decoder_killed",
    "The process that decodes the recording was ended from outside, most likely because the "
    "machine ran out of memory, and so each time it was tried. Retry it; if it fails again, give "
    "the machine more memory or lower EARMARK_WORKER_CONCURRENCY.",
)

_SCARCE = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.ENOBUFS,
    }
)
"""What a call to the system fails with where there is too little of something, not a fault."""

_log = structlog.get_logger("earmark.worker")


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that came to nothing; the next one may be made in so many seconds, if any."""

    cause: Cause
    wait_seconds: float | None = None


class Pipeline:
    """Processes interactions. One serves every thread of a worker."""

    def __init__(
        self,
        database: Database,
        steps: Sequence[Step],
        *,
        stopping: Event,
        wait_factor: float = 1.0,
    ) -> None:
        """Keeps its collaborators.

        Args:
            database: holds the ledger.
            steps: in order.
            stopping: set when the worker shall begin nothing more.
            wait_factor: by which the waits between attempts are multiplied.
        """
        self._database = database
        self._steps = tuple(steps)
        self._stopping = stopping
        self._wait_factor = wait_factor
        self._turnstile = Turnstile(self._leave_if_stopping)
        self._running: set[tuple[Job, str, int]] = set()

    def process(self, organization_id: str, interaction_id: str, number: str) -> None:
        """Takes one round of one interaction to its end; what is done already is passed over.

        A step that is to be tried again later ends the round too: the next one begins then.
        Ends quietly if the interaction was deleted or another worker took over.

        Raises:
            UnfinishedError: the worker stops; the engine hands the job out again.
        """
        interaction = UUID(interaction_id)
        try:
            job = self._write(
                UUID(organization_id),
                lambda scope: processing.load_job(scope, interaction, int(number)),
            )
        except (GoneError, SupersededError):
            return
        try:
            self._process(job)
        except (GoneError, SupersededError):
            return
        except Exception:  # noqa: BLE001 - the worker's edge
            _log.exception("interaction.internal_error", interaction_id=interaction_id)
            self.abandon(job, INTERNAL)

    def abandon(self, job: Job, cause: Cause) -> bool:
        """Ends a round that no worker works at any more; says whether it was still open.

        It fails with the cause, unless only its end was still to be written.
        """
        with self._database.write(job.organization_id) as scope:
            reached = processing.outcomes(scope, job)
            verdict = self._verdict(job, reached)
            if verdict is not None:
                return processing.finish(scope, job, status=verdict)
            position, step = next(
                (position, step)
                for position, step in self._applicable(job)
                if reached.get(step.name) in _TO_DO
            )
            return processing.give_up(scope, job, cause, name=step.name, position=position)

    def _process(self, job: Job) -> None:
        item = Item(job.organization_id, job.interaction_id, job.media_type, job.extension)
        try:
            for position, step in self._applicable(job):
                status = self._carry_out(step, position, job, item)
                if status is StepStatus.WAITING:
                    return
                if status is StepStatus.FAILED and step.required:
                    break
            self._write(job.organization_id, lambda scope: self._finish(scope, job))
        except GoneError:
            self._discard(job, item)
            raise

    def _finish(self, scope: Scope, job: Job) -> None:
        verdict = self._verdict(job, processing.outcomes(scope, job))
        processing.finish(scope, job, status=verdict or Status.READY)

    def _verdict(self, job: Job, reached: dict[str, StepStatus]) -> Status | None:
        """How the round ended; None if a step is still to be done."""
        steps = [(step, reached.get(step.name)) for _, step in self._applicable(job)]
        if any(step.required and status is StepStatus.FAILED for step, status in steps):
            return Status.FAILED
        if any(status in _TO_DO for _, status in steps):
            return None
        return Status.READY

    def _applicable(self, job: Job) -> Iterator[tuple[int, Step]]:
        for position, step in enumerate(self._steps):
            if step.applies_to(job.media_type):
                yield position, step

    def _carry_out(self, step: Step, position: int, job: Job, item: Item) -> StepStatus:
        """Attempts a step once, unless it is over.

        What ended with its worker all times but one is attempted alone, or it would be condemned
        for the deed of another that ran beside it each time.
        """
        self._leave_if_stopping()
        lost = self._write(
            job.organization_id, lambda scope: processing.losses(scope, job, name=step.name)
        )
        with self._turnstile.enter(alone=lost == FAULTS.attempts - 1) as give_back:
            claim = self._claim(step, position, job)
            if claim.status is not StepStatus.RUNNING:
                return claim.status
            began = time.monotonic()
            ended = self._attempt(step, job, item, claim, give_back)
            _count(step, ended, time.monotonic() - began)
        if isinstance(ended, Failed) and ended.wait_seconds is not None:
            return self._postpone(step, job, claim.attempt, ended.cause, ended.wait_seconds)
        return self._record(step, job, claim.attempt, ended)

    def _claim(self, step: Step, position: int, job: Job) -> Claim:
        """Claims the next attempt, or postpones it if the last one ended with its worker."""

        def write(scope: Scope) -> Claim:
            claim = processing.claim(
                scope, job, name=step.name, position=position, max_losses=FAULTS.attempts
            )
            if claim.status is StepStatus.WAITING:
                processing.postpone(
                    scope,
                    job,
                    name=step.name,
                    attempt=claim.attempt,
                    cause=processing.WORKER_LOST_BEFORE,
                    until=self._after(FAULTS.wait_seconds(claim.counted)),
                )
            return claim

        return self._write(job.organization_id, write)

    def _postpone(
        self, step: Step, job: Job, attempt: int, cause: Cause, wait_seconds: float
    ) -> StepStatus:
        self._write(
            job.organization_id,
            lambda scope: processing.postpone(
                scope,
                job,
                name=step.name,
                attempt=attempt,
                cause=cause,
                until=self._after(wait_seconds),
            ),
        )
        return StepStatus.WAITING

    def _after(self, wait_seconds: float) -> datetime:
        return now() + timedelta(seconds=wait_seconds * self._wait_factor)

    def _attempt(
        self, step: Step, job: Job, item: Item, claim: Claim, give_back: Callable[[], None]
    ) -> Outcome | Failed:
        """Runs a step once. This is the worker's edge: whatever a step raises ends here."""
        running = (job, step.name, claim.attempt)
        self._running.add(running)
        try:
            notes = self._notes(*running, give_back)
            return step.run(self._described(job, item), notes)
        except MediaError as error:
            return Failed(Cause(error.code, error.message))
        except (GoneError, SupersededError):
            raise
        except UnfinishedError:
            self._excuse(*running)
            raise
        except Exception as error:  # noqa: BLE001 - the worker's edge
            self._leave_if_deleted(job)
            cause, patience = _judged(error)
            final = claim.counted >= patience.attempts
            wait_seconds = None if final else patience.wait_seconds(claim.counted)
            _log.exception(
                "step.failed",
                step=step.name,
                interaction_id=str(job.interaction_id),
                attempt=claim.attempt,
                cause=cause.code,
                final=final,
            )
            return Failed(cause, wait_seconds)
        finally:
            self._running.discard(running)

    def _described(self, job: Job, item: Item) -> Item:
        """The item with what earlier steps found out."""
        known = self._write(job.organization_id, lambda scope: processing.known(scope, job))
        return replace(
            item,
            locale=known.locale,
            agent_channel=known.agent_channel,
            audio=known.audio,
            customer=known.customer,
            agent=known.agent,
            date=known.date,
        )

    def excuse_running(self) -> None:
        """Lets the attempts that are under way not count: the worker stops and does not wait.

        Raises:
            UnavailableError: the database is away.
        """
        for running in tuple(self._running):
            self._excuse(*running)

    def _excuse(self, job: Job, name: str, attempt: int) -> None:
        with self._database.write(job.organization_id) as scope:
            processing.excuse(scope, job, name=name, attempt=attempt)

    def _notes(self, job: Job, name: str, attempt: int, give_back: Callable[[], None]) -> Notes:
        def write(work: Callable[[Scope], T]) -> T:
            done = self._write(job.organization_id, work)
            self._leave_if_stopping()
            return done

        # From its first part on it cannot be condemned for this attempt, nor need others fear it.
        return Notes(write, job, name=name, attempt=attempt, kept=give_back)

    def _record(self, step: Step, job: Job, attempt: int, ended: Outcome | Failed) -> StepStatus:
        status, cause = _verdict_of(ended)

        def write(scope: Scope) -> None:
            processing.record(
                scope, job, name=step.name, attempt=attempt, status=status, cause=cause
            )
            if isinstance(ended, Done) and ended.save:
                ended.save(scope)

        self._write(job.organization_id, write)
        return status

    def _leave_if_deleted(self, job: Job) -> None:
        """A step that lost its file under its hands has not failed."""
        self._write(
            job.organization_id,
            lambda scope: processing.load_job(scope, job.interaction_id, job.round),
        )

    def _leave_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise UnfinishedError

    def _discard(self, job: Job, item: Item) -> None:
        for _, step in self._applicable(job):
            try:
                step.discard(item)
            except UnavailableError as error:
                # The sweeper removes what stays: no interaction claims it any more.
                _log.warning("step.discard_failed", step=step.name, error=str(error))

    def _write(self, organization_id: UUID, work: Callable[[Scope], T]) -> T:
        """A transaction that is tried until the database takes it or the worker stops."""
        while True:
            try:
                with self._database.write(organization_id) as scope:
                    return work(scope)
            except UnavailableError:
                self._stopping.wait(RECONNECT_SECONDS)
                self._leave_if_stopping()


_TO_DO = (None, StepStatus.RUNNING, StepStatus.WAITING)


def _judged(error: Exception) -> tuple[Cause, Patience]:
    """Why an attempt failed, and how patiently it is repeated."""
    if isinstance(error, TransientError):
        return error.cause, OUTAGES
    if isinstance(error, UnavailableError):
        return UNAVAILABLE, OUTAGES
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SCARCE):
        return SHORT_OF_RESOURCES, OUTAGES
    return DECODER_KILLED if isinstance(error, CrashedError) else INTERNAL, FAULTS


def _count(step: Step, ended: Outcome | Failed, seconds: float) -> None:
    status, cause = _verdict_of(ended)
    if isinstance(ended, Failed) and ended.wait_seconds is not None:
        status = StepStatus.WAITING
    metrics.STEP_DURATION.took(seconds, step.name)
    metrics.STEPS.add(step.name, status.value, cause.code if cause else "none")


def _verdict_of(ended: Outcome | Failed) -> tuple[StepStatus, Cause | None]:
    if isinstance(ended, Done):
        return StepStatus.DONE, None
    if isinstance(ended, Skipped):
        return StepStatus.SKIPPED, ended.cause
    return StepStatus.FAILED, ended.cause
