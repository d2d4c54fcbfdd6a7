"""Servers on both databases, shared by the tests of one module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from serving import SECRET_KEY, Server, run, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import postgres


@pytest.fixture(scope="session")
def served_template(postgres_server: postgres.Server, postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database upgraded by the command, the engine's schema included."""
    name = postgres_server.create(postgres_template)
    url = postgres_server.url(name)
    done = run("database", "upgrade", database_url=url, secret_key=SECRET_KEY)
    assert done.returncode == 0, done.stderr
    yield name
    postgres_server.drop(name)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Iterator[Server]:
    """A server with its worker, for all tests of a module that leave it running."""
    with serving(new_server(request.param), worker=True) as started:
        yield started


@pytest.fixture(scope="module")
def new_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Makes servers that are not started yet, each with an empty database of a kind."""
    databases = []

    def make(kind: str, *arguments: str, **settings: object) -> Server:
        data = tmp_path_factory.mktemp("served") / "data"
        url = ""
        if kind == "postgresql":
            cluster: postgres.Server = request.getfixturevalue("postgres_server")
            name = cluster.create(request.getfixturevalue("served_template"))
            databases.append((cluster, name))
            url = cluster.url(name)
        return Server(data, url, arguments, settings)

    yield make
    for cluster, name in databases:
        cluster.drop(name)
