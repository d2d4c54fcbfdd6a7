"""What was written before the clock was set back is not waited for until it is that late again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa

from earmark.database import Database, downloads, processing, tables
from earmark.database.reservations import Reservations
from earmark.model import Quota, new_id, now
from processing import receive

if TYPE_CHECKING:
    from uuid import UUID

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("ahead", "too_far"), [(timedelta(minutes=15), False), (DAY, True)], ids=["wait", "clock"]
)
def test_what_is_due_further_ahead_than_anything_waits_is_due_now(
    database: Database, organization: UUID, ahead: timedelta, too_far: bool
) -> None:
    interaction_id = receive(database, organization)
    with database.write(None) as scope:
        scope.run(sa.update(tables.interaction).values(due_at=now() + ahead))
        assert not processing.any_due(scope)
        assert processing.any_put_off_too_far(scope) is too_far
        processing.hasten(scope)
    with database.write(None) as scope:
        assert processing.any_due(scope) is too_far
        assert not processing.any_put_off_too_far(scope)
        job = processing.next_due(scope)
    assert (job is not None and job.interaction_id == interaction_id) is too_far


def test_a_reservation_that_lasts_longer_than_any_takes_nothing_and_is_forgotten(
    database: Database, organization: UUID
) -> None:
    reservations, quota = Reservations(database), Quota(uploads_at_once=1)

    def reserve() -> UUID:
        made = new_id()
        reservations.reserve(organization, made, quota, least_bytes=1, wanted_bytes=1)
        return made

    reserve()
    with database.unsynced.write(None) as scope:
        late = scope.moment + DAY.total_seconds()
        scope.run(sa.update(tables.reservation).values(held_until=late))
    assert reservations.usage(organization).uploads == 0
    kept = reserve()
    reservations.keep([kept])
    with database.unsynced.read(None) as scope:
        assert [row.id for row in scope.rows(sa.select(tables.reservation.c.id))] == [kept]


@pytest.mark.parametrize(
    ("ahead", "free"), [(timedelta(seconds=15), False), (DAY, True)], ids=["held", "clock"]
)
def test_a_download_that_is_held_longer_than_any_is_taken_up(
    database: Database, organization: UUID, ahead: timedelta, free: bool
) -> None:
    at = now()
    begin(database, organization, at, downloads.Promise(b"sealed", "{}"))
    with database.write(None) as scope:
        scope.run(sa.update(tables.download).values(held_until=at + ahead))
        claimed = downloads.claim(scope, downloads.Hold(uuid4(), at + DAY), at=at)
    assert (claimed is not None) is free


def begin(
    database: Database, organization: UUID, at: datetime, promise: downloads.Promise
) -> None:
    with database.write(organization) as scope:
        assert downloads.begin(
            scope,
            new_id(),
            client_id="client",
            file_name="a.wav",
            fingerprint=bytes(32),
            hold=None,
            promise=promise,
            at=at,
        )
