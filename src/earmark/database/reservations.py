"""What uploads on their way take of their organizations' quotas, in all processes together.

A reservation is a lease: its process puts its end off, so that one whose process died ends by
itself. Its id is that of the interaction that the upload becomes. So at any moment, whatever is
committed meanwhile, the bytes of an upload count once.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.tables import interaction, reservation, stored_bytes
from earmark.errors import StorageQuotaError, TooManyUploadsError
from earmark.model import Usage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from uuid import UUID

    from earmark.database.core import Database, Scope
    from earmark.model import Quota

HOLD_SECONDS = 15.0
"""How long a reservation counts if nobody puts its end off: busy is not dead."""

AT_ONCE_RETRY_SECONDS = 1.0
"""When to try again where too many are on their way: how long one takes is known to nobody."""


class Reservations:
    """The reservations of all organizations, where every process sees them at once.

    A power failure may take them: it takes the uploads too.
    """

    def __init__(self, database: Database) -> None:
        """Opens nothing yet."""
        self._database = database

    def reserve(
        self,
        organization_id: UUID,
        id_: UUID,
        quota: Quota,
        *,
        least_bytes: int,
        wanted_bytes: int,
    ) -> int:
        """Makes a reservation, or changes one.

        Args:
            organization_id: whose quota it is.
            id_: of the interaction to be.
            quota: what all of the organization's may be together.
            least_bytes: as many must fit.
            wanted_bytes: as many are reserved if they fit, else as many as do.

        Returns:
            how many bytes are reserved.

        Raises:
            TooManyUploadsError: it would be one more than may be at once.
            StorageQuotaError: the least does not fit.
            UnavailableError: the database cannot serve.
        """
        with self._database.unsynced.write(organization_id) as scope:
            scope.serialise("reservation", str(organization_id))
            now = scope.clock()
            found = _held(scope, now)
            is_new = found.pop(id_, None) is None
            if is_new and quota.uploads_at_once and len(found) >= quota.uploads_at_once:
                raise TooManyUploadsError(AT_ONCE_RETRY_SECONDS)
            size = wanted_bytes
            if quota.stored_bytes:
                taken = sum(found.values()) + self._stored(scope, found)
                size = min(size, quota.stored_bytes - taken)
            if size < least_bytes:
                raise StorageQuotaError
            _put(scope, id_, {"bytes": size, "held_until": now + HOLD_SECONDS})
        return size

    def release(self, organization_id: UUID, id_: UUID) -> None:
        """Ends a reservation."""
        with self._database.unsynced.write(organization_id) as scope:
            scope.run(sa.delete(reservation).where(reservation.c.id == id_))

    def keep(self, ids: Collection[UUID]) -> None:
        """Puts off the end of reservations, and forgets those of processes that died."""
        with self._database.unsynced.write(None) as scope:
            now = scope.clock()
            mine = reservation.c.id.in_(ids)
            scope.run(sa.update(reservation).where(mine).values(held_until=now + HOLD_SECONDS))
            scope.run(sa.delete(reservation).where(reservation.c.held_until <= now))

    def usage(self, organization_id: UUID) -> Usage:
        """What an organization uses now."""
        with self._database.unsynced.read(organization_id) as scope:
            found = _held(scope, scope.clock())
            return Usage(self._stored(scope, ()), len(found), sum(found.values()))

    def _stored(self, scope: Scope, without: Collection[UUID]) -> int:
        """The bytes of media that is stored, those of some interactions left out."""
        mine = scope.organization_id
        total = sa.select(_sum(stored_bytes.c.bytes)).where(stored_bytes.c.organization_id == mine)
        others = sa.select(_sum(interaction.c.size_bytes)).where(
            interaction.c.organization_id == mine, interaction.c.id.in_(without)
        )
        # One statement: two would see two moments, and what is committed between them not once.
        both = sa.select((total.scalar_subquery() - others.scalar_subquery()).label("bytes"))
        with self._synced(scope) as synced:
            (row,) = synced.rows(both)
        return int(row.bytes)

    @contextlib.contextmanager
    def _synced(self, scope: Scope) -> Iterator[Scope]:
        """A transaction on that part of the database in which the rest is."""
        if self._database.unsynced is self._database:
            yield scope
        else:
            with self._database.read(scope.organization_id) as other:
                yield other


def _sum(column: sa.Column[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _held(scope: Scope, now: float) -> dict[UUID, int]:
    columns = sa.select(reservation.c.id, reservation.c.bytes)
    return {row.id: row.bytes for row in scope.rows(columns.where(reservation.c.held_until > now))}


def _put(scope: Scope, id_: UUID, values: Mapping[str, float]) -> None:
    if not scope.run(sa.update(reservation).where(reservation.c.id == id_).values(**values)):
        scope.insert(reservation, {"id": id_, **values})
