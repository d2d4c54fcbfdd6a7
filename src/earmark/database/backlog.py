"""How much work waits, of all organizations together: for those who watch the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.tables import interaction
from earmark.model import MediaType, Status

if TYPE_CHECKING:
    from datetime import datetime

    from earmark.database.scope import Scope

STATES = ("waiting", "postponed", "processing")
"""Due, and no worker has it yet; tried, and to be tried again later; in a worker's hands."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The interactions of one kind in one state.

    Attributes:
        since: when the one that is due longest became due; it was received then, or its next
            attempt was to be made.
    """

    media_type: MediaType
    state: str
    count: int
    since: datetime


def backlog(scope: Scope, at: datetime) -> list[Backlog]:
    """All that is unfinished at an instant; nothing of what there is none of.

    Each state is read from the index of its status: what has ended costs nothing.
    """
    due = interaction.c.due_at <= at
    conditions = (
        (_at(Status.RECEIVED), due),
        (_at(Status.RECEIVED), ~due),
        (_at(Status.PROCESSING),),
    )
    return [
        Backlog(MediaType(row.media_type), state, row.number, row.since)
        for state, condition in zip(STATES, conditions, strict=True)
        for row in scope.rows(_COUNTED.where(*condition))
    ]


def _at(status: Status) -> sa.ColumnElement[bool]:
    """Written out, not bound: a plan that serves any status uses no index of one."""
    return interaction.c.status == sa.literal(status.value, literal_execute=True)


_SINCE = sa.case(  # what an earlier version left is due since the beginning of time
    (interaction.c.due_at > interaction.c.received_at, interaction.c.due_at),
    else_=interaction.c.received_at,
)
_COUNTED = sa.select(
    interaction.c.media_type,
    sa.func.count().label("number"),
    sa.func.min(_SINCE).label("since"),
).group_by(interaction.c.media_type)
