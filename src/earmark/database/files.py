"""What is done with a database as a whole: copied, and rewritten so that nothing deleted stays."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.core import BUSY_SECONDS
from earmark.database.tables import metadata
from earmark.errors import SettingsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from earmark.database.core import Database

ENGINE_NAME = "engine.sqlite3"
"""The file of the engine, beside that of a SQLite database."""

LOCK_MILLISECONDS = 5_000
"""For which a table of PostgreSQL is waited for: others wait behind who waits."""

SNAPSHOT_SECONDS = 60.0
"""For which transactions that began earlier are waited for."""

LOOK_SECONDS = 0.05

PLAIN = frozenset({"audit", "audit_seal", "audit_head", "event", "worker", "rate", "reservation"})
"""Tables that never hold what was said, nor who or which file it was."""

STATISTICS = ("pg_catalog.pg_statistic", "pg_catalog.pg_statistic_ext_data")
"""In which PostgreSQL keeps samples of values."""


def path_of(database: Database) -> Path:
    """The file of a SQLite database."""
    return Path(str(database.engine.url.database))


def beside(path: Path) -> list[Path]:
    """A SQLite file and those that belong to it, as far as they are there."""
    every = (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
    return [one for one in every if one.exists()]


def copy(path: Path, target: Path) -> None:
    """Copies a SQLite database as it is at one moment, while others read and write it.

    The copy has no free pages, so nothing that was deleted is in it.

    Raises:
        UnavailableError: the database cannot be read, or the copy cannot be written.
    """
    with _opened(path) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def rewrite(path: Path, *, patience_seconds: float = BUSY_SECONDS) -> None:
    """Writes a SQLite file anew, and empties its log: deleted content is in neither then.

    `secure_delete` overwrites what is deleted where it stood, but not the copies of it that were
    left in a page when its rows were moved to another. Writers wait meanwhile, about a second for
    each 50 to 100 MB. Readers do not.

    Raises:
        UnavailableError: others did not let go of the file in this time, or the disk is full;
            nothing is lost.
    """
    folder = str(path.parent.absolute()).replace("'", "''")
    with _opened(path, patience_seconds) as connection:
        # Or the copy would be made in the system's folder for temporary files, and its bytes stay
        # on that disk. The environment is too late: SQLite has read it.
        connection.execute(f"PRAGMA temp_store_directory = '{folder}'")
        connection.execute("VACUUM")
    empty_log(path, patience_seconds=patience_seconds)


def empty_log(path: Path, *, patience_seconds: float = BUSY_SECONDS) -> None:
    """Brings a SQLite file's log into it and empties the log; see rewrite.

    Raises:
        UnavailableError: see rewrite.
    """
    deadline = time.monotonic() + patience_seconds
    with _opened(path, patience_seconds) as connection:
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise UnavailableError(f"{path.name} is read all the time; run this again")
            time.sleep(LOOK_SECONDS)


def rewrite_tables(database: Database, tell: Callable[[str], None]) -> int:
    """Writes every table of PostgreSQL anew that may hold what was deleted; returns how many.

    Nobody uses a table while it is written. Statistics are made anew first, since they hold
    samples of values.

    Args:
        database: under the role that owns the tables and the database.
        tell: told the name of each table before it is written.

    Raises:
        SettingsError: the role is another.
        UnavailableError: a table was in use all the time; what was done stays done.
    """
    plain = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    names = [table.name for table in metadata.sorted_tables if table.name not in PLAIN]
    try:
        with plain.connect() as connection:
            # PostgreSQL would skip what the role may not, with a warning.
            if not connection.execute(_OWNS, {"tables": names}).scalar():
                raise SettingsError(
                    "The tables are written anew by the role that owns them and the database; "
                    "name it in EARMARK_DATABASE_OWNER_URL."
                )
            connection.exec_driver_sql(f"SET lock_timeout = {LOCK_MILLISECONDS}")
            connection.exec_driver_sql("ANALYZE")
            for some in (names, STATISTICS):
                _outlive_snapshots(connection)
                for name in some:
                    tell(name)
                    connection.exec_driver_sql(f"VACUUM (FULL) {name}")
    except sa.exc.DBAPIError as error:
        raise UnavailableError("a table could not be written anew; run this again") from error
    return len(names)


def _outlive_snapshots(connection: sa.Connection) -> None:
    """Waits for transactions that began before now: what they may still see would be kept."""
    begun = connection.exec_driver_sql("SELECT pg_current_xact_id()::xid").scalar()
    deadline = time.monotonic() + SNAPSHOT_SECONDS
    while connection.execute(_OLDER, {"begun": begun}).scalar():
        if time.monotonic() > deadline:
            raise UnavailableError(
                "a transaction of the database that began earlier still sees what was deleted; "
                "wait for its end (pg_stat_activity names it) and run this again"
            )
        time.sleep(LOOK_SECONDS)


_OLDER = sa.text("""
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE (datname = current_database() OR backend_type = 'walsender')
            AND pid <> pg_backend_pid()
            AND age(backend_xmin) >= age(CAST(CAST(:begun AS text) AS xid))
    )
""")

_OWNS = sa.text("""
    SELECT bool_and(pg_has_role(relowner, 'USAGE')) AND
        (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
    FROM pg_class WHERE relname = ANY(CAST(:tables AS text[]))
        AND relnamespace = to_regnamespace(current_schema()) AND relkind = 'r'
""")


@contextlib.contextmanager
def _opened(path: Path, patience_seconds: float = BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(
            sqlite3.connect(path, timeout=patience_seconds, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            yield connection
    except sqlite3.Error as error:
        raise UnavailableError(f"{path.name}: {error}") from error
