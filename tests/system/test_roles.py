"""Two roles on PostgreSQL, by the commands that an operator types."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from earmark.app.parts import Parts
from earmark.database import Database
from serving import RECORDING, SECRET_KEY, Server, run, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import postgres


@pytest.fixture
def urls(postgres_server: postgres.Server) -> Iterator[tuple[str, str]]:
    """A database without tables: its URL for the service, and that for the owner."""
    name = postgres_server.create()
    yield postgres_server.url(name), postgres_server.owner_url(name)
    postgres_server.drop(name)


def test_the_owner_upgrades_and_the_other_role_does_everything_else(
    urls: tuple[str, str], tmp_path: Path
) -> None:
    url, owner_url = urls
    given = {"data": tmp_path / "data", "database_url": url, "secret_key": SECRET_KEY}
    refused = run("database", "upgrade", **given)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--url or EARMARK_DATABASE_OWNER_URL" in refused.stderr
    for how in ({}, {"database_owner_url": owner_url}):
        named = () if how else ("--url", owner_url)
        done = run("database", "upgrade", *named, **given, **how)
        assert (done.returncode, done.stdout) == (0, "The database is of this version.\n")
    with serving(Server(tmp_path / "data", url), worker=True) as server:
        caller = server.caller()
        content = RECORDING.read_bytes()
        record = caller.processed(caller.upload("roles/call.wav", content).json()["id"])
        assert record["status"] == "ready", record["steps"]
        assert caller.media(record["id"]) == content
        assert caller.http.delete(f"/v1/interactions/{record['id']}").status_code == 204
        with closing(Parts(server.settled())) as parts:
            until(lambda: not parts.audit.verify().unsealed.rows, "sealed")
            assert parts.audit.verify().faults == []
        assert _roles_connected(owner_url, url) == {_role(url)}
        assert server.stop() == 0


def test_an_owner_serves_and_works_only_where_a_setting_says_so(
    urls: tuple[str, str], tmp_path: Path
) -> None:
    url = urls[1]
    given = {"data": tmp_path / "data", "database_url": url, "secret_key": SECRET_KEY}
    assert run("database", "upgrade", **given).returncode == 0
    for command in ("serve", "worker"):
        refused = run(command, **given)
        assert refused.returncode == 1
        assert f'The database role "{_role(url)}" owns the tables' in refused.stderr
        assert "EARMARK_DATABASE_ALLOW_OWNER=true" in refused.stderr
    allowed = Server(tmp_path / "data", url, settings={"database_allow_owner": True})
    with serving(allowed, worker=True) as server:
        caller = server.caller()
        sent = caller.upload("roles/call.wav", RECORDING.read_bytes())
        assert caller.processed(sent.json()["id"])["status"] == "ready"
        assert server.stop() == 0


def _role(url: str) -> str:
    return str(sa.make_url(url).username)


def _roles_connected(owner_url: str, url: str) -> set[str]:
    """Whose connections the database has, ours left out."""
    with closing(Database(owner_url)) as database, database.read(None) as scope:
        rows = scope.rows(
            sa.text(
                "SELECT DISTINCT usename FROM pg_stat_activity "
                "WHERE datname = :name AND pid <> pg_backend_pid() "
                "AND usename IS NOT NULL"
            ).bindparams(name=str(sa.make_url(url).database))
        )
    return {row.usename for row in rows}
