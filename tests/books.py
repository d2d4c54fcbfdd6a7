"""Writes into the database what intake, directory and pipeline would have written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database import journal, submissions, tables
from earmark.model import (
    InteractionDate,
    MediaType,
    Status,
    StepStatus,
    Submission,
    Warn,
    new_id,
    now,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from earmark.database import Database

NOON = datetime(2022, 3, 18, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Books:
    """One organization's records."""

    def __init__(self, database: Database, organization_id: UUID) -> None:
        self.database = database
        self.organization_id = organization_id

    def receive(
        self,
        name: str = "",
        at: datetime | None = None,
        *,
        agent_id: UUID | None = None,
        node_id: UUID | None = None,
        status: Status = Status.RECEIVED,
        id_: UUID | None = None,
        size_bytes: int = 3,
        **fields: Any,
    ) -> UUID:
        id_ = id_ or new_id()
        date = InteractionDate(at, 0, at.isoformat()) if at else None
        submission = Submission(
            file_name=name or f"{id_}.wav",
            media_type=fields.pop("media_type", MediaType.AUDIO),
            metadata_sent=fields.pop("metadata_sent", '{"FileName": "…"}'),
            **{"interaction_date": date, **fields},
        )
        with self.database.write(self.organization_id) as scope:
            assert submissions.add(
                scope,
                submission,
                id_=id_,
                received_at=now(),
                size_bytes=size_bytes,
                sha256=b"\xab" * 32,
                agent_id=agent_id,
                node_id=node_id,
                warnings=[Warn("container_differs", "It is a WAV.")],
            )
        self.change(id_, status=status)
        return id_

    def arrive(self, name: str = "", **fields: Any) -> UUID:
        """As `receive`, and tells of it as an upload does."""
        id_ = self.receive(name, **fields)
        with self.database.write(self.organization_id) as scope:
            journal.announce(scope, kind="interaction.received", interaction_id=id_)
        return id_

    def change(self, id_: UUID, **values: Any) -> None:
        with self.database.write(self.organization_id) as scope:
            scope.run(
                sa.update(tables.interaction).where(tables.interaction.c.id == id_).values(values)
            )

    def step(
        self,
        id_: UUID,
        name: str,
        status: StepStatus,
        position: int = 0,
        *,
        code: str = "broken",
    ) -> None:
        failed = status in {StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.WAITING}
        over = status not in {StepStatus.RUNNING, StepStatus.WAITING}
        row = {
            "interaction_id": id_,
            "name": name,
            "position": position,
            "status": status,
            "attempts": 3,
            "started_at": NOON,
            "finished_at": NOON + DAY if over else None,
            "next_attempt_at": NOON + DAY if status is StepStatus.WAITING else None,
            "error_code": code if failed else None,
            "error_message": "It is broken." if failed else None,
        }
        with self.database.write(self.organization_id) as scope:
            scope.insert(tables.step, row)

    def node(self, name: str, *above: UUID) -> UUID:
        """A node; `above` are its ancestors, the nearest first."""
        id_ = new_id()
        at = {"created_at": NOON, "modified_at": NOON}
        with self.database.write(self.organization_id) as scope:
            parent = above[0] if above else None
            scope.insert(
                tables.hierarchy_node,
                {"id": id_, "parent_id": parent, "name": name, "code": name, "is_active": True}
                | at,
            )
            for depth, ancestor in enumerate((id_, *above)):
                scope.insert(
                    tables.hierarchy_closure,
                    {"ancestor_id": ancestor, "descendant_id": id_, "depth": depth},
                )
        return id_

    def agent(self, code: str) -> UUID:
        id_ = new_id()
        names = {"first_name": "Joined", "last_name": "Agent", "email": ""}
        at = {"created_at": NOON, "modified_at": NOON}
        with self.database.write(self.organization_id) as scope:
            scope.insert(tables.agent, {"id": id_, "code": code, "is_active": True} | names | at)
        return id_

    def all(self, table: sa.Table) -> Sequence[sa.Row[Any]]:
        with self.database.read(self.organization_id) as scope:
            return scope.rows(sa.select(table))
