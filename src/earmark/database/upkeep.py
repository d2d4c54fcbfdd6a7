"""What the upkeep of an installation asks, across all organizations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from earmark.database.tables import event, interaction
from earmark.model import Status

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from earmark.database.scope import Scope


class Kept(NamedTuple):
    """What the storage must have of an interaction.

    Attributes:
        sha256: of its media, 32 bytes.
        has_transcript: whether it has a transcript, too.
    """

    id: UUID
    organization_id: UUID
    size_bytes: int
    sha256: bytes
    has_transcript: bool


class Total(NamedTuple):
    """How many interactions there are, and how much media."""

    interactions: int
    size_bytes: int


def kept(
    scope: Scope, *, after: UUID | None, limit: int, since: datetime | None = None
) -> list[Kept]:
    """The first interactions beyond an id, in the order of ids, which is that of their making.

    Args:
        scope: the transaction.
        after: go on after this id; None to begin with the first.
        limit: the most to return.
        since: only those received then or later.
    """
    found = _KEPT.where(*_chosen(after, since)).order_by(interaction.c.id).limit(limit)
    return [Kept._make(row) for row in scope.rows(found)]


def find(scope: Scope, interaction_id: UUID) -> Kept | None:
    """The same of one interaction; None if there is none of this id."""
    found = scope.row(_KEPT.where(interaction.c.id == interaction_id))
    return None if found is None else Kept._make(found)


def total(scope: Scope, *, after: UUID | None = None, since: datetime | None = None) -> Total:
    """How much `kept` would return without a limit."""
    counted = sa.select(
        sa.func.count().label("interactions"),
        sa.func.coalesce(sa.func.sum(interaction.c.size_bytes), 0).label("size_bytes"),
    ).where(*_chosen(after, since))
    (row,) = scope.rows(counted.select_from(interaction))
    return Total(int(row.interactions), int(row.size_bytes))


def deleted(scope: Scope, ids: Collection[UUID]) -> set[UUID]:
    """Those of the ids whose interaction was deleted, as the events tell."""
    found = sa.select(event.c.interaction_id).where(
        event.c.kind == "interaction.deleted", event.c.interaction_id.in_(ids)
    )
    return {row.interaction_id for row in scope.rows(found)}


def hand_back(scope: Scope) -> int:
    """Has what was in processing begun again, by an engine that knows nothing of it.

    Returns:
        how many.
    """
    under_way = interaction.c.status == Status.PROCESSING
    return scope.run(sa.update(interaction).where(under_way).values(status=Status.RECEIVED))


def _chosen(after: UUID | None, since: datetime | None) -> list[sa.ColumnElement[bool]]:
    beyond = [] if after is None else [interaction.c.id > after]
    return beyond if since is None else [*beyond, interaction.c.received_at >= since]


_KEPT = sa.select(
    interaction.c.id,
    interaction.c.organization_id,
    interaction.c.size_bytes,
    interaction.c.sha256,
    interaction.c.transcript.is_not(None).label("has_transcript"),
)
