"""Idempotency keys of uploads: what became of each, and who is at one now.

What became of an upload is written by the transaction that keeps it. Who is at it is a lease,
which ends by itself if its process dies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database import submissions
from earmark.database.tables import download, idempotency_key, idempotency_lease
from earmark.model import DownloadStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from earmark.database.core import Database
    from earmark.database.scope import Scope
    from earmark.model import Accepted

HOLD_SECONDS = 15.0
"""How long a lease counts if nobody puts its end off: busy is not dead."""


@dataclass(frozen=True, slots=True)
class First:
    """What became of the first upload with a key.

    Attributes:
        fingerprint: of its metadata, and of the address if it had one; 32 bytes.
        accepted: what it was answered; None if it is not there yet, or not any more.
        download_id: of the download by which its file comes or came.
    """

    fingerprint: bytes
    accepted: Accepted | None
    download_id: UUID | None

    @property
    def is_deleted(self) -> bool:
        """Whether it was kept and is gone: its download goes with it."""
        return self.accepted is None and self.download_id is None


def find(scope: Scope, key_hash: bytes, *, at: datetime) -> First | None:
    """What became of a key; None if nothing did, its time is over, or its download failed."""
    row = scope.row(_mine(key_hash).where(idempotency_key.c.expires_at > at))
    if row is None:
        return None
    interaction_id, download_id = row.interaction_id, None
    if row.download_id is not None:
        columns = sa.select(download.c.id, download.c.status, download.c.interaction_id)
        state = scope.row(columns.where(download.c.id == row.download_id))
        if state is not None and state.status == DownloadStatus.FAILED.value:
            return None
        if state is not None:
            interaction_id, download_id = state.interaction_id, state.id
    accepted = None if interaction_id is None else submissions.accepted(scope, interaction_id)
    return First(row.fingerprint, accepted, download_id)


def put(
    scope: Scope,
    key_hash: bytes,
    fingerprint: bytes,
    *,
    interaction_id: UUID | None = None,
    download_id: UUID | None = None,
    at: datetime,
    expires_at: datetime,
) -> bool:
    """Writes down what became of a key; False if that of another upload stands there.

    Either id says what: an interaction, or a download that may become one.
    """
    if find(scope, key_hash, at=at) is not None:
        return False
    mine = idempotency_key.c.key_hash == key_hash
    scope.run(sa.delete(idempotency_key).where(mine))
    values = {
        "key_hash": key_hash,
        "fingerprint": fingerprint,
        "interaction_id": interaction_id,
        "download_id": download_id,
        "expires_at": expires_at,
    }
    return scope.insert_if_absent(idempotency_key, values)


def ended(scope: Scope, *, at: datetime, limit: int) -> Sequence[bytes]:
    """The hashes of keys whose time is over, so many at most."""
    over = sa.select(idempotency_key.c.key_hash).where(idempotency_key.c.expires_at <= at)
    return [row.key_hash for row in scope.rows(over.limit(limit))]


def forget(scope: Scope, hashes: Sequence[bytes], *, at: datetime) -> None:
    """Forgets those of them whose time is over still."""
    some = idempotency_key.c.key_hash.in_(hashes), idempotency_key.c.expires_at <= at
    scope.run(sa.delete(idempotency_key).where(*some))


def _mine(key_hash: bytes) -> sa.Select[tuple[bytes, UUID | None, UUID | None]]:
    columns = (
        idempotency_key.c.fingerprint,
        idempotency_key.c.interaction_id,
        idempotency_key.c.download_id,
    )
    return sa.select(*columns).where(idempotency_key.c.key_hash == key_hash)


class Leases:
    """Who is at which key, where every process sees it at once.

    A power failure may take them: it takes the uploads too.
    """

    def __init__(self, database: Database) -> None:
        """Opens nothing yet."""
        self._database = database

    def take(self, organization_id: UUID, key_hash: bytes, holder: UUID) -> bool:
        """Takes a key for one upload; False if another one that lives has it."""
        with self._database.unsynced.write(organization_id) as scope:
            values = {"holder": holder, "held_until": scope.moment + HOLD_SECONDS}
            if scope.insert_if_absent(idempotency_lease, {"key_hash": key_hash, **values}):
                return True
            free = sa.and_(
                idempotency_lease.c.key_hash == key_hash,
                idempotency_lease.c.held_until <= scope.moment,
            )
            return scope.run(sa.update(idempotency_lease).where(free).values(**values)) > 0

    def release(self, organization_id: UUID, holder: UUID) -> None:
        """Ends a lease."""
        with self._database.unsynced.write(organization_id) as scope:
            mine = idempotency_lease.c.holder == holder
            scope.run(sa.delete(idempotency_lease).where(mine))

    def keep(self, holders: Collection[UUID]) -> None:
        """Puts off the end of leases, and forgets those of processes that died."""
        with self._database.unsynced.write(None) as scope:
            mine = sa.update(idempotency_lease).where(idempotency_lease.c.holder.in_(holders))
            scope.run(mine.values(held_until=scope.moment + HOLD_SECONDS))
            gone = idempotency_lease.c.held_until <= scope.moment
            scope.run(sa.delete(idempotency_lease).where(gone))
