"""What keeps `earmark serve` from starting is told in one sentence; and a start with TLS."""

from __future__ import annotations

import socket
import ssl
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest

from commands import Ended, runner
from earmark.database import Database
from serving import RECORDING, SECRET_KEY, Server, free_port, run, serving, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator


def sentence_of(ended: Ended | subprocess.CompletedProcess[str]) -> str:
    """The one sentence with which a start ends."""
    status, out, err = (
        ended if isinstance(ended, Ended) else (ended.returncode, ended.stdout, ended.stderr)
    )
    assert status == 1, err
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("earmark: ")
    assert line.endswith(".")
    return line.removeprefix("earmark: ")


@pytest.fixture
def refusal(monkeypatch, capsys) -> Callable[..., str]:
    """The sentence with which the command ends, called in this process."""

    def refused(*arguments: str, **settings: object) -> str:
        return sentence_of(runner(monkeypatch, capsys, **settings)("serve", *arguments))

    return refused


def test_a_busy_port_is_named(tmp_path):
    """The last thing that is looked at; in a process, as an operator sees it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = sentence_of(run("serve", "--port", str(port), data=tmp_path / "data"))
    assert sentence == (
        f"127.0.0.1 port {port} cannot be used (Address already in use); "
        "choose another with --port."
    )


def test_a_wrong_setting_is_named(refusal, tmp_path):
    sentence = refusal(data=tmp_path, max_upload_bytes="lots")
    assert sentence.startswith("EARMARK_MAX_UPLOAD_BYTES: ")


def test_a_network_address_without_tls_is_refused(refusal, tmp_path):
    sentence = refusal("--host", "0.0.0.0", data=tmp_path)
    assert "--tls-cert" in sentence
    assert "--insecure-http" in sentence


def test_a_postgresql_that_was_not_upgraded_is_refused(refusal, postgres_server, tmp_path):
    name = postgres_server.create()
    try:
        url = postgres_server.url(name)
        sentence = refusal(data=tmp_path, database_url=url, secret_key=SECRET_KEY)
    finally:
        postgres_server.drop(name)
    assert "`earmark database upgrade`" in sentence


def test_a_start_tells_once_of_a_postgresql_that_may_lose_what_it_acknowledged(new_server):
    # The tests' own server waits for no disk.
    with serving(new_server("postgresql")) as server:
        told = [line for line in server.log.read_text().splitlines() if "may lose" in line]
    assert [[name in line for line in told] for name in ("fsync", "full_page")] == [
        [True, False],
        [False, True],
    ]


def test_a_postgresql_role_that_owns_the_tables_is_refused(
    refusal, postgres_url, owner_of, tmp_path
):
    with closing(Database(postgres_url)) as database:
        owner_url = owner_of(database).engine.url.render_as_string(hide_password=False)
    url = owner_url.replace("+psycopg", "")
    sentence = refusal(data=tmp_path, database_url=url, secret_key=SECRET_KEY)
    assert "owns the tables" in sentence
    assert "EARMARK_DATABASE_ALLOW_OWNER=true" in sentence


def test_a_postgresql_without_a_secret_key_is_refused(refusal, postgres_url, tmp_path):
    sentence = refusal(data=tmp_path, database_url=postgres_url)
    assert sentence.startswith("EARMARK_SECRET_KEY is required on PostgreSQL")


def test_a_postgresql_that_does_not_run_is_refused(refusal, tmp_path):
    url = f"postgresql://earmark:not-to-be-shown@127.0.0.1:{free_port()}/earmark"
    sentence = refusal(data=tmp_path, database_url=url, secret_key=SECRET_KEY)
    assert "EARMARK_DATABASE_URL" in sentence
    assert "not-to-be-shown" not in sentence


def test_a_damaged_database_is_refused(refusal, tmp_path):
    (tmp_path / "earmark.sqlite3").write_bytes(b"no database at all" * 1000)
    assert "database" in refusal(data=tmp_path)


def test_a_key_that_does_not_fit_the_certificate_is_refused(refusal, tmp_path, certificate):
    other = tmp_path / "other.pem"
    other.write_text("no key")
    pair = ("--tls-cert", str(certificate[0]), "--tls-key", str(other))
    assert "cannot be used together" in refusal(*pair, data=tmp_path / "data")


@pytest.fixture(scope="module")
def encrypted(new_server, certificate) -> Iterator[Server]:
    """A server with TLS and without a worker."""
    cert, key = certificate
    server = new_server("sqlite", "--tls-cert", str(cert), "--tls-key", str(key), "--no-worker")
    server.scheme = "https"
    server.verify = ssl.create_default_context(cafile=str(cert))
    with serving(server):
        yield server


def test_tls_is_served_and_its_address_is_the_issuer(encrypted):
    caller = encrypted.caller()
    assert caller.upload("tls.wav", RECORDING.read_bytes()).status_code == 200
    facts = caller.http.get("/.well-known/oauth-authorization-server").json()
    assert facts["issuer"] == f"https://127.0.0.1:{encrypted.port}"


def test_ready_is_told_without_a_worker_since_uploads_are_kept(encrypted):
    assert encrypted.health() == (
        200,
        {
            "status": "ready",
            "database": "ok",
            "migrations": "ok",
            "storage": "ok",
            "worker": "absent",
        },
    )


def test_live_is_told_and_ready_is_not_while_the_storage_is_gone(encrypted):
    caller = encrypted.caller("Without storage")
    storage = encrypted.data / "storage"
    aside = storage.rename(encrypted.data / "aside")
    try:
        until(lambda: encrypted.health()[0] == 503, "not ready")
        status, states = encrypted.health()
        assert (status, states["status"], states["storage"]) == (503, "unavailable", "unavailable")
        live = httpx.get(f"{encrypted.base}/health/live", verify=encrypted.verify, trust_env=False)
        assert live.json() == {"status": "live"}
        refused = caller.upload("no-place.wav", RECORDING.read_bytes())
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
    finally:
        aside.rename(storage)
    until(lambda: encrypted.health()[0] == 200, "ready again")
    assert caller.upload("no-place.wav", RECORDING.read_bytes()).status_code == 200
