"""Places in the order of reading as text, for callers to come back with."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from earmark.database.interactions import Position

_CURSOR = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)
_INSTANT_BYTES = 8
_EPOCH = datetime(1, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def cursor_of(position: Position) -> str:
    """A position as text that is safe in URLs: microseconds since the year 1, then the id."""
    instant = (position.occurred_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(
        instant.to_bytes(_INSTANT_BYTES, "big") + position.id.bytes
    ).decode()


def position_of(cursor: str) -> Position | None:
    if not _CURSOR.fullmatch(cursor):
        return None
    data = base64.urlsafe_b64decode(cursor)
    try:
        since = int.from_bytes(data[:_INSTANT_BYTES], "big") * _MICROSECOND
        return Position(_EPOCH + since, UUID(bytes=data[_INSTANT_BYTES:]))
    except OverflowError:
        return None
