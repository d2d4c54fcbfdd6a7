"""Interactions: found, read, deleted, received anew."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from earmark.database import search_index
from earmark.database.tables import (
    agent,
    download,
    hierarchy_closure,
    hierarchy_node,
    interaction,
    step,
)
from earmark.model import (
    AgentSent,
    AudioFacts,
    Cause,
    ChatFacts,
    Customer,
    Direction,
    Interaction,
    InteractionDate,
    MediaType,
    NodeRef,
    Status,
    Step,
    StepStatus,
    TranscriptFacts,
    Warn,
    clean_file_name,
    now,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from earmark.database.scope import Scope
    from earmark.model import Query

UNFINISHED = (Status.RECEIVED, Status.PROCESSING)

MAX_BRANCHES = 8
"""Hierarchy nodes that are read one by one; more have so many interactions that a walk over all
soon finds enough."""

OF_WHAT_IS_SAID = step.c.name.not_in(["listen"])
"""The steps whose outcome depends on more than the bytes of the media."""

MAX_NAMED = 1000
"""Interactions that are named one by one; of more, a walk over all soon finds enough."""

_LAST_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


class Position(NamedTuple):
    """Where an interaction stands in the order of reading: newest first, ties by id."""

    occurred_at: datetime
    id: UUID


def positions(scope: Scope, query: Query, *, after: Position | None, limit: int) -> list[Position]:
    """The first `limit` interactions that the query finds after a position, in reading order.

    Only what the order needs is selected, so that most plans never leave the index.
    """
    causes = list(_causes(scope, query))
    if causes and (few := _few(scope, causes)) is not None:
        return _of_few(
            scope, query, [*_conditions(query), *_beyond(after), interaction.c.id.in_(few)], limit
        )
    found = scope.rows(in_order(scope, query, after=after, limit=limit))
    return [Position(row.occurred_at, row.id) for row in found]


def in_order(scope: Scope, query: Query, *, after: Position | None, limit: int) -> sa.Select[Any]:
    """The same as a statement, that always walks along the interactions."""
    common = [*_conditions(query), *_beyond(after)]
    if causes := list(_causes(scope, query)):
        common.append(interaction.c.id.in_(sa.select(step.c.interaction_id).where(*causes)))
    firsts = [
        _newest(scope, [*common, *branch], limit).subquery() for branch in _branches(scope, query)
    ] or [_newest(scope, [sa.false()], limit).subquery()]
    parts = [sa.select(first.c.occurred_at, first.c.id) for first in firsts]
    merged = sa.union_all(*parts).subquery()
    return (
        sa.select(merged.c.occurred_at, merged.c.id)
        .order_by(merged.c.occurred_at.desc(), merged.c.id.desc())
        .limit(limit)
    )


def load(scope: Scope, ids: Collection[UUID]) -> dict[UUID, Interaction]:
    """The interactions of these ids, with their steps; ids that are not there are left out."""
    steps = _steps(scope, ids)
    rows = scope.rows(_READ.where(interaction.c.id.in_(ids)))
    return {row.id: _interaction(row, steps.get(row.id, ())) for row in rows}


def status_of(scope: Scope, interaction_id: UUID) -> Status | None:
    """Where an interaction stands; nobody else changes it until this transaction ends."""
    statement = sa.select(interaction.c.status).where(interaction.c.id == interaction_id)
    row = scope.row(statement.with_for_update())
    return None if row is None else Status(row.status)


def delete(scope: Scope, interaction_id: UUID) -> bool:
    """Removes an interaction, its steps and every word of it; says whether it was there."""
    if status_of(scope, interaction_id) is None:
        return False
    search_index.forget(scope, interaction_id)
    named = sa.select(interaction.c.file_name).where(
        interaction.c.organization_id == scope.organization_id, interaction.c.id == interaction_id
    )
    # Of earlier tries that failed its name would stay.
    scope.run(
        sa.delete(download).where(
            download.c.file_name == named.scalar_subquery(), download.c.finished_at.is_not(None)
        )
    )
    return scope.run(sa.delete(interaction).where(interaction.c.id == interaction_id)) > 0


def has_step(scope: Scope, interaction_id: UUID, *statuses: StepStatus) -> bool:
    """Whether a step of an interaction stands at one of these."""
    statement = sa.select(step.c.name).where(
        step.c.interaction_id == interaction_id, step.c.status.in_(statuses)
    )
    return scope.row(statement) is not None


def receive_again(scope: Scope, interaction_id: UUID) -> int:
    """Puts an interaction back to `RECEIVED`, due now, and forgets every step that is not done.

    Returns:
        the number of the new round.
    """
    forget_steps(scope, interaction_id, step.c.status != StepStatus.DONE)
    changed = (
        sa.update(interaction)
        .where(interaction.c.id == interaction_id)
        .values(status=Status.RECEIVED, round=interaction.c.round + 1, due_at=now())
        .returning(interaction.c.round)
    )
    (row,) = scope.rows(changed)
    number: int = row.round
    return number


def forget_steps(scope: Scope, interaction_id: UUID, which: sa.ColumnElement[bool]) -> None:
    """Forgets steps of an interaction: they are done anew in its next round."""
    scope.run(sa.delete(step).where(step.c.interaction_id == interaction_id, which))


def existing(scope: Scope, ids: Collection[UUID]) -> set[UUID]:
    """Those of the ids that are interactions."""
    return {
        row.id for row in scope.rows(sa.select(interaction.c.id).where(interaction.c.id.in_(ids)))
    }


def matching(scope: Scope, query: Query, ids: Sequence[UUID]) -> set[UUID]:
    """Those of the interactions that the query finds."""
    asked = list(_conditions(query))
    if statuses := _statuses(query):
        asked.append(interaction.c.status.in_(statuses))
    if query.hierarchy_ids:
        nodes = scope.rows(_subtrees(scope, query.hierarchy_ids).distinct())
        asked.append(interaction.c.hierarchy_node_id.in_([row.descendant_id for row in nodes]))
    if causes := list(_causes(scope, query)):
        asked.append(interaction.c.id.in_(sa.select(step.c.interaction_id).where(*causes)))
    if not asked:
        return set(ids)
    listed = scope.listed(interaction.c.id, ids)
    mine = interaction.c.organization_id == scope.organization_id
    found = sa.select(interaction.c.id).select_from(
        listed.outerjoin(interaction, sa.and_(mine, interaction.c.id == listed.c.value, *asked))
    )
    return {row.id for row in scope.rows(found) if row.id is not None}


def begins_with(column: sa.Column[Any], prefix: str) -> Iterator[sa.ColumnElement[bool]]:
    """That a text begins so, as a range: LIKE uses no index on SQLite, and would need escapes."""
    if prefix:
        yield column >= prefix
    beyond = _first_beyond(prefix)
    if beyond:
        yield column < beyond


def _newest(
    scope: Scope, conditions: Collection[sa.ColumnElement[bool]], limit: int
) -> sa.Select[Any]:
    columns = interaction.c
    # Scope binds the tables that a statement selects from, not those of its parts.
    mine = columns.organization_id == scope.organization_id
    return (
        sa.select(columns.occurred_at, columns.id)
        .where(mine, *conditions)
        .order_by(columns.occurred_at.desc(), columns.id.desc())
        .limit(limit)
    )


def _beyond(position: Position | None) -> Iterator[sa.ColumnElement[bool]]:
    if position is not None:
        columns = (interaction.c.occurred_at, interaction.c.id)
        values = (
            sa.literal(value, column.type) for value, column in zip(position, columns, strict=True)
        )
        yield sa.tuple_(*columns) < sa.tuple_(*values)


def _conditions(query: Query) -> Iterator[sa.ColumnElement[bool]]:
    columns = interaction.c
    for column, value in (
        (columns.agent_id, query.agent_id),
        (columns.agent_code, query.agent_code),
        (columns.locale, query.locale),
        (columns.direction, query.direction),
        (columns.client_call_id, query.client_call_id),
    ):
        if value is not None:
            yield column == value
    if query.since is not None:
        yield columns.occurred_at >= query.since
    if query.until is not None:
        yield columns.occurred_at < query.until
    if query.prefix is not None:
        yield from begins_with(columns.file_name, clean_file_name(query.prefix))


def _causes(scope: Scope, query: Query) -> Iterator[sa.ColumnElement[bool]]:
    """What is asked of steps that bear a cause; nothing, if nothing is asked of steps."""
    if query.error_code is None and not query.step_statuses:
        return
    yield step.c.organization_id == scope.organization_id
    yield step.c.error_code.is_not(None)
    if query.error_code is not None:
        yield step.c.error_code == query.error_code
    if query.step_statuses:
        yield step.c.status.in_(query.step_statuses)


def _few(scope: Scope, causes: Collection[sa.ColumnElement[bool]]) -> set[UUID] | None:
    """The interactions that have such a step, by its index; None if they are many."""
    having = sa.select(step.c.interaction_id).where(*causes).distinct().limit(MAX_NAMED + 1)
    found = {row.interaction_id for row in scope.rows(having)}
    return found if len(found) <= MAX_NAMED else None


def _of_few(
    scope: Scope, query: Query, conditions: Collection[sa.ColumnElement[bool]], limit: int
) -> list[Position]:
    """The first of few interactions, sorted here.

    A column that nobody needs is read with them: SQLite would walk over all in reading order, by
    an index that has the rest, rather than look up each id.
    """
    found = [
        Position(row.occurred_at, row.id)
        for branch in _branches(scope, query)
        for row in scope.rows(
            sa.select(interaction.c.occurred_at, interaction.c.id, interaction.c.file_name).where(
                *conditions, *branch
            )
        )
    ]
    return sorted(found, reverse=True)[:limit]


def _branches(scope: Scope, query: Query) -> Iterator[tuple[sa.ColumnElement[bool], ...]]:
    """The conditions on status and hierarchy, of which exactly one tuple holds for what is found.

    Each value wanted is a branch of its own, read in order from the index that has it: no planner
    merges them so by itself, and a walk over all that looks for rare ones ends at the last.
    """
    columns = interaction.c
    nodes: list[sa.ColumnElement[bool]] = [sa.true()]
    statuses = [columns.status == status for status in _statuses(query)] or nodes
    if query.hierarchy_ids:
        subtrees = _subtrees(scope, query.hierarchy_ids)
        nodes = [columns.hierarchy_node_id.in_(subtrees)]
        found = scope.rows(subtrees.distinct().limit(MAX_BRANCHES + 1))
        if len(found) <= MAX_BRANCHES and not _is_selective(query):
            nodes = [columns.hierarchy_node_id == row.descendant_id for row in found]
    return itertools.product(nodes, statuses)


def _is_selective(query: Query) -> bool:
    """Whether another condition finds few interactions by an index of its own."""
    told = query.error_code or query.step_statuses
    return bool(query.agent_id or query.agent_code or query.client_call_id or told)


def _statuses(query: Query) -> tuple[Status, ...]:
    if query.status is None:
        return ()
    return UNFINISHED if query.status in UNFINISHED else (query.status,)


def _subtrees(scope: Scope, node_ids: Collection[UUID]) -> sa.Select[Any]:
    closure = hierarchy_closure.c
    return sa.select(closure.descendant_id).where(
        closure.organization_id == scope.organization_id, closure.ancestor_id.in_(node_ids)
    )


def _first_beyond(prefix: str) -> str:
    """The first text after all that begin with the prefix; "" if there is none.

    UTF-8 sorts bytewise as its code points do, so the last one is counted up.
    """
    kept = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not kept:
        return ""
    following = ord(kept[-1]) + 1
    if following in _SURROGATES:  # no text holds one
        following = _SURROGATES.stop
    return kept[:-1] + chr(following)


_READ = (
    sa.select(
        interaction,
        hierarchy_node.c.code.label("node_code"),
        hierarchy_node.c.name.label("node_name"),
        agent.c.first_name.label("joined_first_name"),
        agent.c.last_name.label("joined_last_name"),
    )
    .outerjoin(
        hierarchy_node,
        sa.and_(
            hierarchy_node.c.organization_id == interaction.c.organization_id,
            hierarchy_node.c.id == interaction.c.hierarchy_node_id,
        ),
    )
    .outerjoin(
        agent,
        sa.and_(
            agent.c.organization_id == interaction.c.organization_id,
            agent.c.id == interaction.c.agent_id,
        ),
    )
)


def _interaction(row: sa.Row[Any], steps: tuple[Step, ...]) -> Interaction:
    return Interaction(
        id=row.id,
        file_name=row.file_name,
        media_type=MediaType(row.media_type),
        status=Status(row.status),
        round=row.round,
        received_at=row.received_at,
        interaction_date=_interaction_date(row),
        direction=Direction(row.direction) if row.direction else None,
        customer=Customer(row.customer_name, row.customer_phone, row.customer_email),
        agent_id=row.agent_id,
        agent=_agent(row),
        hierarchy=_node(row),
        locale=row.locale,
        client_call_id=row.client_call_id,
        extended=row.extended,
        metadata_sent=row.metadata_sent,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        audio=AudioFacts(**row.audio) if row.audio else None,
        warnings=tuple(Warn(**warning) for warning in row.warnings),
        steps=steps,
        chat=_chat(row),
        transcript=TranscriptFacts(**row.transcript) if row.transcript else None,
        meta=row.meta,
    )


def _chat(row: sa.Row[Any]) -> ChatFacts | None:
    if row.chat_message_count is None:
        return None
    return ChatFacts(row.chat_message_count, row.chat_first_at, row.chat_last_at)


def _interaction_date(row: sa.Row[Any]) -> InteractionDate | None:
    if row.interaction_at is None:
        return None
    return InteractionDate(
        row.interaction_at, row.interaction_offset_minutes, row.interaction_date_sent
    )


def _agent(row: sa.Row[Any]) -> AgentSent:
    """The names as sent, else the joined agent's: both or neither, never one person's of each."""
    names = (row.agent_first_name, row.agent_last_name)
    if names == (None, None):
        names = (row.joined_first_name, row.joined_last_name)
    return AgentSent(row.agent_code, *names)


def _node(row: sa.Row[Any]) -> NodeRef | None:
    if row.hierarchy_node_id is None:
        return None
    return NodeRef(row.hierarchy_node_id, row.node_code, row.node_name)


def _steps(scope: Scope, ids: Collection[UUID]) -> dict[UUID, tuple[Step, ...]]:
    statement = sa.select(step).where(step.c.interaction_id.in_(ids)).order_by(step.c.position)
    steps: dict[UUID, tuple[Step, ...]] = {}
    for row in scope.rows(statement):
        steps[row.interaction_id] = (*steps.get(row.interaction_id, ()), _step(row))
    return steps


def _step(row: sa.Row[Any]) -> Step:
    error = Cause(row.error_code, row.error_message or "") if row.error_code else None
    return Step(
        name=row.name,
        status=StepStatus(row.status),
        attempts=row.attempts,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=error,
        progress=row.progress,
        next_attempt_at=row.next_attempt_at,
    )
