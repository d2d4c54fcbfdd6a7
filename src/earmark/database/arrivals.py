"""The order in which interactions arrived, as those see it who read them one after another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.tables import arrival, event, hierarchy_closure, interaction
from earmark.model import MediaType, now

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from earmark.database.scope import Scope
    from earmark.model import ArrivalQuery

RECEIVED = "interaction.received"
DELETED = "interaction.deleted"

MAX_BRANCHES = 32
"""Nodes and kinds of media that one statement reads, each along its index. Of more, the first
ones bound what the others can add. A planner that is left to choose sorts millions for some."""


def add(scope: Scope, *, beyond: int) -> None:
    """Gives a place to the interactions whose `RECEIVED` event has a position beyond this one.

    That position is their number. Called under the lock that numbers events, so that places are
    seen in their order, whatever the order of the commits.
    """
    events, columns = event.c, interaction.c
    received = sa.join(
        event,
        interaction,
        sa.and_(
            columns.organization_id == events.organization_id,
            columns.id == events.interaction_id,
        ),
    )
    statement = (
        sa.select(
            events.position.label("number"),
            columns.id.label("interaction_id"),
            columns.received_at.label("at"),
            columns.media_type,
            columns.hierarchy_node_id,
        )
        .select_from(received)
        .where(events.position > beyond, events.kind == RECEIVED)
        .order_by(events.position)
    )
    scope.insert(arrival, *_in_time([row._asdict() for row in scope.rows(statement)], scope))


def _in_time(rows: Sequence[dict[str, Any]], scope: Scope) -> Iterator[dict[str, Any]]:
    """The rows with instants that never go back, so that a period is a range of numbers.

    What the clock of a machine says beyond the present is not believed: all that came after it
    would count as that late.
    """
    newest = scope.row(sa.select(arrival.c.at).order_by(arrival.c.at.desc()).limit(1))
    reached: datetime | None = newest.at if newest else None
    present = now()
    for row in rows:
        at = min(row["at"], present)
        reached = at if reached is None else max(reached, at)
        yield {**row, "at": reached}


def number_of(scope: Scope, interaction_id: UUID) -> int | None:
    """The number of an interaction; None if it has none yet, or is not there."""
    row = scope.row(sa.select(arrival.c.number).where(arrival.c.interaction_id == interaction_id))
    return row.number if row else None


def number_of_deleted(scope: Scope, interaction_id: UUID) -> int | None:
    """The number that a deleted interaction had; None if it had none or was never there."""
    told = sa.select(event.c.detail).where(
        event.c.kind == DELETED, event.c.interaction_id == interaction_id
    )
    row = scope.row(told)
    return row.detail.get("arrival") if row else None


def find(scope: Scope, query: ArrivalQuery, *, after: int, limit: int) -> list[UUID]:
    """The first `limit` interactions that the query finds after a number, in their order.

    Whatever is asked, it is a walk along an index in the order of the numbers, or along each of a
    few; only call ids are looked up first and put in order then.
    """
    scope.read_in_order()
    bounds = list(_bounds(scope, query, after))
    mine = arrival.c.organization_id == scope.organization_id
    if query.client_call_ids:
        statement = _of_calls(scope, query).where(*bounds, mine)
        # Not the number itself: either database might walk along all to save the sorting.
        ordered = statement.order_by(arrival.c.number + 0).limit(limit)
        return [row.interaction_id for row in scope.rows(ordered)]
    found: list[tuple[int, UUID]] = []
    branches = iter(_branches(scope, query))
    while batch := list(itertools.islice(branches, MAX_BRANCHES)):
        conditions = [mine, *bounds]
        if len(found) == limit:  # what lies beyond the last of them is not asked of the others
            conditions.append(arrival.c.number < found[-1][0])
        found = sorted([*found, *_first(scope, batch, conditions, limit)])[:limit]
    return [interaction_id for _, interaction_id in found]


def _first(
    scope: Scope,
    branches: Sequence[Collection[sa.ColumnElement[bool]]],
    conditions: Collection[sa.ColumnElement[bool]],
    limit: int,
) -> Iterator[tuple[int, UUID]]:
    """The first of each branch, put together; no planner goes along several indexes by itself."""
    columns = (arrival.c.number, arrival.c.interaction_id)
    firsts = [
        sa.select(*columns)
        .where(*conditions, *branch)
        .order_by(arrival.c.number)
        .limit(limit)
        .subquery()
        for branch in branches
    ]
    parts = [sa.select(first.c.number, first.c.interaction_id) for first in firsts]
    merged = sa.union_all(*parts).order_by("number").limit(limit)
    return ((row.number, row.interaction_id) for row in scope.rows(merged))


def _bounds(scope: Scope, query: ArrivalQuery, after: int) -> Iterator[sa.ColumnElement[bool]]:
    """The numbers that may be found. Instants never go back, so a period is a range of them."""
    columns = arrival.c
    yield columns.number > after
    if query.since is not None:
        first = sa.select(columns.number).where(columns.at >= query.since)
        row = scope.row(first.order_by(columns.at, columns.number).limit(1))
        yield columns.number >= row.number if row else sa.false()
    if query.until is not None:
        last = sa.select(columns.number).where(columns.at <= query.until)
        row = scope.row(last.order_by(columns.at.desc(), columns.number.desc()).limit(1))
        yield columns.number <= row.number if row else sa.false()


def _of_calls(scope: Scope, query: ArrivalQuery) -> sa.Select[Any]:
    columns = interaction.c
    joined = sa.join(
        interaction,
        arrival,
        sa.and_(
            arrival.c.organization_id == columns.organization_id,
            arrival.c.interaction_id == columns.id,
        ),
    )
    statement = (
        sa.select(arrival.c.number, arrival.c.interaction_id)
        .select_from(joined)
        .where(columns.client_call_id.in_(query.client_call_ids))
    )
    if query.media_type is not None:
        statement = statement.where(arrival.c.media_type == query.media_type)
    if query.hierarchy_ids:
        nodes = _subtrees(scope, query.hierarchy_ids)
        statement = statement.where(arrival.c.hierarchy_node_id.in_(nodes))
    return statement


def _branches(scope: Scope, query: ArrivalQuery) -> Iterator[tuple[sa.ColumnElement[bool], ...]]:
    """Conditions of which exactly one tuple holds for what is found, each with its own index."""
    columns = arrival.c
    wanted = [query.media_type] if query.media_type else [*MediaType]
    kinds = [columns.media_type == kind for kind in wanted]
    nodes: list[sa.ColumnElement[bool]] = [sa.true()]
    if query.hierarchy_ids:
        found = scope.rows(_subtrees(scope, query.hierarchy_ids).distinct())
        nodes = [columns.hierarchy_node_id == row.descendant_id for row in found]
    return itertools.product(nodes, kinds)


def _subtrees(scope: Scope, node_ids: Collection[UUID]) -> sa.Select[Any]:
    closure = hierarchy_closure.c
    return sa.select(closure.descendant_id).where(
        closure.organization_id == scope.organization_id, closure.ancestor_id.in_(node_ids)
    )
