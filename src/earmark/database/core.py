"""The connection to one of the two databases, and the transactions that it is used in."""

from __future__ import annotations

import contextlib
import contextvars
import sqlite3
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from earmark.database.scope import Scope
from earmark.database.tables import idempotency_lease, rate, reservation
from earmark.errors import SettingsError, UnavailableError
from earmark.pooled import await_disk, drop_spoilt, is_read_only
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

BUSY_SECONDS = 15
"""How long a transaction waits for another process's lock before the caller is told to retry."""

BUSY_LOOK_SECONDS = 0.01
"""How often one looks whether it is free, where SQLite does not wait by itself."""

LATELY_SECONDS = 1.0
"""How long it is taken for granted that a database that served still does."""

TOGETHER = 64
"""Pieces of work in one transaction at most, so that the first does not wait long for the last."""

WRITER_CACHE_KIB = 32 * 1024
"""Pages that the connection that writes remembers: the inner ones of every index of millions of
interactions, and those to which uploads are added."""

POOL_SIZE = 10
"""Connections of one process; more threads than this wait for one."""


T = TypeVar("T")


class Database:
    """One of the two databases. Every use is a transaction: `read` or `write`."""

    def __init__(self, url: str, *, synced: bool = True) -> None:
        """Opens nothing yet.

        Args:
            url: `sqlite:///path`, percent-encoded, or `postgresql://…`.
            synced: whether a commit waits for the disk; see `unsynced`.

        Raises:
            SettingsError: another scheme, no URL, or options after a path.
        """
        self.engine, self._writers = _engines(url, synced)
        self._readers = self.engine
        if not self.is_sqlite:  # whose transactions see one moment anyhow
            self._readers = self.engine.execution_options(isolation_level="REPEATABLE READ")
        self._write_lock: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self.is_sqlite else contextlib.nullcontext()
        )
        self._waiting: list[Piece[Any]] = []
        self._waiting_lock = threading.Lock()
        self._served_at = float("-inf")

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite; else it is PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    def served_lately(self) -> bool:
        """Whether a transaction ended well within `LATELY_SECONDS`; does not block."""
        return time.monotonic() - self._served_at < LATELY_SECONDS

    @contextlib.contextmanager
    def read(self, organization_id: UUID | None) -> Iterator[Scope]:
        """A transaction for reading, in which all is seen as it was at one moment.

        Raises:
            UnavailableError: the database cannot serve now.
        """
        with _unavailable_if_down(), self._readers.begin() as connection:
            yield self._scope(connection, organization_id)
        self._served_at = time.monotonic()

    @contextlib.contextmanager
    def write(self, organization_id: UUID | None) -> Iterator[Scope]:
        """A transaction that commits when the block ends and rolls back when it raises.

        On SQLite the writers of this process take turns before they ask the file for its lock,
        since its busy handler starves some of many waiters.

        Raises:
            UnavailableError: the database cannot serve now. Nothing was committed, unless it went
                away in the middle of the commit: then nobody can know.
        """
        committed: list[Callable[[], None]] = []
        with _unavailable_if_down(), self._write_lock, self._writers.begin() as connection:
            scope = self._scope(connection, organization_id)
            committed = scope.after_commit
            yield scope
        self._served_at = time.monotonic()
        for call in committed:
            call()

    def share(self, pieces: Sequence[Piece[Any]]) -> None:
        """Does pieces of work, each of which then has its `result`.

        On SQLite they share a transaction with each other, and with what comes while another one
        is being written: one wait for the disk, however many there are. Each piece succeeds or
        fails by itself, in its own context, though maybe in another's thread. It may be done
        twice, of which only the second time counts: if one raises, all is undone, and done anew
        with a savepoint each. On PostgreSQL, which shares underneath, each is a `write`.
        """
        if not self.is_sqlite:
            for piece in pieces:
                self._write_alone(piece)
            return
        with self._waiting_lock:
            self._waiting.extend(pieces)
        with self._write_lock:
            while not all(piece.ended for piece in pieces):  # else who had the turn before did it
                with self._waiting_lock:
                    batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                self._write_batch(batch)

    def _write_alone(self, piece: Piece[Any]) -> None:
        lost: UnavailableError | None = UnavailableError("it was given up")
        try:
            with contextlib.suppress(_UndoneError), self.write(piece.organization_id) as scope:
                if not piece.run(scope):
                    raise _UndoneError
                scope.after_commit.clear()  # they are the piece's
            lost = None
        except UnavailableError as error:
            lost = error
        finally:
            piece.end(lost)

    def _write_batch(self, batch: Sequence[Piece[Any]]) -> None:
        failure: UnavailableError | None = UnavailableError("it was given up")
        try:
            with _unavailable_if_down():
                if not self._all_went_well(batch) and len(batch) > 1:
                    with self._writers.begin() as connection:
                        for piece in batch:
                            piece.attempt(self._scope(connection, piece.organization_id))
        except UnavailableError as error:
            failure = error
        else:
            failure, self._served_at = None, time.monotonic()
        finally:
            for piece in batch:
                piece.end(failure)

    def _all_went_well(self, batch: Sequence[Piece[Any]]) -> bool:
        """Whether none raised, so that all are committed; else none is."""
        with self._writers.connect() as connection, connection.begin() as transaction:
            for piece in batch:
                if not piece.run(self._scope(connection, piece.organization_id)):
                    transaction.rollback()
                    return False
            return True

    @cached_property
    def unsynced(self) -> Database:
        """Where that goes which a power failure may take, and which must not wait for the rest.

        On SQLite a file of its own: what is written there neither waits for the disk nor takes
        turns with uploads. Only `rate`, `reservation` and `idempotency_lease` are in it. On
        PostgreSQL this database itself.
        """
        if not self.is_sqlite:
            return self
        path = Path(str(self.engine.url.database))
        beside = path.with_name(f"{path.stem}-rates.sqlite3")
        url = sa.URL.create("sqlite", database=str(beside))
        return Database(url.render_as_string(), synced=False)

    def close(self) -> None:
        """Closes every pooled connection."""
        if "unsynced" in vars(self) and self.unsynced is not self:
            self.unsynced.close()
        self._writers.dispose()
        self.engine.dispose()

    def _scope(self, connection: sa.Connection, organization_id: UUID | None) -> Scope:
        if not self.is_sqlite:
            whose = "*" if organization_id is None else str(organization_id)
            connection.execute(_BIND, {"whose": whose})
        return Scope(connection, organization_id)


class _UndoneError(Exception):
    """Ends a transaction of which nothing is to stay."""


class Piece(Generic[T]):
    """Work that waits for a transaction; it is done in the context in which this was made.

    Attributes:
        ended: whether it was committed or failed.
    """

    def __init__(self, organization_id: UUID | None, work: Callable[[Scope], T]) -> None:
        """`work` may be done twice, see `Database.share`."""
        self.organization_id = organization_id
        self.ended = False
        self._work = work
        self._context = contextvars.copy_context()
        self._committed: list[Callable[[], None]] = []
        self._result: T | None = None
        self._failure: BaseException | None = None
        self._lost: UnavailableError | None = None

    def run(self, scope: Scope) -> bool:
        """Does it; whether nothing went wrong."""
        try:
            with _unavailable_if_down():
                self._result = self._context.run(self._work, scope)
        except BaseException as error:  # noqa: BLE001 - told by `result`, where it belongs
            self._failure = error
            return False
        self._failure, self._committed = None, [*scope.after_commit]
        return True

    def attempt(self, scope: Scope) -> None:
        """Does it; what goes wrong with it is undone, and nothing else is.

        Raises:
            UnavailableError: the whole transaction is lost.
        """
        execute = scope.connection.exec_driver_sql
        execute("SAVEPOINT piece")
        if not self.run(scope):
            if scope.connection.invalidated and self._failure is not None:
                raise self._failure  # with its connection everything is undone
            execute("ROLLBACK TO piece")
        execute("RELEASE piece")

    def end(self, lost: UnavailableError | None) -> None:
        """Notes how the transaction ended."""
        self._lost = lost
        self.ended = True

    def result(self) -> T:
        """What the work returned, once it has ended; what is to follow the commit is done here.

        Raises:
            UnavailableError: it was not committed, or nobody knows.
            BaseException: what the work raised.
        """
        if self._lost is not None:
            raise UnavailableError(str(self._lost)) from self._lost
        if self._failure is not None:
            raise self._failure
        for call in self._committed:
            call()
        return cast("T", self._result)


_BIND = sa.text("SELECT set_config('earmark.organization', :whose, true)")


_UNSYNCED = [
    str(CreateTable(table, if_not_exists=True).compile(dialect=sqlite.dialect()))
    for table in (rate, reservation, idempotency_lease)
]


@contextlib.contextmanager
def _unavailable_if_down() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        metrics.DATABASE_ERRORS.add(type(error).__name__)
        raise UnavailableError("the database cannot serve now") from error
    except sa.exc.DatabaseError as error:
        metrics.DATABASE_ERRORS.add(type(error).__name__)
        if type(error) is sa.exc.DatabaseError:  # SQLite's word for a damaged file
            raise UnavailableError("the database is damaged") from error
        if is_read_only(error.orig):
            raise UnavailableError("the database takes no writes now") from error
        raise


def _engines(url: str, synced: bool) -> tuple[sa.Engine, sa.Engine]:
    """The one that reads and the one that writes; on PostgreSQL they are the same."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        parsed = sa.URL.create("none")
    if parsed.drivername == "sqlite" and parsed.database and "?" not in url:
        path = Path(parsed.database)
        return _sqlite(path, "BEGIN", synced), _sqlite(path, "BEGIN IMMEDIATE", synced)
    if parsed.drivername == "postgresql":
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,  # or an error would tell the values of the row
            connect_args={
                "connect_timeout": 5,
                "application_name": "earmark",
                # Instants at either end of the calendar fit no other zone's years. And whoever
                # waits for another's lock is told to retry, or all threads would wait for it.
                "options": f"-c timezone=UTC -c lock_timeout={BUSY_SECONDS}s",
            },
        )
        drop_spoilt(engine)
        await_disk(engine)
        return engine, engine
    raise SettingsError(
        "EARMARK_DATABASE_URL must be sqlite:///path or postgresql://user@host/name; "
        "in a path write %3F for ? and %25 for %.",
    )


def _sqlite(path: Path, begin: str, synced: bool) -> sa.Engine:
    """An engine whose transactions begin so; BEGIN IMMEDIATE is for those that write.

    A process writes by one connection: nobody but other processes changes pages behind its back,
    so those that it remembers stay good.
    """
    writes = begin == "BEGIN IMMEDIATE"
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        pool_size=1 if writes else POOL_SIZE,
        max_overflow=0,
        hide_parameters=True,  # or an error would tell the values of the row
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )
    drop_spoilt(engine, path)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        _keep_a_log_ahead(connection)
        # FULL, not NORMAL: with NORMAL a power loss undoes commits that were acknowledged.
        connection.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys=ON")
        # What is deleted is overwritten, so that no word of it stays in free pages of the file.
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA temp_store=MEMORY")  # savepoints need no file of their own
        if writes:
            connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
        if not synced:
            for statement in _UNSYNCED:
                connection.execute(statement)

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _keep_a_log_ahead(connection: sqlite3.Connection) -> None:
    """Has a file written ahead in a log, which stays so.

    Of processes that open a new file at once, SQLite refuses all but one without waiting.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(BUSY_LOOK_SECONDS)
        else:
            return
