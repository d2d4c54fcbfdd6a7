"""Brings a database's tables to what this version needs, and tells whether they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

if TYPE_CHECKING:
    from earmark.database.core import Database

_SCRIPTS = Path(__file__).with_name("migrations")


def upgrade(database: Database) -> None:
    """Applies every migration that is missing, each in a transaction of its own.

    Raises:
        UnavailableError: the database cannot serve now.
    """
    config = _config()
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
        found = set(MigrationContext.configure(scope.connection).get_current_heads())
    return found == set(ScriptDirectory.from_config(_config()).get_heads())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
