"""What was deleted leaves no byte behind: neither in the storage nor in the databases."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark.database import Database, files, journal
from earmark.errors import SettingsError
from earmark.upkeep.backup import remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from earmark.upkeep.sweep import Sweeper

ROOM_FACTOR = 2
"""A file is written anew beside itself, and once more into its log."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A SQLite file that was written anew.

    Attributes:
        before_bytes, after_bytes: its size with its log.
    """

    name: str
    before_bytes: int
    after_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did.

    Attributes:
        objects: of deleted interactions that still stood, removed.
        files: of SQLite, written anew.
        tables: of PostgreSQL, written anew: how many.
        backup_under_way: whether one is, whose copy of the database stays until its end.
    """

    objects: int
    files: Sequence[Rewritten]
    tables: int
    backup_under_way: bool


def purge(
    database: Database,
    sweeper: Sweeper,
    folder: Path,
    *,
    owner_url: str = "",
    quick: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Purged:
    """Removes what is left of deleted interactions. Doing it again does no harm.

    The service may run meanwhile: uploads wait while a database is written anew, and are told to
    come again if that takes longer than they may wait.

    Args:
        database: of the service.
        sweeper: of its storage.
        folder: the data folder.
        owner_url: on PostgreSQL, of the same database under the role that owns it.
        quick: on SQLite, only empty the logs: copies of what was deleted may stay in pages.
        tell: what is done now, in words.

    Raises:
        SettingsError: there is no room for it, or the role on PostgreSQL may not.
        UnavailableError: something was in use all the time; what was done stays done.
    """
    tell("objects of deleted interactions")
    objects = sweeper.remove_deleted()
    idle = remove_leftovers(folder) if folder.is_dir() else True
    done: list[Rewritten] = []
    tables = 0
    if database.is_sqlite:
        path = files.path_of(database)
        known = [path, files.path_of(database.unsynced), path.with_name(files.ENGINE_NAME)]
        paths = [one for one in known if one.exists()]
        _check_room(paths)
        for each in paths:
            tell(f"{each.name}, {_size(each):,} bytes")
            done.append(_rewritten(each, quick=quick))
    else:
        with contextlib.closing(Database(owner_url)) as owned:
            tables = files.rewrite_tables(owned, lambda name: tell(f"table {name}"))
    with database.write(None) as scope:
        detail = {"objects": objects, "files": len(done), "tables": tables, "quick": quick}
        journal.record(scope, actor="operator", action="storage.purge", subject="", detail=detail)
    return Purged(objects, done, tables, backup_under_way=not idle)


def _check_room(paths: Sequence[Path]) -> None:
    for path in paths:
        needed, free = ROOM_FACTOR * _size(path), shutil.disk_usage(path.parent).free
        if free < needed:
            raise SettingsError(
                f"{path.parent} has {free:,} bytes free; writing {path.name} anew needs "
                f"{needed:,}. Make room, or run `earmark purge --quick`."
            )


def _rewritten(path: Path, *, quick: bool) -> Rewritten:
    began, before = time.monotonic(), _size(path)
    (files.empty_log if quick else files.rewrite)(path)
    return Rewritten(path.name, before, _size(path), time.monotonic() - began)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in files.beside(path) if not one.name.endswith("-shm"))
