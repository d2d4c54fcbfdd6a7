"""The app in this process: one service for each test module, or an empty one for each test."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

import recordings
from contract.serving import Service
from earmark.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contract.serving import Caller


@pytest.fixture(scope="module", autouse=True)
def _plain_log(plain_log: None) -> None:
    """A line for each request."""


@pytest.fixture(scope="module")
def wire(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on SQLite that the tests of a module share; each takes names of its own."""
    folder = tmp_path_factory.mktemp("wire")
    path = folder / "earmark.sqlite3"
    shutil.copyfile(sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    sa.event.listen(database.engine, "connect", _unsynced)
    service = Service(database, folder / "storage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield service
    service.close()
    database.close()


def _unsynced(connection: Any, _record: object) -> None:
    # What is on the wire does not depend on the disk; other tests see to what is durable.
    connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(scope="module")
def caller(wire: Service) -> Caller:
    """A client of the shared service with every grant."""
    return wire.caller()


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Iterator[Service]:
    """An empty service for this test alone, on each database."""
    made = Service(database, tmp_path / "storage")
    yield made
    made.close()


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A real recording or archive for each of the eight extensions, by extension."""
    made = recordings.make(tmp_path_factory.mktemp("samples"))
    return {made[name].suffix: made[name].read_bytes() for name in recordings.EXTENSIONS}
