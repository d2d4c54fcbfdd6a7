"""Servers on both databases, shared by the tests of one module."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from certificates import self_signed
from earmark.app.worker_process import upgrade
from earmark.config import Settings
from serving import Server, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import postgres


@pytest.fixture(scope="session")
def sqlite_served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as an upgrade leaves it, the engine's tables included."""
    data = tmp_path_factory.mktemp("served") / "template"
    upgrade(Settings(data=data))
    return data


@pytest.fixture(scope="session")
def postgres_served(
    postgres_server: postgres.Server,
    postgres_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The name of an upgraded PostgreSQL database, the engine's schema included."""
    name = postgres_server.create(postgres_template)
    data = tmp_path_factory.mktemp("served") / "template"
    urls = {
        "database_url": postgres_server.url(name),
        "database_owner_url": postgres_server.owner_url(name),
    }
    upgrade(Settings(data=data, **urls))
    yield name
    postgres_server.drop(name)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Iterator[Server]:
    """A server with its worker, for all tests of a module that leave it running."""
    with serving(new_server(request.param), worker=True) as started:
        yield started
        assert started.stop() == 0


@pytest.fixture(scope="module")
def new_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Makes servers that are not started yet, each with an empty database of a kind.

    The tables are there already; what starts without any is the server of the README's examples.
    """
    databases = []

    def make(kind: str, *arguments: str, **settings: object) -> Server:
        data = tmp_path_factory.mktemp("served") / "data"
        url = ""
        if kind == "postgresql":
            cluster: postgres.Server = request.getfixturevalue("postgres_server")
            name = cluster.create(request.getfixturevalue("postgres_served"))
            databases.append((cluster, name))
            url = cluster.url(name)
        else:
            shutil.copytree(request.getfixturevalue("sqlite_served"), data)
        return Server(data, url, arguments, settings)

    yield make
    for cluster, name in databases:
        cluster.drop(name)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 signed by itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))
