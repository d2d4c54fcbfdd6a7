"""Pooled connections to a database: none outlives an error that spoils it, or SQLite's file.

The drivers notice neither. What is written through a connection to a SQLite file that was moved
away, restored or unmounted since goes into that one, and is acknowledged; a connection that was
opened while the database could not be written stays read-only for good.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import structlog
from sqlalchemy import event

if TYPE_CHECKING:
    from pathlib import Path

_SPOILING = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)
"""Errors after which a connection may be of no use any more, while a new one may be.

Source: https://www.sqlite.org/rescode.html; the low byte of a code is its kind."""

_FILE = "earmark_file"

_AWAIT_DISK = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'"
)

log = structlog.get_logger("earmark.database")


def drop_spoilt(engine: sa.Engine, file: Path | None = None) -> None:
    """Has an engine's pool drop connections that are spoilt, or open another file than `file` is.

    One that is in use is dropped when it is next asked for. Asking costs 3 µs.

    Args:
        engine: on SQLite or PostgreSQL.
        file: on SQLite, where the database is.
    """

    @event.listens_for(engine, "handle_error")
    def _handle(context: Any) -> None:
        if _spoils(context.original_exception):
            context.is_disconnect = True

    if file is not None:
        _drop_moved(engine, file)


def await_disk(engine: sa.Engine) -> None:
    """Has commits on PostgreSQL wait for the disk, whatever its server does unless told.

    Every other value of `synchronous_commit` is as good on the one machine, and what standbys are
    waited for is the operator's to say; so only `off` is changed.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.execute(_AWAIT_DISK)
        connection.commit()  # or the pool's rollback would undo it


def is_read_only(error: BaseException | None) -> bool:
    """Whether PostgreSQL takes no writes: what has failed over may be a standby still."""
    return getattr(error, "sqlstate", None) == "25006"


def _spoils(error: BaseException) -> bool:
    return is_read_only(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _SPOILING


def _drop_moved(engine: sa.Engine, file: Path) -> None:
    told: set[tuple[int, int] | None] = set()

    @event.listens_for(engine, "connect")
    def _connect(_connection: Any, record: Any) -> None:
        record.info[_FILE] = _identity(file)

    @event.listens_for(engine, "checkout")
    def _checkout(_connection: Any, record: Any, _proxy: Any) -> None:
        before, present = record.info[_FILE], _identity(file)
        if before != present:
            if before not in told:  # once for all its connections
                told.add(before)
                log.warning("database file replaced", file=file.name, there=present is not None)
            raise sa.exc.DisconnectionError("the database's file is another one now")


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from every other; None if there is none."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - a third of the time
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
