"""The two roles on PostgreSQL: one owns the tables, the other works with them.

Row-level security binds neither a superuser nor who has BYPASSRLS, and the owner of a table can
take it away, like the triggers that keep the audit trail. So the service works under a role that
owns nothing and has the rights that stand here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.tables import metadata
from earmark.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.database.scope import Scope

ENGINE_SCHEMA = "dbos"
VERSION_TABLE = "alembic_version"

_USUAL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_RIGHTS = {
    "audit": ("SELECT", "INSERT"),
    "audit_seal": ("SELECT", "INSERT"),
    "audit_head": ("SELECT", "INSERT", "UPDATE"),
    "organization": ("SELECT", "INSERT", "UPDATE"),
    "receipt_key": ("SELECT", "INSERT"),
    VERSION_TABLE: ("SELECT",),
}
"""What differs from the usual. What was done can be told, and never again be changed; likewise
what verifies receipts."""


def rights(table: str) -> tuple[str, ...]:
    """What the service needs of a table."""
    return _RIGHTS.get(table, _USUAL)


def name(scope: Scope) -> str:
    """The role of this connection."""
    return str(scope.connection.execute(sa.text("SELECT current_user")).scalar_one())


def grant(scope: Scope, role: str) -> None:
    """Gives a role what the service needs of the tables, and takes from it whatever it has more.

    Nothing happens to the owner itself. What is to come is not granted beforehand: a table that
    must never be changed would be open until somebody thought of it.

    Raises:
        SettingsError: there is no such role.
    """
    if role == name(scope):
        return
    if scope.row(_ROLE.bindparams(role=role)) is None:
        mend = f"make it by CREATE ROLE {_quoted(role)} LOGIN, and run this again."
        raise SettingsError(f'The database server has no role "{role}"; {mend}')
    schema = _quoted(str(scope.connection.execute(sa.text("SELECT current_schema()")).scalar()))
    to = _quoted(role)
    scope.run(_statement(f"GRANT USAGE ON SCHEMA {schema} TO {to}"))
    for table in (*metadata.tables, VERSION_TABLE):
        place = f"{schema}.{_quoted(table)}"
        scope.run(_statement(f"REVOKE ALL ON {place} FROM {to}"))
        scope.run(_statement(f"GRANT {', '.join(rights(table))} ON {place} TO {to}"))
    for sequence in _sequences():
        scope.run(_statement(f"REVOKE ALL ON SEQUENCE {schema}.{_quoted(sequence)} FROM {to}"))
        scope.run(_statement(f"GRANT USAGE ON SEQUENCE {schema}.{_quoted(sequence)} TO {to}"))


def _quoted(identifier: str) -> str:
    # The dialect's own way doubles percent signs, which the statement does once more.
    return '"{}"'.format(identifier.replace('"', '""'))


def _statement(words: str) -> sa.TextClause:
    return sa.text(words.replace(":", "\\:"))


def _sequences() -> Iterator[str]:
    """The names that PostgreSQL gives to what numbers rows."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None and column.autoincrement is True:
            yield f"{table.name}_{column.name}_seq"


def missing_for_upgrade(scope: Scope) -> list[str]:
    """What the role of this connection would need to change the tables, and does not have."""
    (row,) = scope.rows(_UPGRADING.bindparams(tables=[*metadata.tables], engine=ENGINE_SCHEMA))
    found = []
    if row.foreign:
        found.append(f"to be the owner of {', '.join(row.foreign)}")
    if not row.creates:
        found.append("CREATE on the schema of the tables")
    if not row.creates_engine:
        found.append(f"CREATE on the schema {ENGINE_SCHEMA}, or on the database to make it")
    if row.foreign_engine:
        found.append(f"to be the owner of what is in the schema {ENGINE_SCHEMA}")
    return found


def missing_for_service(scope: Scope) -> list[str]:
    """The tables on which the role of this connection lacks a right; those not there count not."""
    needed = [
        (table, right) for table in (*metadata.tables, VERSION_TABLE) for right in rights(table)
    ]
    rows = scope.rows(
        _USING.bindparams(
            tables=[table for table, _ in needed],
            rights=[right for _, right in needed],
            sequences=[*_sequences()],
        )
    )
    return [row.name for row in rows]


def beyond_walls(scope: Scope) -> list[str]:
    """Why row-level security would not hold the role of this connection; empty if it does."""
    (row,) = scope.rows(_BEYOND.bindparams(tables=[*metadata.tables]))
    reasons = {
        "is a superuser, or may become one": row.superuser,
        "has BYPASSRLS, or may get it": row.bypasses,
        "has CREATEROLE, or may get it": row.makes,
        "owns the tables or their schema, or may become their owner": row.owns,
        "may change or remove audit rows": row.meddles,
    }
    return [words for words, holds in reasons.items() if holds]


_ROLE = sa.text("SELECT rolname FROM pg_roles WHERE rolname = :role")

# A schema's owner may drop what others own in it.
_OURS = """
    SELECT class.oid, class.relname, class.relowner, space.nspowner
    FROM pg_class class JOIN pg_namespace space ON space.oid = class.relnamespace
    WHERE space.nspname = current_schema() AND class.relkind = 'r'
    AND class.relname = ANY(CAST(:tables AS text[]))
"""

_UPGRADING = sa.text(f"""
    SELECT has_schema_privilege(current_schema(), 'CREATE') AS creates,
    coalesce((SELECT array_agg(relname ORDER BY relname) FROM ({_OURS}) ours
        WHERE NOT pg_has_role(relowner, 'USAGE')), ARRAY[]::name[]) AS foreign,
    coalesce(has_schema_privilege(to_regnamespace(:engine), 'CREATE'),
        has_database_privilege(current_database(), 'CREATE')) AS creates_engine,
    EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace(:engine)
        AND NOT pg_has_role(relowner, 'USAGE')) AS foreign_engine
""")  # noqa: S608 - constants

_USING = sa.text("""
    SELECT DISTINCT name FROM (
        SELECT name FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[]))
            AS needed (name, "right")
        WHERE NOT has_table_privilege(to_regclass(name), "right")
        UNION ALL
        SELECT name FROM unnest(CAST(:sequences AS text[])) AS needed (name)
        WHERE NOT has_sequence_privilege(to_regclass(name), 'USAGE')
    ) missing ORDER BY name
""")

_BEYOND = sa.text(f"""
    SELECT EXISTS (SELECT FROM pg_roles WHERE rolsuper AND pg_has_role(oid, 'MEMBER'))
        AS superuser,
    EXISTS (SELECT FROM pg_roles WHERE rolbypassrls AND pg_has_role(oid, 'MEMBER'))
        AS bypasses,
    EXISTS (SELECT FROM pg_roles WHERE rolcreaterole AND pg_has_role(oid, 'MEMBER'))
        AS makes,
    EXISTS (SELECT FROM ({_OURS}) ours
        WHERE pg_has_role(relowner, 'MEMBER') OR pg_has_role(nspowner, 'MEMBER')) AS owns,
    EXISTS (SELECT FROM ({_OURS}) ours WHERE relname IN ('audit', 'audit_seal')
        AND has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER')) AS meddles
""")  # noqa: S608 - constants
