"""Files on their way from signed addresses: who downloads which, and how it ended.

A download is held by one process at a time, until an instant that it keeps putting off. One that
was promised has its address, sealed, and its submission, so that another process can take it up;
both go when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.tables import download
from earmark.errors import Why
from earmark.model import Cause, Download, DownloadStatus

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from earmark.database.scope import Scope

INTERRUPTED = Cause(
    Why.SIGNED_URL_INTERRUPTED.value,
    "The service stopped in the middle of the download. Send the upload again.",
)

LONGEST_HOLD = timedelta(minutes=10)
"""No hold is ever so long, nor any wait between attempts: both are less than a minute."""

_UNFINISHED = download.c.status == DownloadStatus.DOWNLOADING.value
_ERASED: dict[str, Any] = {
    "fingerprint": None,
    "sealed_address": None,
    "submission": None,
    "holder": None,
    "held_until": None,
}
"""What nothing needs once a download has ended."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What another process needs to go on.

    Attributes:
        submission: as its own text.
    """

    sealed_address: bytes
    submission: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Until when who has a download."""

    holder: UUID
    until: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """A promised download that the caller holds now.

    Attributes:
        attempts: how often it was begun, this time included.
    """

    id: UUID
    organization_id: UUID
    client_id: str
    promise: Promise
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Underway:
    """The unfinished download of a name."""

    id: UUID
    fingerprint: bytes


def begin(
    scope: Scope,
    id_: UUID,
    *,
    client_id: str,
    file_name: str,
    fingerprint: bytes,
    hold: Hold | None,
    promise: Promise | None,
    at: datetime,
) -> bool:
    """Adds a download; False, and nothing added, if one of that name is under way.

    Args:
        scope: of the organization.
        id_: of the download.
        client_id: who asked for it.
        file_name: normalised.
        fingerprint: what a second request for the same has too; 32 bytes.
        hold: who downloads; None leaves a promised one to whoever has room.
        promise: None if it may be lost with its process.
        at: now.
    """
    values = {
        "id": id_,
        "client_id": client_id,
        "file_name": file_name,
        "status": DownloadStatus.DOWNLOADING.value,
        "fingerprint": fingerprint,
        "sealed_address": promise.sealed_address if promise else None,
        "submission": promise.submission if promise else None,
        "attempts": 0 if hold is None else 1,
        "holder": hold.holder if hold else None,
        "held_until": hold.until if hold else None,
        "created_at": at,
    }
    return scope.insert_if_absent(download, values)


def underway(scope: Scope, file_name: str) -> Underway | None:
    """The unfinished download of a name, if there is one."""
    columns = sa.select(download.c.id, download.c.fingerprint)
    row = scope.row(columns.where(_UNFINISHED, download.c.file_name == file_name))
    return Underway(row.id, row.fingerprint) if row else None


def promise_too(scope: Scope, id_: UUID, promise: Promise) -> bool:
    """Promises an unfinished download that may have been none; False if it has ended."""
    values = {"sealed_address": promise.sealed_address, "submission": promise.submission}
    return scope.run(_one(id_).values(**values)) > 0


def claim(
    scope: Scope, hold: Hold, *, at: datetime, without: Collection[UUID] = ()
) -> Claimed | None:
    """Takes the promised download that has waited longest and that nobody holds.

    Args:
        scope: of no organization.
        hold: who takes it.
        at: now.
        without: organizations of which none is taken.
    """
    free = sa.or_(download.c.held_until.is_(None), _is_over(at))
    waiting = sa.and_(_UNFINISHED, download.c.sealed_address.is_not(None), free)
    wanted = sa.select(download).where(waiting, download.c.organization_id.not_in(without))
    row = scope.row(wanted.order_by(download.c.id).limit(1))
    if row is None:
        return None
    values = {
        "holder": hold.holder,
        "held_until": hold.until,
        "attempts": row.attempts + 1,
    }
    taken = scope.run(sa.update(download).where(download.c.id == row.id, waiting).values(**values))
    if not taken:
        return None  # another process was faster
    return Claimed(
        id=row.id,
        organization_id=row.organization_id,
        client_id=row.client_id,
        promise=Promise(row.sealed_address, row.submission),
        attempts=row.attempts + 1,
        created_at=row.created_at,
    )


def keep(scope: Scope, hold: Hold) -> None:
    """Puts off the end of everything that one process holds."""
    mine = sa.and_(_UNFINISHED, download.c.holder == hold.holder)
    scope.run(sa.update(download).where(mine).values(held_until=hold.until))


def release(scope: Scope, id_: UUID, holder: UUID, *, until: datetime | None) -> bool:
    """Leaves a promised download to whoever has room after an instant; it counts as not begun.

    False if it is not promised, or not the holder's any more.
    """
    mine = _one(id_).where(download.c.holder == holder, download.c.sealed_address.is_not(None))
    values = {"holder": None, "held_until": until, "attempts": download.c.attempts - 1}
    return scope.run(mine.values(values)) > 0


def receive(scope: Scope, id_: UUID, holder: UUID, interaction_id: UUID, *, at: datetime) -> bool:
    """Ends a download well; False if the holder has lost it, and then nothing may be kept."""
    values = {"status": DownloadStatus.RECEIVED.value, "interaction_id": interaction_id}
    mine = _one(id_).where(download.c.holder == holder)
    return scope.run(mine.values(**values, finished_at=at, **_ERASED)) > 0


def fail(scope: Scope, id_: UUID, holder: UUID, cause: Cause, *, at: datetime) -> None:
    """Ends a download with a cause, unless the holder has lost it."""
    scope.run(_failed(_one(id_).where(download.c.holder == holder), cause, at))


def fail_abandoned(scope: Scope, *, at: datetime, file_name: str | None = None) -> None:
    """Ends what was not promised and whose process is gone; of one name, or all."""
    gone = _all().where(download.c.sealed_address.is_(None), _is_over(at))
    if file_name is not None:
        gone = gone.where(download.c.file_name == file_name)
    scope.run(_failed(gone, INTERRUPTED, at))


def _is_over(at: datetime) -> sa.ColumnElement[bool]:
    """Whether a hold has ended; one that lasts too long is of a clock that was set back since."""
    ends = download.c.held_until
    return sa.or_(ends <= at, ends > at + LONGEST_HOLD)


def leave(scope: Scope, holder: UUID, *, at: datetime) -> None:
    """Gives up all that a process that ends in order still holds."""
    mine = _all().where(download.c.holder == holder)
    promised = mine.where(download.c.sealed_address.is_not(None))
    values = {"holder": None, "held_until": None, "attempts": download.c.attempts - 1}
    scope.run(promised.values(values))
    scope.run(_failed(mine, INTERRUPTED, at))


def any_unfinished(scope: Scope) -> bool:
    """Whether anything is to be done at all."""
    return scope.row(sa.select(download.c.id).where(_UNFINISHED).limit(1)) is not None


def find(scope: Scope, id_: UUID) -> Download | None:
    """How a download stands."""
    row = scope.row(sa.select(download).where(download.c.id == id_))
    if row is None:
        return None
    return Download(
        id=row.id,
        file_name=row.file_name,
        status=DownloadStatus(row.status),
        created_at=row.created_at,
        finished_at=row.finished_at,
        interaction_id=row.interaction_id,
        cause=Cause(row.error_code, row.error_message) if row.error_code else None,
    )


def purge(scope: Scope, *, before: datetime) -> None:
    """Forgets downloads that ended long ago."""
    scope.run(sa.delete(download).where(download.c.finished_at < before))


def _all() -> sa.Update:
    return sa.update(download).where(_UNFINISHED)


def _one(id_: UUID) -> sa.Update:
    return _all().where(download.c.id == id_)


def _failed(statement: sa.Update, cause: Cause, at: datetime) -> sa.Update:
    return statement.values(
        status=DownloadStatus.FAILED.value,
        finished_at=at,
        error_code=cause.code,
        error_message=cause.message,
        **_ERASED,
    )
