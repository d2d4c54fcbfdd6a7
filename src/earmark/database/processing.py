"""The outbox and the ledger of processing: received interactions, claims, attempts, outcomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database import interactions, journal, search_index
from earmark.database.tables import agent, interaction, organization, step, step_part
from earmark.errors import EarmarkError
from earmark.model import (
    AgentSent,
    AudioFacts,
    Cause,
    InteractionDate,
    MediaType,
    Status,
    StepStatus,
    extension,
    now,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from earmark.database.scope import Scope
    from earmark.model import ChatFacts, TranscriptFacts, Warn
    from earmark.model.transcript import Transcript

WORKER_LOST = Cause(
    "worker_lost",
    "The worker stopped in the middle of processing this, and did so again each time it was "
    "tried. Retry it; if it fails again, the file itself may be what stops the worker.",
)


WORKER_LOST_BEFORE = Cause(
    "worker_lost",
    "The worker stopped in the middle of processing this. It is tried again by itself.",
)


class GoneError(EarmarkError):
    """The interaction was deleted."""


class SupersededError(EarmarkError):
    """Another worker, or another round, has taken over; whatever this one has is void."""


@dataclass(frozen=True, slots=True)
class Job:
    """One round of processing of one interaction: ids and what chooses its steps."""

    organization_id: UUID
    interaction_id: UUID
    round: int
    media_type: MediaType
    extension: str

    @property
    def id(self) -> str:
        """The engine's name for it: the same round is never begun twice."""
        return f"interaction:{self.interaction_id}:{self.round}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What `claim` found or did.

    Attributes:
        status: `RUNNING`: the step is the caller's to run. `WAITING`: nothing was claimed, since
            the last attempt ended with its worker; the caller is to postpone the next one. Else
            the step is over, and how.
        attempt: the number of the attempt claimed, from 1; the key to `record`.
        counted: how many attempts count against the step, this one included.
    """

    status: StepStatus
    attempt: int
    counted: int = 0


def any_due(scope: Scope) -> bool:
    """Whether an interaction waits for a worker now; one look into the index."""
    return scope.row(sa.select(interaction.c.id).where(*_due()).limit(1)) is not None


def next_due(scope: Scope) -> Job | None:
    """The interaction whose turn it is, kept from other dispatchers until this transaction ends.

    It is the one that is due longest of the organization that has fewest in processing, so that
    a backlog of one organization does not delay another. What waits for its next attempt is not
    due, and is in nobody's way.
    """
    for organization_id in _organizations_in_turn(scope):
        oldest = (
            _JOB.where(*_due(), interaction.c.organization_id == organization_id)
            .order_by(interaction.c.due_at, interaction.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = scope.row(oldest)
        if row is not None:
            return _job(row)
    return None


def in_processing(scope: Scope) -> list[Job]:
    """Every interaction that is being processed."""
    return [_job(row) for row in scope.rows(_JOB.where(_at(Status.PROCESSING)))]


def mark_processing(scope: Scope, job: Job) -> None:
    """Notes that the engine has the job."""
    scope.run(
        _of_round(sa.update(interaction), job)
        .where(interaction.c.status == Status.RECEIVED)
        .values(status=Status.PROCESSING)
    )


def load_job(scope: Scope, interaction_id: UUID, number: int) -> Job:
    """The job of this round, its row kept from being deleted until this transaction ends.

    Raises:
        GoneError: the interaction was deleted.
        SupersededError: the round is over.
    """
    columns = _JOB.add_columns(interaction.c.status).where(interaction.c.id == interaction_id)
    row = scope.row(columns.with_for_update())
    if row is None:
        raise GoneError(str(interaction_id))
    if row.round != number or row.status not in _UNFINISHED:
        raise SupersededError(str(interaction_id))
    return _job(row)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an interaction that matters to its processing.

    Attributes:
        agent_channel: on which its organization records its agents, from 0.
        audio: what was found out about a recording so far.
        customer: the customer's name as uploaded.
        agent: as uploaded; the names of the joined agent where the upload says none.
        date: as uploaded.
    """

    locale: str
    agent_channel: int
    audio: AudioFacts | None
    customer: str | None
    agent: AgentSent
    date: InteractionDate | None


def known(scope: Scope, job: Job) -> Known:
    """What is known of the interaction.

    Raises:
        GoneError: it was deleted.
    """
    mine = interaction.c.id == job.interaction_id
    joined = interaction.join(
        organization, organization.c.id == interaction.c.organization_id
    ).outerjoin(agent, agent.c.id == interaction.c.agent_id)
    row = scope.row(sa.select(*_KNOWN).select_from(joined).where(mine))
    if row is None:
        raise GoneError(str(job.interaction_id))
    at, minutes, sent = (
        row.interaction_at,
        row.interaction_offset_minutes,
        row.interaction_date_sent,
    )
    return Known(
        locale=row.locale,
        agent_channel=row.agent_channel,
        audio=AudioFacts(**row.audio) if row.audio else None,
        customer=row.customer_name,
        agent=AgentSent(row.agent_code, row.first_name, row.last_name),
        date=InteractionDate(at, minutes, sent) if at else None,
    )


_KNOWN = (
    interaction.c.locale,
    interaction.c.audio,
    interaction.c.customer_name,
    interaction.c.agent_code,
    interaction.c.interaction_at,
    interaction.c.interaction_offset_minutes,
    interaction.c.interaction_date_sent,
    organization.c.agent_channel,
    sa.func.coalesce(interaction.c.agent_first_name, agent.c.first_name).label("first_name"),
    sa.func.coalesce(interaction.c.agent_last_name, agent.c.last_name).label("last_name"),
)


def losses(scope: Scope, job: Job, *, name: str) -> int:
    """How many attempts at a step ended with their worker since a part of it was kept."""
    row = scope.row(sa.select(step.c.lost).where(_is_step(job, name)))
    return 0 if row is None else int(row.lost)


def claim(scope: Scope, job: Job, *, name: str, position: int, max_losses: int) -> Claim:
    """Counts an attempt at a step before it is made, so that no death of a worker is forgotten.

    A step whose attempts ended with their worker so often is recorded as failed here. Attempts
    before the last part that was kept, and those that an orderly stop ended, are excused.

    Raises:
        GoneError: the interaction was deleted.
        SupersededError: the round is over.
    """
    load_job(scope, job.interaction_id, job.round)
    mark_processing(scope, job)
    fresh = {"interaction_id": job.interaction_id, "name": name, "position": position}
    scope.insert_if_absent(step, {**fresh, "status": StepStatus.RUNNING, "attempts": 0})
    columns = (step.c.status, step.c.attempts, step.c.excused, step.c.lost)
    row = scope.row(sa.select(*columns).where(_is_step(job, name)))
    assert row is not None  # noqa: S101 - inserted above, in this transaction
    if row.status not in _OPEN:
        return Claim(StepStatus(row.status), row.attempts)
    counted = row.attempts - row.excused
    if row.status == StepStatus.RUNNING and counted:
        return _lose(scope, job, name, row, max_losses)
    attempt: dict[str, Any] = {"attempts": row.attempts + 1, "started_at": now()}
    cleared = {"next_attempt_at": None, "error_code": None, "error_message": None}
    values = {**attempt, **cleared, "position": position, "status": StepStatus.RUNNING}
    scope.run(sa.update(step).where(_is_step(job, name)).values(**values))
    return Claim(StepStatus.RUNNING, row.attempts + 1, counted + 1)


def _lose(scope: Scope, job: Job, name: str, row: sa.Row[Any], max_losses: int) -> Claim:
    """Counts an attempt that ended with its worker."""
    lost = sa.update(step).where(_is_step(job, name)).values(lost=row.lost + 1)
    scope.run(lost)
    if row.lost + 1 >= max_losses:
        _end(scope, job, name, status=StepStatus.FAILED, cause=WORKER_LOST)
        return Claim(StepStatus.FAILED, row.attempts)
    return Claim(StepStatus.WAITING, row.attempts, row.attempts - row.excused)


def postpone(
    scope: Scope, job: Job, *, name: str, attempt: int, cause: Cause, until: datetime
) -> None:
    """Ends a round and begins another one that is due later: no worker is held meanwhile.

    Args:
        scope: the transaction.
        job: the round that ends.
        name: of the step whose attempt failed.
        attempt: the number of that attempt.
        cause: why it failed; shown while the step waits.
        until: when the next attempt may be made.

    Raises:
        GoneError: the interaction was deleted.
        SupersededError: the round is over, or the step has been claimed anew.
    """
    load_job(scope, job.interaction_id, job.round)
    waiting = {"status": StepStatus.WAITING, "next_attempt_at": until}
    told = {"error_code": cause.code, "error_message": cause.message}
    if not scope.run(_of_attempt(job, name, attempt).values(**waiting, **told)):
        raise SupersededError(job.id)
    again = {"status": Status.RECEIVED, "round": job.round + 1, "due_at": until}
    scope.run(_of_round(sa.update(interaction), job).values(**again))


def excuse(scope: Scope, job: Job, *, name: str, attempt: int) -> None:
    """Lets an attempt not count: the worker was stopped in the middle of it."""
    scope.run(_of_attempt(job, name, attempt).values(excused=attempt))


def parts(scope: Scope, job: Job, *, name: str) -> list[Any]:
    """What was kept of a step, of earlier attempts and rounds too, in its order."""
    statement = sa.select(step_part.c.content).where(_is_part(job, name))
    return [row.content for row in scope.rows(statement.order_by(step_part.c.number))]


def forget_parts(scope: Scope, job: Job, *, name: str) -> None:
    """Drops what was kept of a step."""
    scope.run(sa.delete(step_part).where(_is_part(job, name)))


def keep_part(
    scope: Scope,
    job: Job,
    *,
    name: str,
    attempt: int,
    number: int,
    content: Any,
    progress: float,
) -> None:
    """Keeps one more part of what a claimed attempt at a step has done.

    Args:
        scope: the transaction.
        job: whose step it is.
        name: of the step.
        attempt: that was claimed.
        number: of the part, from 0.
        content: a JSON value.
        progress: how much of the step is done, 0 to 1.

    Raises:
        GoneError: the interaction was deleted.
        SupersededError: the round is over, or the step has been claimed anew.
    """
    load_job(scope, job.interaction_id, job.round)
    reached = {"progress": progress, "excused": attempt - 1, "lost": 0}
    if not scope.run(_of_attempt(job, name, attempt).values(**reached)):
        raise SupersededError(job.id)
    row = {"interaction_id": job.interaction_id, "name": name, "number": number}
    scope.insert(step_part, {**row, "content": content})


def record(
    scope: Scope, job: Job, *, name: str, attempt: int, status: StepStatus, cause: Cause | None
) -> None:
    """Writes how a claimed attempt at a step ended.

    Raises:
        GoneError: the interaction was deleted.
        SupersededError: the round is over, or the step has been claimed anew.
    """
    load_job(scope, job.interaction_id, job.round)
    if not _end(scope, job, name, status=status, cause=cause, attempt=attempt):
        raise SupersededError(job.id)
    if status is StepStatus.DONE:
        forget_parts(scope, job, name=name)


def finish(scope: Scope, job: Job, *, status: Status, cause: Cause | None = None) -> bool:
    """Ends a round as ready or failed and tells of it; False if it was over already.

    If a correction has outdated what it found out, the next round begins instead. Raises nothing
    for an interaction that is gone: there is nothing left to end.
    """
    if begin_anew(scope, job):
        return True
    ended = scope.run(
        _of_round(sa.update(interaction), job)
        .where(interaction.c.status.in_(_UNFINISHED))
        .values(status=status)
    )
    if ended:
        detail: dict[str, Any] = {"round": job.round}
        if cause:
            detail["cause"] = cause.code
        kind = f"interaction.{status.value}"
        journal.announce(scope, kind=kind, interaction_id=job.interaction_id, detail=detail)
    return bool(ended)


def begin_anew(scope: Scope, job: Job) -> bool:
    """Begins the next round if a correction has outdated this one; says whether it did."""
    outdated = scope.run(
        _of_round(sa.update(interaction), job)
        .where(interaction.c.status.in_(_UNFINISHED), interaction.c.outdated)
        .values(outdated=False, transcript=None)
    )
    if not outdated:
        return False
    search_index.forget(scope, job.interaction_id)
    interactions.forget_steps(scope, job.interaction_id, interactions.OF_WHAT_IS_SAID)
    detail = {"round": interactions.receive_again(scope, job.interaction_id)}
    journal.announce(
        scope, kind="interaction.retried", interaction_id=job.interaction_id, detail=detail
    )
    return True


def give_up(scope: Scope, job: Job, cause: Cause, *, name: str, position: int) -> bool:
    """Fails a round that nobody works at; the step where it stopped bears the cause.

    Returns:
        False if the round was over already.
    """
    if begin_anew(scope, job):
        return True
    if not finish(scope, job, status=Status.FAILED, cause=cause):
        return False
    fresh = {"interaction_id": job.interaction_id, "name": name, "position": position}
    scope.insert_if_absent(step, {**fresh, "status": StepStatus.RUNNING, "attempts": 0})
    _end(scope, job, name, status=StepStatus.FAILED, cause=cause)
    return True


def outcomes(scope: Scope, job: Job) -> dict[str, StepStatus]:
    """Where each step stands that was ever claimed, by name."""
    statement = sa.select(step.c.name, step.c.status).where(_is_step(job))
    return {row.name: StepStatus(row.status) for row in scope.rows(statement)}


def save_audio(
    scope: Scope, interaction_id: UUID, facts: AudioFacts, warnings: Iterable[Warn]
) -> None:
    """Writes what a recording is, and adds warnings that the interaction does not bear yet.

    Raises:
        GoneError: the interaction was deleted.
    """
    row = _kept(scope, interaction_id)
    found = {"audio": asdict(facts), "warnings": _with_added(row.warnings, warnings)}
    scope.run(sa.update(interaction).where(interaction.c.id == interaction_id).values(**found))


def save_transcript(
    scope: Scope,
    interaction_id: UUID,
    facts: TranscriptFacts,
    *,
    transcript: Transcript,
    chat: ChatFacts | None = None,
    extended: Mapping[str, Any] | None = None,
    warnings: Iterable[Warn] = (),
) -> None:
    """Writes what a transcript is, lets it be found, and adds what was learned with it.

    Args:
        scope: the transaction.
        interaction_id: whose transcript it is.
        facts: of the transcript.
        transcript: whose words are found from now on.
        chat: of a chat.
        extended: metadata that came with the media; what the upload said of a key stays.
        warnings: that the interaction does not bear yet are added.

    Raises:
        GoneError: the interaction was deleted.
    """
    row = _kept(scope, interaction_id)
    found: dict[str, Any] = {
        "transcript": asdict(facts),
        "extended": {**(extended or {}), **row.extended},
        "warnings": _with_added(row.warnings, warnings),
    }
    if chat is not None:
        found |= {f"chat_{name}": value for name, value in asdict(chat).items()}
    scope.run(sa.update(interaction).where(interaction.c.id == interaction_id).values(**found))
    search_index.put(scope, interaction_id, transcript)


def _kept(scope: Scope, interaction_id: UUID) -> sa.Row[Any]:
    """What steps add to, the row kept from others until this transaction ends."""
    columns = sa.select(interaction.c.warnings, interaction.c.extended)
    row = scope.row(columns.where(interaction.c.id == interaction_id).with_for_update())
    if row is None:
        raise GoneError(str(interaction_id))
    return row


def _with_added(kept: Sequence[Any], added: Iterable[Warn]) -> list[Any]:
    known = {warning["code"] for warning in kept}
    return [*kept, *(asdict(warning) for warning in added if warning.code not in known)]


FURTHEST_DUE = timedelta(hours=1)
"""Nothing is put off for longer: a quarter of an hour is the longest wait between attempts."""

_UNFINISHED = (Status.RECEIVED, Status.PROCESSING)

_OPEN = (StepStatus.RUNNING, StepStatus.WAITING)

_JOB = sa.select(
    interaction.c.organization_id,
    interaction.c.id,
    interaction.c.round,
    interaction.c.media_type,
    interaction.c.file_name,
)


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        organization_id=row.organization_id,
        interaction_id=row.id,
        round=row.round,
        media_type=MediaType(row.media_type),
        extension=extension(row.file_name),
    )


def _at(status: Status) -> sa.ColumnElement[bool]:
    """Written out, not bound: a plan that serves any status uses no index of one."""
    return interaction.c.status == sa.literal(status.value, literal_execute=True)


def any_put_off_too_far(scope: Scope) -> bool:
    """Whether a clock that has since been set back put something off."""
    return scope.row(sa.select(interaction.c.id).where(*_put_off_too_far()).limit(1)) is not None


def hasten(scope: Scope) -> None:
    """Makes due what was put off too far."""
    scope.run(sa.update(interaction).where(*_put_off_too_far()).values(due_at=now()))


def _put_off_too_far() -> tuple[sa.ColumnElement[bool], ...]:
    return (_at(Status.RECEIVED), interaction.c.due_at > now() + FURTHEST_DUE)


def _due() -> tuple[sa.ColumnElement[bool], ...]:
    return (_at(Status.RECEIVED), interaction.c.due_at <= now())


def _organizations_in_turn(scope: Scope) -> Collection[UUID]:
    """The organizations with something to do: fewest in processing first, then longest due.

    It asks per organization rather than per interaction: a backlog of a million costs no more.
    """
    mine = interaction.c.organization_id == organization.c.id
    first = (
        sa.select(interaction.c.due_at)
        .where(mine, *_due())
        .order_by(interaction.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    busy = (
        sa.select(sa.func.count())
        .select_from(interaction)
        .where(mine, _at(Status.PROCESSING))
        .scalar_subquery()
    )
    turns = sa.select(organization.c.id, first.label("first"), busy.label("busy")).subquery()
    statement = sa.select(turns.c.id).where(turns.c.first.is_not(None))
    rows = scope.rows(statement.order_by(turns.c.busy, turns.c.first))
    return [row.id for row in rows]


def _of_round(statement: sa.Update, job: Job) -> sa.Update:
    return statement.where(
        interaction.c.id == job.interaction_id, interaction.c.round == job.round
    )


def _is_step(job: Job, name: str | None = None) -> sa.ColumnElement[bool]:
    mine = step.c.interaction_id == job.interaction_id
    return mine if name is None else mine & (step.c.name == name)


def _is_part(job: Job, name: str) -> sa.ColumnElement[bool]:
    return (step_part.c.interaction_id == job.interaction_id) & (step_part.c.name == name)


def _of_attempt(job: Job, name: str, attempt: int) -> sa.Update:
    running = step.c.status == StepStatus.RUNNING
    return sa.update(step).where(_is_step(job, name), running, step.c.attempts == attempt)


def _ending(status: StepStatus, cause: Cause | None) -> dict[str, Any]:
    done = status is StepStatus.DONE
    # One that never told how far it was does not begin to at its end.
    progress = sa.case((step.c.progress.is_not(None), 1.0)) if done else step.c.progress
    return {
        "status": status,
        "progress": progress,
        "finished_at": now(),
        "next_attempt_at": None,
        "error_code": cause.code if cause else None,
        "error_message": cause.message if cause else None,
    }


def _end(
    scope: Scope,
    job: Job,
    name: str,
    *,
    status: StepStatus,
    cause: Cause | None,
    attempt: int | None = None,
) -> bool:
    statement = sa.update(step).where(_is_step(job, name), step.c.status.in_(_OPEN))
    if attempt is not None:
        statement = statement.where(step.c.attempts == attempt)
    return scope.run(statement.values(**_ending(status, cause))) > 0
