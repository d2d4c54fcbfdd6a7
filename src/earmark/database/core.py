"""The connection to one of the two databases, and transactions bound to one organization."""

from __future__ import annotations

import contextlib
import contextvars
import json
import sqlite3
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.selectable import Join

from earmark.database.tables import idempotency_lease, rate, reservation
from earmark.errors import SettingsError, UnavailableError
from earmark.pooled import await_disk, drop_spoilt, is_read_only
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

BUSY_SECONDS = 15
"""How long a transaction waits for another process's lock before the caller is told to retry."""

FORMS_REMEMBERED = 1000
"""Forms of statements of which we remember the tables: more than there are in the code."""

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


class Scope:
    """One open transaction, bound to one organization, or to none for the service's own work.

    What is executed here sees and changes only rows of that organization: each table that a
    statement itself selects from, updates or deletes is filtered, each insert is stamped. Tables
    within its subqueries are not: those name the organization themselves. PostgreSQL's row-level
    security holds the same line once more, underneath.

    Attributes:
        after_commit: called in order once the transaction is committed, and not if it is not.
    """

    def __init__(self, connection: sa.Connection, organization_id: UUID | None) -> None:
        self.connection = connection
        self.organization_id = organization_id
        self.after_commit: list[Callable[[], None]] = []

    def rows(self, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
        """All rows of a statement."""
        return self.connection.execute(self._bound(statement)).all()

    def row(self, statement: sa.Executable) -> sa.Row[Any] | None:
        """The first row of a statement, if any."""
        return self.connection.execute(self._bound(statement)).first()

    def run(self, statement: sa.Executable) -> int:
        """Executes a statement; returns how many rows it matched."""
        return self.connection.execute(self._bound(statement)).rowcount

    def insert(self, table: sa.Table, *rows: Mapping[str, Any]) -> None:
        """Adds rows of the same columns; the organization is stamped on them."""
        if rows:
            self._insert(table, [self._stamped(table, row) for row in rows])

    def insert_if_absent(self, table: sa.Table, values: Mapping[str, Any]) -> bool:
        """Adds a row unless one with an equal key stands; says whether it was added."""
        return self._insert(table, [self._stamped(table, values)], if_absent=True) == 1

    def _insert(
        self, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, if_absent: bool = False
    ) -> int:
        """Adds rows by a statement that is compiled once; returns how many were added.

        Where a value is an expression, it is of no use a second time.
        """
        if any(isinstance(value, sa.ClauseElement) for value in rows[0].values()):
            own = postgresql if self.is_postgresql else sqlite
            statement = own.insert(table).values(rows)
            if if_absent:
                statement = statement.on_conflict_do_nothing()
            # Of inserts SQLAlchemy forgets the count unless it is told not to.
            options = {"preserve_rowcount": True}
            return self.connection.execute(statement, execution_options=options).rowcount
        key = (self.connection.dialect.name, table, tuple(rows[0]), if_absent)
        prepared = _PREPARED.get(key)
        if prepared is None:
            prepared = _PREPARED[key] = _Prepared(self.connection.dialect, *key[1:])
        values = [prepared.bind(row) for row in rows]
        given = values[0] if len(values) == 1 else values
        return self.connection.exec_driver_sql(prepared.sql, given).rowcount

    @property
    def is_postgresql(self) -> bool:
        """Whether this is PostgreSQL; else it is SQLite."""
        return self.connection.dialect.name == "postgresql"

    def serialise(self, *names: str, shared: bool = False) -> None:
        """Waits for other transactions that named the same thing, until this one ends.

        Shared holders do not wait for each other. SQLite needs none of it: one writer at a time.
        """
        if self.is_postgresql:
            lock = (
                sa.func.pg_advisory_xact_lock_shared if shared else sa.func.pg_advisory_xact_lock
            )
            key = sa.func.hashtextextended("\0".join(names).replace("\0", " "), 0)
            self.connection.execute(sa.select(lock(key)))

    def listed(self, column: sa.Column[T], values: Sequence[T]) -> sa.TableValuedAlias:
        """A table of values of a column, to begin a join with; its own column is `value`.

        On SQLite the join must be an outer one to begin with it: without statistics it takes an
        organization to have ten rows, and would rather go through all of them.
        """
        value = sa.column("value", column.type)
        if self.is_postgresql:
            array = sa.literal([*values], postgresql.ARRAY(column.type))
            return sa.func.unnest(array).table_valued(value).render_derived()
        plain = [value.hex if isinstance(value, UUID) else value for value in values]
        return sa.func.json_each(json.dumps(plain)).table_valued(value)

    @property
    def moment(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the clock that all processes share, within a statement."""
        return _SERVER_MOMENT if self.is_postgresql else sa.literal(time.time())

    def clock(self) -> float:
        """The same as a number."""
        if not self.is_postgresql:
            return time.time()
        return float(self.connection.execute(sa.select(self.moment)).scalar_one())

    def read_in_order(self) -> None:
        """Has PostgreSQL walk along indexes that have the order wanted, until this ends.

        It takes the policies that bind rows to the organization to let one row in a hundred
        through, so it would fetch every match and sort instead: 289 ms for 0.5 at 2 million rows.
        """
        if self.is_postgresql:
            self.connection.execute(_IN_ORDER)

    def _stamped(self, table: sa.Table, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.organization_id is None or "organization_id" not in table.c:
            return dict(values)
        return {**values, "organization_id": self.organization_id}

    def _bound(self, statement: sa.Executable) -> sa.Executable:
        if self.organization_id is None:
            return statement
        if isinstance(statement, sa.Select):
            for column in _selected_from(statement):
                statement = statement.where(column == self.organization_id)
        elif isinstance(statement, sa.Update | sa.Delete):
            for column in _organization_columns(statement.table):
                statement = statement.where(column == self.organization_id)
        return statement


class _Prepared:
    """An insert of one row as the driver takes it.

    SQLAlchemy would find out its text and its types anew each time, which takes three times as
    long as SQLite takes for the row.

    Attributes:
        sql: with the driver's own placeholders.
    """

    def __init__(
        self, dialect: sa.Dialect, table: sa.Table, columns: Sequence[str], if_absent: bool
    ) -> None:
        own = postgresql if dialect.name == "postgresql" else sqlite
        statement = own.insert(table).values({name: sa.bindparam(name) for name in columns})
        if if_absent:
            statement = statement.on_conflict_do_nothing()
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        order = compiled.positiontup if dialect.positional else columns
        self._positional = dialect.positional
        self._columns = [
            (name, table.c[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in order or ()
        ]

    def bind(self, row: Mapping[str, Any]) -> tuple[Any, ...] | dict[str, Any]:
        """A row's values as the driver takes them."""
        if self._positional:
            return tuple([_bound(row[name], convert) for name, convert in self._columns])
        return {name: _bound(row[name], convert) for name, convert in self._columns}


def _bound(value: Any, convert: Callable[[Any], Any] | None) -> Any:
    return value if convert is None else convert(value)


_PREPARED: dict[tuple[str, sa.Table, tuple[str, ...], bool], _Prepared] = {}


def _selected_from(statement: sa.Select[Any]) -> Sequence[sa.ColumnElement[Any]]:
    """The organization columns of what a statement selects from.

    SQLAlchemy finds that out by half a compilation, so it is remembered for statements of the
    same form; not where one has a part of its own, such as a subquery.
    """
    key = statement._generate_cache_key()  # noqa: SLF001 - what its own cache goes by
    known = _KNOWN.get(key.key) if key else None
    if known is not None:
        return known
    sources = statement.get_final_froms()
    found = [column for source in sources for column in _organization_columns(source)]
    if key and all(_is_of_tables(source) for source in sources):
        if len(_KNOWN) >= FORMS_REMEMBERED:
            _KNOWN.clear()
        _KNOWN[key.key] = found
    return found


_KNOWN: dict[tuple[Any, ...], list[sa.ColumnElement[Any]]] = {}


def _is_of_tables(source: sa.FromClause) -> bool:
    if isinstance(source, Join):
        return _is_of_tables(source.left) and _is_of_tables(source.right)
    return isinstance(source, sa.Table)


def _organization_columns(source: sa.FromClause) -> Iterator[sa.ColumnElement[Any]]:
    """The organization columns of what is joined.

    The optional side of an outer join is held by its reference, which carries the organization.
    """
    if isinstance(source, Join):
        yield from _organization_columns(source.left)
        if not source.isouter:
            yield from _organization_columns(source.right)
    elif "organization_id" in source.c:
        yield source.c.organization_id


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

    def write_together(self, organization_id: UUID | None, work: Callable[[Scope], T]) -> T:
        """Does a piece of work in a transaction that others' work may share; returns its result.

        See `share`, which does several.

        Raises:
            UnavailableError: as `write`.
        """
        piece = Piece(organization_id, work)
        self.share([piece])
        return piece.result()

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
        self._failure, self._committed = None, scope.after_commit
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


_IN_ORDER = sa.text(
    # Sorts count as dear then, which would have any that is left compiled and done in parallel.
    "SELECT set_config('enable_sort', 'off', true), set_config('jit', 'off', true), "
    "set_config('max_parallel_workers_per_gather', '0', true)"
)
_BIND = sa.text("SELECT set_config('earmark.organization', :whose, true)")


_SERVER_MOMENT = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)


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
