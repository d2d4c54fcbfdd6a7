"""The audit trail as it is read: its rows, the seals over them, and the head of the chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.tables import audit, audit_head, audit_seal, organization

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from earmark.database.scope import Scope


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act.

    Attributes:
        organization_id: None for what concerns the whole service.
        actor: "client:<id>", "worker" or "operator".
        request_id: the `X-Request-Id` of the call, if it was one.
        address: where it came from.
    """

    sequence: int
    organization_id: UUID | None
    at: datetime
    actor: str
    action: str
    subject: str
    request_id: str | None
    address: str | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seal:
    """One link of the chain: its number from 1, and the row it covers, if that is still there."""

    number: int
    sequence: int
    hash: bytes
    row: AuditRow | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends.

    Attributes:
        settled: rows up to this sequence are sealed, or were never written.
        mac: shows that the rest was written by somebody who has the key.
    """

    number: int
    hash: bytes
    settled: int
    sealed_at: datetime
    mac: bytes


@dataclass(frozen=True, slots=True)
class Unsealed:
    """Rows that no seal covers yet.

    Attributes:
        rows: how many.
        oldest_at: when the oldest was written.
    """

    rows: int
    oldest_at: datetime | None


def serialise_sealing(scope: Scope) -> None:
    """Waits for other workers that seal."""
    scope.serialise("audit", "seal")


def head(scope: Scope) -> Head | None:
    """The head; None if nothing was sealed yet."""
    row = scope.row(sa.select(audit_head))
    if row is None:
        return None
    return Head(row.number, bytes(row.hash), row.settled, row.sealed_at, bytes(row.mac))


def put_head(scope: Scope, new: Head) -> None:
    """Writes the head."""
    values = {
        "number": new.number,
        "hash": new.hash,
        "settled": new.settled,
        "sealed_at": new.sealed_at,
        "mac": new.mac,
    }
    if not scope.insert_if_absent(audit_head, {"id": 1, **values}):
        scope.run(sa.update(audit_head).values(**values))


def unsealed(scope: Scope, *, after: int, limit: int) -> list[AuditRow]:
    """The first rows after a sequence that no seal covers."""
    found = _ROWS.outerjoin_from(audit, audit_seal, audit_seal.c.sequence == audit.c.sequence)
    missing = found.where(audit.c.sequence > after, audit_seal.c.number.is_(None))
    return [_row(row) for row in scope.rows(missing.order_by(audit.c.sequence).limit(limit))]


def count_unsealed(scope: Scope) -> Unsealed:
    """All of them, however old."""
    covered = sa.select(audit_seal.c.sequence).where(audit_seal.c.sequence == audit.c.sequence)
    counted = sa.select(sa.func.count().label("total"), sa.func.min(audit.c.at).label("oldest"))
    row = scope.row(counted.select_from(audit).where(~covered.exists()))
    return Unsealed(0, None) if row is None else Unsealed(row.total, row.oldest)


def settled_before(scope: Scope, *, after: int, up_to: int, moment: datetime) -> int:
    """The last sequence of a range that was written before the moment; `after` if none was."""
    within = (audit.c.sequence > after) & (audit.c.sequence <= up_to) & (audit.c.at < moment)
    row = scope.row(sa.select(sa.func.max(audit.c.sequence).label("last")).where(within))
    return after if row is None or row.last is None else int(row.last)


def add_seals(scope: Scope, seals: Sequence[Seal]) -> None:
    """Adds links at the end of the chain."""
    rows = [
        {"number": seal.number, "sequence": seal.sequence, "hash": seal.hash} for seal in seals
    ]
    scope.insert(audit_seal, *rows)


def seals(scope: Scope, *, after: int, limit: int) -> list[Seal]:
    """The next links after a number, each with its row."""
    joined = audit_seal.outerjoin(audit, audit.c.sequence == audit_seal.c.sequence)
    columns = (
        audit_seal.c.number,
        audit_seal.c.sequence.label("sealed"),
        audit_seal.c.hash,
        *_COLUMNS,
    )
    found = sa.select(*columns).select_from(joined).where(audit_seal.c.number > after)
    return [
        Seal(row.number, row.sealed, bytes(row.hash), None if row.at is None else _row(row))
        for row in scope.rows(found.order_by(audit_seal.c.number).limit(limit))
    ]


def seal_at(scope: Scope, number: int) -> Seal | None:
    """The link of a number; None if there is none."""
    row = scope.row(sa.select(audit_seal).where(audit_seal.c.number == number))
    return None if row is None else Seal(row.number, row.sequence, bytes(row.hash))


def ends(scope: Scope) -> tuple[int, int]:
    """The number of the last link and that of the head, at one moment; 0 for none."""
    last = sa.select(sa.func.coalesce(sa.func.max(audit_seal.c.number), 0)).scalar_subquery()
    told = sa.select(sa.func.coalesce(sa.func.max(audit_head.c.number), 0)).scalar_subquery()
    row = scope.row(sa.select(last.label("last"), told.label("told")))
    return (0, 0) if row is None else (row.last, row.told)


def rows(
    scope: Scope,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    subject: str | None = None,
    after: int = 0,
    limit: int,
) -> list[AuditRow]:
    """The first rows after a sequence, of the organization that the transaction is bound to."""
    found = _ROWS.where(audit.c.sequence > after)
    if since is not None:
        found = found.where(audit.c.at >= since)
    if until is not None:
        found = found.where(audit.c.at < until)
    if subject is not None:
        found = found.where(audit.c.subject == subject)
    return [_row(row) for row in scope.rows(found.order_by(audit.c.sequence).limit(limit))]


def organization_names(scope: Scope) -> dict[UUID, str]:
    """The name of each organization."""
    found = sa.select(organization.c.id, organization.c.name)
    return {row.id: row.name for row in scope.rows(found)}


_COLUMNS = (
    audit.c.sequence,
    audit.c.organization_id,
    audit.c.at,
    audit.c.actor,
    audit.c.action,
    audit.c.subject,
    audit.c.request_id,
    audit.c.address,
    audit.c.detail,
)

_ROWS = sa.select(*_COLUMNS)


def _row(row: sa.Row[Any]) -> AuditRow:
    return AuditRow(
        sequence=row.sequence,
        organization_id=row.organization_id,
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        request_id=row.request_id,
        address=row.address,
        detail=row.detail,
    )
