"""Brings a database's tables to what this version needs, and tells whether they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database import roles

if TYPE_CHECKING:
    from earmark.database.core import Database
    from earmark.database.scope import Scope

HEAD = "0008"
"""The newest migration. A test holds it to the scripts; asking Alembic takes half a second."""

_SCRIPTS = Path(__file__).with_name("migrations")


def upgrade(database: Database, *, app_role: str = "") -> None:
    """Applies every migration that is missing, in one transaction; does nothing if none is.

    Args:
        database: on PostgreSQL, under the role that owns the tables or is to own them.
        app_role: on PostgreSQL, the role that gets the rights which the service needs, in the
            same transaction: whoever sees a new table may use it.

    Raises:
        SettingsError: there is no such role.
        UnavailableError: the database cannot serve now.
    """
    if not is_current(database):
        _migrate(database, app_role)
    elif app_role:
        with database.write(None) as scope:
            _grant(scope, app_role)


def _migrate(database: Database, app_role: str) -> None:
    from alembic import command  # noqa: PLC0415 - half a second, for those who need it
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    with database.write(None) as scope:
        scope.serialise("earmark", "migrations")
        config.attributes["connection"] = scope.connection
        command.upgrade(config, "head")
        if app_role:
            _grant(scope, app_role)


def _grant(scope: Scope, app_role: str) -> None:
    scope.serialise("earmark", "migrations")
    roles.grant(scope, app_role)


def is_current(database: Database) -> bool:
    """Whether the tables are those of this version.

    Raises:
        UnavailableError: the database cannot serve now.
    """
    with database.read(None) as scope:
        if not sa.inspect(scope.connection).has_table(roles.VERSION_TABLE):
            return False
        version = sa.table(roles.VERSION_TABLE, sa.column("version_num"))
        return [row.version_num for row in scope.rows(sa.select(version))] == [HEAD]
