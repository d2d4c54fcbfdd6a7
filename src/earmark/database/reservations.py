"""What uploads on their way take of their organizations' quotas, in all processes together.

A reservation is a lease: its process puts its end off, so that one whose process died ends by
itself. Its id is that of the interaction that the upload becomes. So at any moment, whatever is
committed meanwhile, the bytes of an upload count once.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.tables import reservation
from earmark.errors import StorageQuotaError, TooManyUploadsError
from earmark.model import Usage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from uuid import UUID

    from earmark.database.core import Database
    from earmark.database.scope import Scope
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
            found = _held(scope)
            is_new = found.pop(id_, None) is None
            if is_new and quota.uploads_at_once and len(found) >= quota.uploads_at_once:
                raise TooManyUploadsError(AT_ONCE_RETRY_SECONDS)
            size = wanted_bytes
            if quota.stored_bytes:
                taken = sum(found.values()) + self._stored(scope, found)
                size = min(size, quota.stored_bytes - taken)
            if size < least_bytes:
                raise StorageQuotaError
            values = {"bytes": size, "held_until": scope.moment + HOLD_SECONDS}
            if not (is_new and scope.insert_if_absent(reservation, {"id": id_, **values})):
                mine = reservation.c.id == id_
                scope.run(sa.update(reservation).where(mine).values(**values))
        return size

    def release(self, organization_id: UUID, id_: UUID) -> None:
        """Ends a reservation."""
        with self._database.unsynced.write(organization_id) as scope:
            scope.run(sa.delete(reservation).where(reservation.c.id == id_))

    def keep(self, ids: Collection[UUID]) -> None:
        """Puts off the end of reservations, and forgets those of processes that died."""
        with self._database.unsynced.write(None) as scope:
            mine = sa.update(reservation).where(reservation.c.id.in_(ids))
            scope.run(mine.values(held_until=scope.moment + HOLD_SECONDS))
            scope.run(sa.delete(reservation).where(sa.not_(_is_held(scope))))

    def usage(self, organization_id: UUID) -> Usage:
        """What an organization uses now."""
        with self._database.unsynced.read(organization_id) as scope:
            found = _held(scope)
            return Usage(self._stored(scope, ()), len(found), sum(found.values()))

    def _stored(self, scope: Scope, without: Collection[UUID]) -> int:
        """The bytes of media that is stored, those of some interactions left out."""
        with self._synced(scope) as synced:
            asked = _STORED.bindparams(mine=scope.organization_id, without=list(without))
            (row,) = synced.rows(asked)
        return int(row.bytes)

    @contextlib.contextmanager
    def _synced(self, scope: Scope) -> Iterator[Scope]:
        """A transaction on that part of the database in which the rest is."""
        if self._database.unsynced is self._database:
            yield scope
        else:
            with self._database.read(scope.organization_id) as other:
                yield other


def _held(scope: Scope) -> dict[UUID, int]:
    columns = sa.select(reservation.c.id, reservation.c.bytes)
    return {row.id: row.bytes for row in scope.rows(columns.where(_is_held(scope)))}


def _is_held(scope: Scope) -> sa.ColumnElement[bool]:
    """Whether one has not ended. One that lasts longer than any is of a clock since set back."""
    ends = reservation.c.held_until
    return sa.and_(ends > scope.moment, ends <= scope.moment + 2 * HOLD_SECONDS)


# One statement: two would see two moments, and what is committed between them not once. As text,
# since to build it anew for each upload takes longer than to execute it.
_STORED = sa.text("""
    SELECT coalesce((SELECT sum(bytes) FROM stored_bytes WHERE organization_id = :mine), 0)
    - coalesce((SELECT sum(size_bytes) FROM interaction
        WHERE organization_id = :mine AND id IN :without), 0) AS bytes
""").bindparams(
    sa.bindparam("mine", type_=sa.Uuid()),
    sa.bindparam("without", type_=sa.Uuid(), expanding=True),
)
