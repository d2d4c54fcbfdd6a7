"""The engine's own tables, made once and copied for each test that starts an engine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from postgres import Server


@pytest.fixture(scope="session")
def sqlite_engine_template(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with an empty SQLite database and the engine's beside it, as a worker left them."""
    folder = tmp_path_factory.mktemp("engine-template")
    shutil.copyfile(sqlite_template, folder / "earmark.sqlite3")
    _run_once(f"sqlite:///{folder}/earmark.sqlite3")
    return folder


@pytest.fixture(scope="session")
def postgres_engine_template(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """The name of an empty PostgreSQL database with the engine's schema, as a worker left it."""
    from earmark import jobs

    name = postgres_server.create(postgres_template)
    jobs.migrate(postgres_server.owner_url(name), app_role=postgres_server.app_role)
    _run_once(postgres_server.url(name))
    yield name
    postgres_server.drop(name)


@pytest.fixture
def engine_url(
    request: pytest.FixtureRequest, database_kind: str, tmp_path: Path
) -> Iterator[str]:
    """The URL of an empty database in which an engine starts at once, for this test alone."""
    if database_kind == "sqlite":
        template = request.getfixturevalue("sqlite_engine_template")
        shutil.copytree(template, tmp_path, dirs_exist_ok=True)
        yield f"sqlite:///{tmp_path}/earmark.sqlite3"
    else:
        server: Server = request.getfixturevalue("postgres_server")
        name = server.create(request.getfixturevalue("postgres_engine_template"))
        yield server.url(name)
        server.drop(name)


def _run_once(url: str) -> None:
    """The first engine of a database makes its queue, which others find a second later."""
    from earmark.jobs import Engine

    engine = Engine(url, worker_id="first-0", work=lambda *_: None, concurrency=1)
    engine.start()
    assert engine.stop(20)
