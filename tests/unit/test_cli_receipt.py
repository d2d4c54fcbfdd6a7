"""`earmark receipt verify`: in plain words, offline, without a data folder."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from commands import runner
from earmark.access.receipts import Receipts
from earmark.database import Database
from earmark.model import Accepted, new_id, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from commands import Ended

CONTENT = b"a recording"
ISSUER = "https://earmark.example"
SECRET_KEY = "a-key-for-tests-alone-0123456789-0123456789"
MINE = "earmark: "


@pytest.fixture
def receipts(sqlite_url: str) -> Iterator[Receipts]:
    """Those of a service elsewhere."""
    database = Database(sqlite_url)
    made = Receipts(database, b"k" * 32, issuer=ISSUER)
    made.open()
    yield made
    database.close()


@pytest.fixture
def folder(tmp_path: Path, receipts: Receipts) -> Path:
    """What somebody has who doubts: a receipt, the key set, the recording."""
    accepted = Accepted(
        new_id(), "2026/call\u202e.wav", len(CONTENT), hashlib.sha256(CONTENT).digest(), now()
    )
    (tmp_path / "receipt").write_text(receipts.sign(accepted, new_id()) + "\n")
    (tmp_path / "keys.json").write_text(json.dumps({"keys": receipts.published()}))
    (tmp_path / "call.wav").write_bytes(CONTENT)
    (tmp_path / "other.wav").write_bytes(CONTENT + b"x")
    return tmp_path


@pytest.fixture
def verify(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs the command in that folder."""
    monkeypatch.chdir(folder)
    run = runner(monkeypatch, capsys, data=folder / "data")
    return lambda *words: run("receipt", "verify", *words)


def test_a_genuine_receipt_is_told_in_plain_words(verify: Any, folder: Path) -> None:
    ended = verify("receipt", "--keys", "keys.json", "--file", "call.wav")
    assert (ended.status, ended.err) == (0, "")
    first, *facts, last = ended.out.splitlines()
    assert first == f"This receipt is genuine: {ISSUER} kept this upload."
    assert last == "call.wav is that file."
    told = "\n".join(facts)
    assert f"size          {len(CONTENT)} bytes" in told
    assert "file name     2026/call\\u202e.wav" in told
    assert " UTC" in told
    assert not (folder / "data").exists(), "it needs no data folder and makes none"


def test_a_receipt_may_come_by_standard_input(
    verify: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO((folder / "receipt").read_text()))
    assert verify("-", "--keys", "keys.json").status == 0


def test_another_file_is_told_by_status_1(verify: Any) -> None:
    ended = verify("receipt", "--keys", "keys.json", "--file", "other.wav")
    assert ended.status == 1
    assert ended.err == "earmark: other.wav is another file: its SHA-256 differs.\n"
    assert "genuine" in ended.out


def test_what_is_not_genuine_is_told_by_status_1(verify: Any, folder: Path) -> None:
    text = (folder / "receipt").read_text()
    (folder / "changed").write_text(text.replace(text[150], "A" if text[150] != "A" else "B", 1))
    (folder / "text").write_text("hello")
    (folder / "binary").write_bytes(b"\xff\xfe")
    for name, words in {
        "changed": "",
        "text": "three parts",
        "binary": "written in ASCII",
    }.items():
        ended = verify(name, "--keys", "keys.json")
        assert (ended.status, ended.out) == (1, ""), name
        assert ended.err.startswith(MINE)
        assert words in ended.err
    (folder / "none.json").write_text('{"keys": []}')
    ended = verify("receipt", "--keys", "none.json")
    assert ended.status == 1
    assert "none of those given" in ended.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["missing", "--keys", "keys.json"], "missing cannot be read (No such file"),
        (["receipt", "--keys", "missing"], "missing cannot be read (No such file"),
        (["receipt", "--keys", "call.wav"], "call.wav is no key set"),
        (["receipt", "--keys", "list.json"], "list.json is no key set"),
        (["receipt", "--keys", "other.json"], "other.json is no key set"),
        (["receipt", "--keys", "keys.json", "--file", "missing"], "missing cannot be read"),
        (["receipt", "--keys", "http://127.0.0.1.example.test"], "Give an https address"),
        (["receipt", "--keys", "ftp://127.0.0.1"], "Give an https address"),
        (["receipt", "--keys", "https://host:port"], "Give an https address"),
        (["receipt", "--keys", "http://127.0.0.1:1"], "http://127.0.0.1:1/.well-known"),
        (["receipt"], "There is no installation here; say whose receipt it is by --keys."),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_what_nobody_can_tell_is_status_2(
    verify: Any, folder: Path, words: list[str], sentence: str
) -> None:
    (folder / "list.json").write_text("[]")
    (folder / "other.json").write_text('{"keys": 7}')
    ended = verify(*words)
    assert ended.status == 2
    assert ended.err.startswith(MINE + sentence)
    assert ended.err.count("\n") == 1


def test_the_keys_may_be_those_of_this_installation(
    verify: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = runner(monkeypatch, capsys, data=folder / "data")
    made = run("client", "create", "--org", "First", "--create-org")
    assert made.status == 0
    ended = verify("receipt")
    assert ended.status == 1
    assert "none of those given" in ended.err
    monkeypatch.setenv("EARMARK_SECRET_KEY", SECRET_KEY)
    ended = verify("receipt")
    assert ended.status == 2
    assert "cannot be had: EARMARK_SECRET_KEY is not the one" in ended.err


@pytest.fixture
def service(receipts: Receipts) -> Iterator[str]:
    """A server that publishes the keys, as the service does."""
    content = json.dumps({"keys": receipts.published()}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/.well-known/openid-configuration/jwks"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_keys_may_be_those_that_a_service_publishes(verify: Any, service: str) -> None:
    path = "/.well-known/openid-configuration/jwks"
    for address in (service, f"{service}/", service + path):
        assert verify("receipt", "--keys", address).status == 0
    ended = verify("receipt", "--keys", f"{service}/elsewhere")
    assert ended.status == 2
    assert "Get the key set by other means, and give its file." in ended.err
