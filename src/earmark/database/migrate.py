"""Brings a database's tables to what this version needs, and tells whether they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from earmark.database.core import Database

HEAD = "0006"
"""The newest migration. A test holds it to the scripts; asking Alembic takes half a second."""

_SCRIPTS = Path(__file__).with_name("migrations")
_VERSION_TABLE = "alembic_version"


def upgrade(database: Database) -> None:
    """Applies every migration that is missing, in one transaction; does nothing if none is.

    Raises:
        UnavailableError: the database cannot serve now.
    """
    if is_current(database):
        return
    from alembic import command  # noqa: PLC0415 - half a second, for those who need it
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    with database.write(None) as scope:
        scope.serialise("earmark", "migrations")
        config.attributes["connection"] = scope.connection
        command.upgrade(config, "head")


def is_current(database: Database) -> bool:
    """Whether the tables are those of this version.

    Raises:
        UnavailableError: the database cannot serve now.
    """
    with database.read(None) as scope:
        if not sa.inspect(scope.connection).has_table(_VERSION_TABLE):
            return False
        version = sa.table(_VERSION_TABLE, sa.column("version_num"))
        return [row.version_num for row in scope.rows(sa.select(version))] == [HEAD]
