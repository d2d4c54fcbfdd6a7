"""What every test may ask for: an empty database of either kind, and two organizations in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import sqlalchemy as sa
import structlog

from counting import HostileCounts
from earmark.database import Database, tables
from earmark.database.migrate import upgrade
from earmark.model import Grant, Principal, new_id, now
from faults import reporting
from faults.summary import FaultSummary
from postgres import APP_URL_VARIABLE, URL_VARIABLE, Cluster, PostgresError, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

_CLUSTER = pytest.StashKey[Cluster]()

_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 4 * 1024**3

# No deadlines: the machines are shared, and a slow moment is no fault.
hypothesis.settings.register_profile("usual", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --thorough."""
    explanation = "also run the tests marked thorough, and many more examples of each property"
    parser.addoption("--thorough", action="store_true", help=explanation)


def pytest_configure(config: pytest.Config) -> None:
    """Makes --thorough hold, and finds a place for the tests' files."""
    _keep_files_in_memory()
    config.pluginmanager.register(HostileCounts())
    config.pluginmanager.register(FaultSummary())
    config.pluginmanager.register(reporting)
    thorough = config.getoption("--thorough")
    hypothesis.settings.load_profile("thorough" if thorough else "usual")
    config.addinivalue_line("markers", "thorough: takes long; runs with --thorough alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes long, unless it is wanted."""
    if config.getoption("--thorough"):
        return
    long = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def _keep_files_in_memory() -> None:
    """Where there is room, unless TMPDIR names a place: a third of the run waited for a disk.

    No test can tell the difference: what is synced, and in which order, is seen in system calls.
    """
    given = "TMPDIR" in os.environ
    if given or not os.access(_MEMORY, os.W_OK):
        return
    if shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Starts PostgreSQL before the first worker process of pytest-xdist and tells it to each."""
    node.workerinput["postgres_urls"] = _server_urls(node.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the PostgreSQL that this process started, if it did."""
    cluster = config.stash.get(_CLUSTER, None)
    if cluster is not None:
        cluster.stop()


def _server_urls(config: pytest.Config) -> tuple[str, ...]:
    """The server of this run, as `Server` wants it; started on the first call unless one is given.

    Of one that is given no superuser is known.
    """
    given = os.environ.get(URL_VARIABLE)
    if given:
        return given, os.environ.get(APP_URL_VARIABLE, "")
    if hasattr(config, "workerinput"):
        return tuple(config.workerinput["postgres_urls"])
    if _CLUSTER not in config.stash:
        try:
            config.stash[_CLUSTER] = Cluster()
        except PostgresError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    return config.stash[_CLUSTER].urls


def _upgrade(url: str, *, app_role: str = "") -> None:
    """Makes the newest schema in an empty database."""
    database = Database(url)
    upgrade(database, app_role=app_role)
    database.close()


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The PostgreSQL on which databases can be made."""
    try:
        server = Server(*_server_urls(request.config))
    except PostgresError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> Iterator[str]:
    """The name of an empty PostgreSQL database with the schema, to be copied."""
    name = postgres_server.create()
    _upgrade(postgres_server.owner_url(name), app_role=postgres_server.app_role)
    yield name
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database with the schema, to be copied."""
    path = tmp_path_factory.mktemp("template") / "earmark.sqlite3"
    _upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of an empty SQLite database with the schema, for this test alone."""
    path = tmp_path / "earmark.sqlite3"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_server: Server, postgres_template: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database with the schema, for this test alone.

    The role owns nothing; see `owner_of`.
    """
    name = postgres_server.create(postgres_template)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def owner_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Database], Database]]:
    """The same database under the role that owns its tables; on SQLite everybody does."""
    opened: list[Database] = []

    def open_owned(database: Database) -> Database:
        if database.is_sqlite:
            return database
        server: Server = request.getfixturevalue("postgres_server")
        opened.append(Database(server.owner_url(str(database.engine.url.database))))
        return opened[-1]

    yield open_owned
    for database in opened:
        database.close()


@pytest.fixture(scope="session")
def shared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A SQLite database that many tests use, one after the other, each with a new file."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('shared')}/earmark/earmark.sqlite3")
    yield database
    database.close()


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: Server, postgres_template: str) -> Iterator[Database]:
    """A PostgreSQL database that many tests use, one after the other."""
    name = postgres_server.create(postgres_template)
    database = Database(postgres_server.url(name))
    yield database
    database.close()
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def shared_postgres_owner(
    postgres_server: Server, shared_postgres: Database
) -> Iterator[Database]:
    """The same under the role that owns its tables, which may empty all of them."""
    database = Database(postgres_server.owner_url(str(shared_postgres.engine.url.database)))
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Which of the two databases a test runs on: once on each."""
    kind: str = request.param
    return kind


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_kind: str) -> str:
    """The URL of an empty database with the schema, for this test alone; for real servers."""
    name = "sqlite_url" if database_kind == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def database(request: pytest.FixtureRequest, database_kind: str) -> Iterator[Database]:
    """An empty database with the schema; that of `database_url` if the test has one.

    Otherwise all tests have one after the other, since it keeps every statement that it has once
    compiled: a third of what a test costs.
    """
    if "database_url" in request.fixturenames:
        database = Database(request.getfixturevalue("database_url"))
        yield database
        database.close()
    elif database_kind == "sqlite":
        database = request.getfixturevalue("shared_sqlite")
        _replace(database, request.getfixturevalue("sqlite_template"))
        yield database
    else:
        database = request.getfixturevalue("shared_postgres")
        _empty(request.getfixturevalue("shared_postgres_owner"))
        yield database


@pytest.fixture
def organization(database: Database) -> UUID:
    """The id of an organization in the database."""
    return _organization(database, "First")


@pytest.fixture
def other_organization(database: Database) -> UUID:
    """The id of a second organization in the same database."""
    return _organization(database, "Second")


@pytest.fixture
def principal(organization: UUID) -> Principal:
    """A caller who may do everything in the first organization."""
    return Principal(organization, "first-client", frozenset(Grant))


@pytest.fixture
def other_principal(other_organization: UUID) -> Principal:
    """A caller who may do everything in the second organization."""
    return Principal(other_organization, "second-client", frozenset(Grant))


def _replace(database: Database, template: Path) -> None:
    """Puts a copy of the template in the place of its file, and of all that stands beside it."""
    path = Path(str(database.engine.url.database))
    database.close()
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    shutil.copyfile(template, path)


def _empty(database: Database) -> None:
    # Row by row, not TRUNCATE: an eighth of the time where there are few rows. And all at once.
    deletes = "; ".join(str(sa.delete(table)) for table in reversed(tables.metadata.sorted_tables))
    for protected in ("audit", "audit_seal"):
        change = f"ALTER TABLE {protected} {{}} TRIGGER append_only; "
        deletes = f"{change.format('DISABLE')}{deletes}; {change.format('ENABLE').rstrip('; ')}"
    with database.write(None) as scope:
        scope.run(sa.text(f"DO $$ BEGIN SET LOCAL lock_timeout = '5s'; {deletes}; END $$"))


def _organization(database: Database, name: str) -> UUID:
    organization_id = new_id()
    with database.write(None) as scope:
        row = {"id": organization_id, "name": name, "created_at": now()}
        scope.insert(tables.organization, row)
    return organization_id


@pytest.fixture(scope="module")
def plain_log() -> Iterator[None]:
    """What is logged is neither coloured nor aligned, which takes ten times as long."""
    usual = structlog.get_config()
    plain = structlog.processors.KeyValueRenderer(["event"])
    structlog.configure(processors=[structlog.processors.format_exc_info, plain])
    yield
    structlog.configure(**usual)
