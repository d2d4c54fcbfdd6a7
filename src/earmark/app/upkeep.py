"""Upkeep of an installation as its settings say; see earmark.upkeep."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from earmark.access.credentials import derive
from earmark.app.secret import secret_key
from earmark.audit import Audit, BrokenTrailError
from earmark.database import Database, files
from earmark.errors import SettingsError
from earmark.storage import open_store
from earmark.upkeep.backup import back_up
from earmark.upkeep.purge import purge
from earmark.upkeep.restore import check, restore
from earmark.upkeep.scrub import Scrubber
from earmark.upkeep.sealed import BackupError, Keys, read_keys
from earmark.upkeep.sweep import Sweeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.app.parts import Parts
    from earmark.config import Settings
    from earmark.upkeep.backup import BackedUp, Tell
    from earmark.upkeep.purge import Purged
    from earmark.upkeep.restore import Restored

__all__ = ["operators_sweeper", "purge_all", "restore_from", "scrubber", "verify", "write_backup"]

ON_POSTGRESQL = (
    "`earmark {}` is for installations on SQLite. On PostgreSQL take the database with pg_dump or "
    "its archive of the WAL first, and then the storage; docs/operations.md has the lines."
)
NO_KEY = (
    "Name the key file by --key-file or EARMARK_BACKUP_KEY_FILE; `earmark backup-key` makes one."
)
"""Backups hold all that the service holds, so none is made that everybody can read."""


def scrubber(parts: Parts) -> Scrubber:
    """What reads all objects again."""
    return Scrubber(parts.database, parts.store, parts.settings.data)


def operators_sweeper(parts: Parts) -> Sweeper:
    """What looks after objects that nobody claims, when the operator does."""
    return Sweeper(parts.database, parts.store, actor="operator")


def purge_all(parts: Parts, *, quick: bool, tell: Callable[[str], None]) -> Purged:
    """Removes what is left of deleted interactions.

    Raises:
        SettingsError, UnavailableError: see upkeep.purge.
    """
    settings = parts.settings
    if quick and not settings.on_sqlite:
        raise SettingsError("Only SQLite has logs to empty; leave --quick out.")
    return purge(
        parts.database,
        operators_sweeper(parts),
        settings.data,
        owner_url=settings.database_owner_url or settings.database_address,
        quick=quick,
        tell=tell,
    )


def write_backup(
    parts: Parts, destination: Path, *, key_file: Path | None, tell: Tell
) -> BackedUp:
    """Backs up an installation on SQLite.

    Raises:
        SettingsError: it is on PostgreSQL.
        BackupError, UnavailableError: see upkeep.backup.
    """
    _check_sqlite(parts.settings, "backup")
    keys = _keys(parts.settings, key_file)
    return back_up(parts.database, parts.store, parts.settings.data, destination, keys, tell=tell)


def verify(settings: Settings, source: Path, *, key_file: Path | None, tell: Tell) -> Restored:
    """Shows that a backup could be restored.

    Raises:
        BackupError: it could not.
    """
    return check(source, _keys(settings, key_file), tell=tell)


def restore_from(
    settings: Settings, source: Path, *, key_file: Path | None, tell: Tell
) -> Restored:
    """Makes the installation of the settings, which is not there yet, of a backup.

    Raises:
        SettingsError: it is to be on PostgreSQL.
        BackupError, UnavailableError: see upkeep.restore.
    """
    _check_sqlite(settings, "restore")

    def approve(database: Database) -> None:
        """Refuses a database whose secrets nobody could read with the key that is here."""
        key = derive(secret_key(settings), "audit chain v1")
        try:
            Audit(database, key=key).head()
        except BrokenTrailError as error:
            raise BackupError(
                "The backup was made under another secret key; set its EARMARK_SECRET_KEY here."
            ) from error

    with closing(Database(settings.database_address)) as unopened:
        place = files.path_of(unopened)
    return restore(
        source,
        _keys(settings, key_file),
        folder=settings.data.absolute(),
        database_path=place.absolute(),
        open_store=lambda: open_store(settings.storage_address),
        approve=approve,
        tell=tell,
    )


def _check_sqlite(settings: Settings, command: str) -> None:
    if not settings.on_sqlite:
        raise SettingsError(ON_POSTGRESQL.format(command))


def _keys(settings: Settings, key_file: Path | None) -> Keys:
    named = key_file or (Path(settings.backup_key_file) if settings.backup_key_file else None)
    if named is None:
        raise SettingsError(NO_KEY)
    return read_keys(named.expanduser())
