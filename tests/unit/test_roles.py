"""The role that works with the tables of PostgreSQL, and what it cannot do."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors, sql

from earmark.app.parts import Parts
from earmark.app.worker_process import upgrade
from earmark.config import Settings
from earmark.database import Database, Scope, migrate, roles, tables
from earmark.errors import SettingsError
from earmark.model import new_id, now
from processing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from uuid import UUID

    from postgres import Server

KEY = "a-key-for-tests-alone-0123456789-0123456789"
BOUND = [table for table in tables.metadata.sorted_tables if "organization_id" in table.c]
APPEND_ONLY = ["audit", "audit_seal"]
each_bound = pytest.mark.parametrize("table", BOUND, ids=lambda table: table.name)


@pytest.fixture
def database_kind() -> str:
    return "postgresql"


# Rows of every table


def value(column: sa.Column[Any]) -> Any:
    """Something that fits, other than all before where it is a name."""
    kind = column.type
    if isinstance(kind, sa.Uuid):
        return new_id()
    if isinstance(kind, sa.Boolean | sa.Integer | sa.Float):
        return kind.python_type(1)
    if isinstance(kind, sa.LargeBinary):
        return new_id().bytes * 2
    if isinstance(kind, sa.String):
        return new_id().hex[-8:]
    return {} if isinstance(kind, sa.JSON) else now()


def row_of(
    table: sa.Table, organization_id: UUID, made: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A row of an organization that refers to what it has in other tables already."""
    row = {
        column.name: value(column)
        for column in table.c
        if not column.nullable and column is not table.autoincrement_column
    }
    for constraint in table.foreign_key_constraints:
        if constraint.referred_table.name in made:
            for key in constraint.elements:
                row[key.parent.name] = made[constraint.referred_table.name][key.column.name]
    if "organization_id" in table.c:
        row["organization_id"] = organization_id
    return row


def fill(database: Database, organization_id: UUID) -> None:
    """A row in every table that belongs to organizations."""
    made: dict[str, dict[str, Any]] = {}
    with database.write(None) as scope:
        for table in tables.metadata.sorted_tables:
            if table is tables.organization or table in BOUND:
                made[table.name] = row_of(table, organization_id, made)
                if table is tables.organization:
                    made[table.name]["id"] = organization_id
                scope.insert(table, made[table.name])


@pytest.fixture(scope="module")
def both(postgres_server: Server, postgres_template: str) -> Iterator[tuple[str, UUID, UUID]]:
    """A database with a row of two organizations in every table: its name, and theirs."""
    name = postgres_server.create(postgres_template)
    mine, theirs = new_id(), new_id()
    with closing(Database(postgres_server.url(name))) as database:
        fill(database, mine)
        fill(database, theirs)
    yield name, mine, theirs
    postgres_server.drop(name)


@pytest.fixture
def raw(
    postgres_server: Server, both: tuple[str, UUID, UUID]
) -> Iterator[Callable[[str], psycopg.Connection[Any]]]:
    """Connects as the service does, without a line of its code, bound as told; it undoes all."""
    connection = psycopg.connect(postgres_server.url(both[0]))

    def bind(whose: str) -> psycopg.Connection[Any]:
        connection.execute("SELECT set_config('earmark.organization', %s, true)", [whose])
        return connection

    yield bind
    connection.rollback()
    connection.close()


def owners(connection: psycopg.Connection[Any], table: sa.Table) -> set[UUID]:
    found = connection.execute(
        sql.SQL("SELECT organization_id FROM {}").format(sql.Identifier(table.name))
    )
    return {row[0] for row in found}


# Organizations apart


@each_bound
def test_every_table_of_organizations_has_rows_to_be_hidden(raw, both, table):
    assert owners(raw("*"), table) == {*both[1:]}


@each_bound
def test_without_an_organization_nothing_is_seen(postgres_server, both, raw, table):
    with psycopg.connect(postgres_server.url(both[0])) as never_bound:
        assert owners(never_bound, table) == set()
    assert owners(raw(""), table) == set()
    assert owners(raw("another"), table) == set()


@each_bound
def test_with_an_organization_its_rows_alone_are_seen_and_reached(raw, both, table):
    _, mine, theirs = both
    connection = raw(str(mine))
    assert owners(connection, table) == {mine}
    name = sql.Identifier(table.name)
    if table.name not in APPEND_ONLY:
        changing = sql.SQL("UPDATE {} SET organization_id = organization_id WHERE {}")
        removing = sql.SQL("DELETE FROM {} WHERE {}")
        for statement in (changing, removing):
            its = sql.SQL("organization_id = {}").format(theirs)
            assert connection.execute(statement.format(name, its)).rowcount == 0
        given_away = sql.SQL("UPDATE {} SET organization_id = {}").format(name, theirs)
        refused = pytest.raises(errors.InsufficientPrivilege, match="row-level security")
        with refused, connection.transaction():
            connection.execute(given_away)
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        connection.execute(
            sql.SQL("INSERT INTO {} SELECT (json_populate_record(null::{}, {})).*").format(
                name, name, sql.Literal(f'{{"organization_id": "{theirs}"}}')
            )
        )


# What was done stays told


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET {} = 7",
        "DELETE FROM {}",
        "TRUNCATE {} CASCADE",
        "SELECT 1 FROM {} FOR UPDATE",
        "INSERT INTO {} ({}) VALUES (1) ON CONFLICT ({}) DO UPDATE SET {} = 7",
    ],
)
def test_audit_rows_can_be_neither_changed_nor_removed(raw, table, statement):
    column = "sequence"
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table audit"):
        raw("*").execute(statement.format(table, column, column, column))


def test_what_a_trigger_protects_no_right_opens(owner_of, database):
    """So that a new table of this kind is not forgotten here."""
    with owner_of(database).read(None) as scope:
        found = scope.rows(
            sa.text("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'append_only'")
        )
    assert sorted(row[0] for row in found) == APPEND_ONLY
    assert {right for table in APPEND_ONLY for right in roles.rights(table)} == {
        "SELECT",
        "INSERT",
    }


ALTERING = [
    "ALTER TABLE {} DISABLE TRIGGER ALL",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} NO FORCE ROW LEVEL SECURITY",
    "ALTER TABLE {} ADD COLUMN more text",
    "ALTER TABLE {} OWNER TO CURRENT_USER",
    "CREATE POLICY all_of_it ON {} USING (true)",
    "DROP TABLE {} CASCADE",
    "TRUNCATE {} CASCADE",
]


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.name)
def test_no_table_can_be_altered(raw, table):
    refusal = f"(must be owner of (table|relation)|permission denied for table) {table.name}"
    connection = raw("*")
    policy = ["DROP POLICY organization ON {}"] if table in BOUND else []
    for statement in [*ALTERING, *policy]:
        refused = pytest.raises(errors.InsufficientPrivilege, match=refusal)
        with refused, connection.transaction():
            connection.execute(statement.format(table.name))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "SET session_replication_role = replica",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE sql AS 'SELECT'",
        "CREATE TRIGGER later BEFORE INSERT ON audit EXECUTE FUNCTION refuse_change()",
        "UPDATE alembic_version SET version_num = '0'",
        "DELETE FROM audit_head",
    ],
)
def test_nothing_else_that_would_lead_around_the_walls_is_allowed(raw, statement):
    with pytest.raises(errors.InsufficientPrivilege):
        raw("*").execute(statement)


def test_the_role_cannot_become_the_owner(raw, postgres_server):
    owner = sql.Identifier(postgres_server.owner_role)
    for statement in ("SET ROLE {}", "GRANT {} TO CURRENT_USER", "REASSIGN OWNED BY {} TO {}"):
        with pytest.raises(errors.InsufficientPrivilege), raw("*").transaction():
            raw("*").execute(sql.SQL(statement).format(*[owner] * statement.count("{}")))


# The rights


def granted(database: Database, role: str) -> dict[str, set[str]]:
    with database.read(None) as scope:
        rows = scope.rows(
            sa.text(
                "SELECT table_name, privilege_type FROM information_schema.role_table_grants "
                "WHERE grantee = :role AND table_schema = 'public'"
            ).bindparams(role=role)
        )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.table_name, set()).add(row.privilege_type)
    return found


def test_the_role_has_the_rights_it_needs_and_no_other(database, postgres_server):
    needed = {name: {*roles.rights(name)} for name in (*tables.metadata.tables, "alembic_version")}
    assert granted(database, postgres_server.app_role) == needed
    with database.read(None) as scope:
        assert roles.missing_for_service(scope) == []
        assert roles.beyond_walls(scope) == []


@pytest.fixture
def empty(postgres_server: Server) -> Iterator[str]:
    """The name of a database without tables."""
    name = postgres_server.create()
    yield name
    postgres_server.drop(name)


@pytest.fixture
def settings(postgres_server: Server, empty: str, tmp_path: Path) -> Callable[..., Settings]:
    """Settings with the service's role on the database without tables."""

    def make(**changes: Any) -> Settings:
        usual = {"database_url": postgres_server.url(empty), "secret_key": KEY}
        return Settings(data=tmp_path / "data", **(usual | changes))

    return make


def test_upgrading_again_takes_back_what_was_given_beyond(postgres_server, empty, settings):
    owner_url = postgres_server.owner_url(empty)
    upgrade(settings(), owner_url=owner_url)
    with closing(Database(owner_url)) as owner:
        with owner.write(None) as scope:
            role = postgres_server.app_role
            scope.run(sa.text(f"GRANT ALL ON audit, rate TO {role}"))
            scope.run(sa.text(f"REVOKE ALL ON client FROM {role}"))
        for _ in range(2):
            upgrade(settings(database_owner_url=owner_url))
            assert granted(owner, role) == {
                name: {*roles.rights(name)}
                for name in (*tables.metadata.tables, "alembic_version")
            }
            assert migrate.is_current(owner)


def test_the_role_can_be_named_apart_from_its_url(postgres_server, empty, settings):
    owner_url = postgres_server.owner_url(empty)
    upgrade(settings(database_url=owner_url), app_role=postgres_server.app_role)
    with closing(Parts(settings())) as parts:
        parts.prepare()
        parts.check_role()


def test_one_role_for_all_needs_no_grants(postgres_server, empty, settings):
    owner_url = postgres_server.owner_url(empty)
    upgrade(settings(database_url=owner_url), owner_url=owner_url)
    with closing(Database(owner_url)) as owner, owner.read(None) as scope:
        kept = scope.row(sa.text("SELECT has_table_privilege('audit', 'TRUNCATE') AS kept"))
        assert kept.kept, "an owner keeps what it needs to upgrade once more"
    alone = settings(database_url=owner_url, database_allow_owner=True)
    with closing(Parts(alone)) as parts:
        parts.prepare()
        parts.check_role()


# What is refused, and in which words


def test_an_upgrade_without_rights_says_which_are_missing(postgres_server, empty, settings):
    with pytest.raises(SettingsError) as caught:
        upgrade(settings())
    assert str(caught.value) == (
        f'The database role "{postgres_server.app_role}" may not upgrade: it lacks: '
        "CREATE on the schema of the tables; CREATE on the schema dbos, or on the database to "
        "make it. Give the URL of the owner by --url or EARMARK_DATABASE_OWNER_URL."
    )
    upgrade(settings(), owner_url=postgres_server.owner_url(empty))
    with pytest.raises(SettingsError) as caught:
        upgrade(settings())
    assert "to be the owner of access_revision, agent, agent_node, " in str(caught.value)


def test_an_upgrade_sees_whose_the_engines_tables_are(postgres_server, empty, settings):
    upgrade(settings(), owner_url=postgres_server.owner_url(empty))
    with closing(Database(postgres_server.url(empty))) as database, database.read(None) as scope:
        missing = roles.missing_for_upgrade(scope)
    assert missing[1:] == [
        "CREATE on the schema of the tables",
        "CREATE on the schema dbos, or on the database to make it",
        "to be the owner of what is in the schema dbos",
    ]


@pytest.mark.parametrize("url", ["sqlite:///x", "nonsense", "mysql://a@b/c"])
def test_an_owners_url_of_anything_else_is_refused(settings, url):
    with pytest.raises(SettingsError, match=r"must be postgresql://owner@host/name"):
        upgrade(settings(), owner_url=url)


@pytest.mark.parametrize("url", ["", "postgresql://127.0.0.1/x"])
def test_an_owner_without_a_role_beside_it_is_refused(postgres_server, empty, settings, url):
    with pytest.raises(SettingsError, match=r"not known which role .* --app-role"):
        upgrade(settings(database_url=url), owner_url=postgres_server.owner_url(empty))


def test_a_role_that_is_not_there_is_told_with_its_mend(postgres_server, empty, settings):
    with pytest.raises(SettingsError, match='CREATE ROLE "a:b c" LOGIN'):
        upgrade(settings(), owner_url=postgres_server.owner_url(empty), app_role="a:b c")
    with closing(Database(postgres_server.owner_url(empty))) as owner:
        assert not migrate.is_current(owner), "all of it or nothing"


def test_a_role_is_nothing_for_sqlite(tmp_path):
    with pytest.raises(SettingsError, match="Only PostgreSQL has roles"):
        upgrade(Settings(data=tmp_path / "data"), app_role="x")
    assert not (tmp_path / "data").exists()


def test_a_role_without_its_rights_is_told_what_to_run(postgres_server, empty, settings):
    with closing(Database(postgres_server.owner_url(empty))) as owner:
        migrate.upgrade(owner)
    with closing(Parts(settings())) as parts, pytest.raises(SettingsError) as caught:
        parts.prepare()
    assert str(caught.value).startswith(
        f'The database role "{postgres_server.app_role}" has not all rights on access_revision, '
        "agent, agent_node, "
    )
    assert "audit_sequence_seq" in str(caught.value)
    assert str(caught.value).endswith(
        "; run `earmark database upgrade` with the owner's --url first."
    )


def test_an_owner_does_not_serve(postgres_server, empty, settings):
    owner_url = postgres_server.owner_url(empty)
    upgrade(settings(), owner_url=owner_url)
    with closing(Parts(settings(database_url=owner_url))) as parts:
        parts.prepare()
        with pytest.raises(SettingsError) as caught:
            parts.check_role()
    assert str(caught.value).startswith(
        f'The database role "{postgres_server.owner_role}" owns the tables or their schema, or '
        "may become their owner and may change or remove audit rows; name one that owns nothing "
    )
    assert "EARMARK_DATABASE_ALLOW_OWNER=true" in str(caught.value)


def test_a_right_on_audit_rows_is_enough_to_be_refused(postgres_server, empty, settings):
    owner_url = postgres_server.owner_url(empty)
    upgrade(settings(), owner_url=owner_url)
    with closing(Database(owner_url)) as owner, owner.write(None) as scope:
        scope.run(sa.text(f"GRANT DELETE ON audit TO {postgres_server.app_role}"))
    with (
        closing(Parts(settings())) as parts,
        pytest.raises(SettingsError, match='" may change or remove audit rows; '),
    ):
        parts.check_role()


def test_an_owner_may_serve_where_a_setting_says_so(postgres_server, empty, settings):
    owner_url = postgres_server.owner_url(empty)
    upgrade(settings(), owner_url=owner_url)
    allowed = settings(database_url=owner_url, database_allow_owner=True)
    with closing(Parts(allowed)) as parts:
        parts.prepare()
        parts.check_role()


# Every way around row-level security is seen

OF_AN_OWNER = (
    "CREATE ROLE {y}; ALTER TABLE step OWNER TO {y}; CREATE ROLE {x} NOINHERIT IN ROLE {y}"
)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ("CREATE ROLE {x}", None),
        ("CREATE ROLE {x} CREATEDB", None),
        ("CREATE ROLE {x} IN ROLE pg_read_all_data", None),
        ("CREATE ROLE {x} IN ROLE {app}", None),
        ("CREATE ROLE {x} SUPERUSER", "is a superuser, or may become one"),
        ("CREATE ROLE {x} IN ROLE postgres", "is a superuser, or may become one"),
        ("CREATE ROLE {x} NOINHERIT IN ROLE postgres", "is a superuser, or may become one"),
        ("CREATE ROLE {x} BYPASSRLS", "has BYPASSRLS, or may get it"),
        (
            "CREATE ROLE {y} BYPASSRLS; CREATE ROLE {x} NOINHERIT IN ROLE {y}",
            "has BYPASSRLS, or may get it",
        ),
        ("CREATE ROLE {x} CREATEROLE", "has CREATEROLE, or may get it"),
        ("CREATE ROLE {x} NOINHERIT IN ROLE {owner}", "owns the tables or their schema"),
        ("CREATE ROLE {x}; ALTER SCHEMA public OWNER TO {x}", "owns the tables or their schema"),
        ("CREATE ROLE {x}; ALTER TABLE rate OWNER TO {x}", "owns the tables or their schema"),
        (OF_AN_OWNER, "owns the tables or their schema"),
        ("CREATE ROLE {x} IN ROLE pg_write_all_data", "may change or remove audit rows"),
        ("CREATE ROLE {x}; GRANT TRUNCATE ON audit_seal TO {x}", "may change or remove audit"),
    ],
)
def test_a_role_with_a_way_around_is_seen(superuser, postgres_server, made, reason):
    names = {"x": f"x_{new_id().hex}", "y": f"y_{new_id().hex}"}
    names |= {"app": postgres_server.app_role, "owner": postgres_server.owner_role}
    with superuser.engine.connect() as connection:  # whatever is made is undone at the end
        for statement in made.format(**names).split("; "):
            connection.execute(sa.text(statement))
        connection.execute(sa.text(f"SET LOCAL ROLE {names['x']}"))
        found = roles.beyond_walls(Scope(connection, None))
    if reason is None:
        assert found == []
    else:
        assert any(words.startswith(reason) for words in found), found


@pytest.fixture
def superuser(postgres_server: Server, database: Database) -> Iterator[Database]:
    """The same database as a superuser sees it."""
    url = postgres_server.superuser_url(str(database.engine.url.database))
    if url is None:
        pytest.skip("the server that was given names no superuser, whom this needs")
    with closing(Database(url)) as opened:
        yield opened
    wait_until(lambda: not _is_here(database, "postgres"), 60)  # or it could not be dropped


def _is_here(database: Database, role: str) -> bool:
    """Whether a role has a connection to the database, or one that is about to end."""
    with database.read(None) as scope:
        asked = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = :r"
        return scope.row(sa.text(asked).bindparams(r=role)) is not None


def test_a_role_of_any_name_gets_its_rights(superuser):
    name = f'a :b% "c" {new_id().hex}'
    quoted = '"{}"'.format(name.replace('"', '""'))
    with superuser.engine.connect() as connection:
        scope = Scope(connection, None)
        connection.exec_driver_sql(f"CREATE ROLE {quoted}".replace("%", "%%"))
        roles.grant(scope, name)
        connection.exec_driver_sql(f"SET LOCAL ROLE {quoted}".replace("%", "%%"))
        assert roles.missing_for_service(scope) == []
        assert roles.beyond_walls(scope) == []
        assert roles.name(scope) == name
