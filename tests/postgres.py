"""A PostgreSQL server for the tests: the one given, or one of our own for this run.

Databases are made and dropped on it under a role that is no superuser, since row-level security
never binds one. What is tested has another role, which owns nothing, as installations have it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import sqlalchemy as sa
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping

URL_VARIABLE = "EARMARK_TEST_DATABASE_URL"
APP_URL_VARIABLE = "EARMARK_TEST_DATABASE_APP_URL"
ROLE, APP_ROLE = "earmark_owner", "earmark"
START_SECONDS = 30
STOP_SECONDS = 120

MISSING = (
    "The tests need PostgreSQL 15 or later. Install it:\n"
    "    sudo apt-get install -y postgresql\n"
    f"or name a server in {URL_VARIABLE}=postgresql://role:password@host/postgres "
    "(a role with CREATEDB and pg_signal_backend that is no superuser)\n"
    f"and {APP_URL_VARIABLE}, the same with a role that has no rights yet."
)


class PostgresError(Exception):
    """No usable server; the message names the mend."""


class Server:
    """A running server on which the tests may make databases.

    Args:
        url: of a database to connect to while making others, with the role that will own them.
        app_url: the same with the role of what is tested, which owns nothing.
        superuser_url: the same with a superuser; "" if there is none to be had.
    """

    def __init__(self, url: str, app_url: str, superuser_url: str = "") -> None:
        self._url = sa.make_url(url)
        self._app_url = sa.make_url(app_url)
        self._superuser_url = sa.make_url(superuser_url) if superuser_url else None
        self._admin = psycopg.connect(url, autocommit=True)
        row = self._admin.execute(
            "SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        if row != (False, True):
            self._admin.close()
            raise PostgresError(f"The role of {URL_VARIABLE} must have CREATEDB, not SUPERUSER.")

    def create(self, template: str = "template1") -> str:
        """Makes a database like the template; returns its name."""
        name = f"earmark_test_{uuid4().hex}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._admin.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop(self, name: str) -> None:
        """Drops a database, whoever is still connected to it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._admin.execute(statement.format(sql.Identifier(name)))

    @property
    def app_role(self) -> str:
        """The role of what is tested."""
        return str(self._app_url.username)

    @property
    def owner_role(self) -> str:
        """The role that owns the tables."""
        return str(self._url.username)

    def url(self, name: str) -> str:
        """The URL of a database for what is tested, password included."""
        return self._app_url.set(database=name).render_as_string(hide_password=False)

    def owner_url(self, name: str) -> str:
        """The same for the owner of the tables."""
        return self._url.set(database=name).render_as_string(hide_password=False)

    def superuser_url(self, name: str) -> str | None:
        """The same for a superuser; None if there is none to be had."""
        if self._superuser_url is None:
            return None
        return self._superuser_url.set(database=name).render_as_string(hide_password=False)

    def close(self) -> None:
        """Leaves the server."""
        self._admin.close()


class Cluster:
    """Our own server in a private folder, gone with `stop` or with the process that made it.

    Nothing in it must outlive a crash, so it does not wait for the disk. Over TCP it takes only
    the tests' roles; its superuser is reached through the private folder's socket alone.

    Args:
        kept: a folder that stays, with its databases, for the next run; else one of our own.
        settings: of the server, beside what the tests need; "" leaves one to the server, where
            ALTER SYSTEM changes it.
    """

    def __init__(
        self, kept: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._binaries = _binaries()
        self._is_kept = kept is not None
        self._settings = dict(settings or {})
        self._folder = kept or Path(tempfile.mkdtemp(prefix="earmark-pg-"))
        self._folder.mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        # initdb and postgres refuse to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, "postgres")
        try:
            self.urls = self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server and removes its folder."""
        if self._process is not None:
            # Immediate, unless there is something to save.
            self._process.send_signal(signal.SIGINT if self._is_kept else signal.SIGQUIT)
            self._process.wait(STOP_SECONDS)
            self._process = None
        if not self._is_kept:
            shutil.rmtree(self._folder, ignore_errors=True)

    def crash(self) -> None:
        """Ends the server at once, as a power switch does; its folder stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """Starts it once more, on the same port, unless it runs."""
        assert self._process is not None
        if self._process.poll() is None:
            return
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._process.args,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no other thread runs yet
                start_new_session=True,
                user=self._user,
            )
        if not self._ready(int(sa.make_url(self.urls[0]).port or 0)):
            raise PostgresError((self._folder / "log").read_text())

    def _start(self) -> tuple[str, str, str]:
        # ICU, as installations have it: their order of text is not that of its bytes.
        locale = ["--locale-provider=icu", "--icu-locale=en-US", "--locale=C", "-E", "UTF8"]
        data = self._folder / "data"
        is_new = not data.exists()
        if is_new:
            self._run("initdb", "-D", str(data), "-U", "postgres", "--no-sync", *locale)
            (data / "pg_hba.conf").write_text(
                f"local all postgres trust\nhost all {ROLE},{APP_ROLE} 127.0.0.1/32 trust\n"
            )
        port = self._serve(data)
        if is_new:
            self._add_roles(port)
        made = f"@127.0.0.1:{port}/postgres"
        superuser = f"postgresql://postgres@/postgres?host={self._folder}&port={port}"
        return f"postgresql://{ROLE}{made}", f"postgresql://{APP_ROLE}{made}", superuser

    def _add_roles(self, port: int) -> None:
        with psycopg.connect(host=str(self._folder), port=port, user="postgres") as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB NOSUPERUSER")
            connection.execute(f"GRANT pg_signal_backend TO {ROLE}")
            connection.execute(f"CREATE ROLE {APP_ROLE} LOGIN NOSUPERUSER")

    def _serve(self, data: Path) -> int:
        settings = {
            "listen_addresses": "127.0.0.1",
            "max_connections": "300",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
            "max_wal_size": "2GB",
            "autovacuum": "off",
        } | self._settings
        for _ in range(5):  # another process may take the free port first
            port = _free_port()
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        self._program("postgres"),
                        *("-D", str(data), "-p", str(port), "-k", str(self._folder)),
                        *(f"--{name}={value}" for name, value in settings.items() if value),
                    ],
                    cwd=self._folder,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_end_with_parent,  # noqa: PLW1509 - no other thread runs yet
                    start_new_session=True,  # Ctrl-C is for pytest, which then stops the server
                    user=self._user,
                )
            if self._ready(port):
                return port
        raise PostgresError((self._folder / "log").read_text())

    def _ready(self, port: int) -> bool:
        assert self._process is not None
        give_up = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < give_up:
            ask = [self._program("pg_isready"), "-q", "-h", str(self._folder), "-p", str(port)]
            if subprocess.run(ask, check=False).returncode == 0:
                return True
            time.sleep(0.05)
        return False

    def _program(self, name: str) -> str:
        return str(self._binaries / name)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._program(program), *arguments],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            user=self._user,
        )
        if done.returncode:
            raise PostgresError(f"{program} failed: {done.stdout}{done.stderr}")


def _binaries() -> Path:
    """The newest installed PostgreSQL's programs."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parts[-3]),
    )
    on_path = shutil.which("initdb")
    if debian:
        return debian[-1].parent
    if on_path:
        return Path(on_path).resolve().parent
    raise PostgresError(MISSING)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    """Asks Linux to end the server when the test run itself is killed."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGQUIT)
