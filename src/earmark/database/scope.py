"""One open transaction, bound to one organization, and inserts as the driver takes them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.selectable import Join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FORMS_REMEMBERED = 1000
"""Forms of statements of which we remember the tables: more than there are in the code."""

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
            # A list is compiled anew each time, even of one.
            statement = own.insert(table).values(rows[0] if len(rows) == 1 else rows)
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


_IN_ORDER = sa.text(
    # Sorts count as dear then, which would have any that is left compiled and done in parallel.
    "SELECT set_config('enable_sort', 'off', true), set_config('jit', 'off', true), "
    "set_config('max_parallel_workers_per_gather', '0', true)"
)
_SERVER_MOMENT = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
