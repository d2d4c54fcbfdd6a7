"""What was deleted is gone to the last byte; what was backed up comes back; while others call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa

from canaries import seen, tables
from chats import zipped
from earmark.database import Database
from serving import RECORDING, Caller, Server, run, serving, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator

    import httpx

    from postgres import Server as PostgresServer

UPLOADERS = 2
PACE_SECONDS = 0.2
"""Between two uploads of one uploader, so that the worker keeps up with them."""

pytestmark = pytest.mark.timeout(600)

SHORT = RECORDING.read_bytes()[: 44 + 16_000]
"""A recording that ends early, which costs the worker little."""

PLAIN = 'A day without "it".'


def letters(count: int = 12) -> str:
    """A word that stands nowhere else."""
    return "".join(secrets.choice("bcdfghjklmnpqrstvwxz") for _ in range(count))


class Call:
    """A conversation whose every personal value holds one of its words."""

    def __init__(self) -> None:
        self.said, self.file, self.name, self.extra = (letters() for _ in range(4))
        self.phone = f"+1555{secrets.randbelow(10**9):09}"

    @property
    def words(self) -> dict[str, bytes]:
        """What must be gone, by what it is."""
        found = {"said": self.said, "file": self.file, "name": self.name, "extra": self.extra}
        return {what: word.encode() for what, word in {**found, "phone": self.phone[1:]}.items()}

    def metadata(self) -> dict[str, Any]:
        return {
            "Name": f"{self.name} Ana",
            "Phone": self.phone,
            "Email": f"{self.name}@example.org",
            "ClientCallId": self.extra,
            "ExtendedMetadataValues": {"note": f"{self.extra} asthma"},
        }

    def archive(self) -> bytes:
        lines = [
            {"at": f"2026-03-02T09:{minute:02}:00Z", "name": self.name, "text": text}
            for minute, text in enumerate(
                [f"My {self.said} hurts.", *[PLAIN] * 40, f"Thank you, {self.said} is well."]
            )
        ]
        return zipped({f"{self.file}.json": json.dumps({"messages": lines})})


@pytest.fixture(params=["sqlite", "postgresql"])
def served(
    request: pytest.FixtureRequest, new_server: Callable[..., Server]
) -> Iterator[tuple[Server, dict[str, object]]]:
    """A server with its worker, and its settings with the owner's URL for upkeep."""
    server = new_server(request.param)
    settings = dict(server.configured)
    if server.database_url:
        cluster: PostgresServer = request.getfixturevalue("postgres_server")
        name = str(sa.make_url(server.database_url).database)
        settings["database_owner_url"] = cluster.owner_url(name)
    with serving(server, worker=True) as started:
        yield started, settings


def fill(caller: Caller, call: Call) -> list[str]:
    """A chat that was read, corrected and found; a recording; and one whose reading failed."""
    chat = caller.upload(
        f"{call.file} chat.zip", call.archive(), UploadType="Chat", **call.metadata()
    )
    sound = caller.upload(f"{call.file}.wav", RECORDING.read_bytes(), **call.metadata())
    broken = caller.upload(
        f"{call.file} bad.zip",
        zipped({f"{call.file}.json": json.dumps({"rooms": [call.said]})}),
        UploadType="Chat",
        **call.metadata(),
    )
    ids = []
    for answer in (chat, sound, broken):
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["id"])
    assert caller.processed(ids[0])["chat_message_count"] == 42
    assert caller.processed(ids[1])["status"] == "ready"
    assert caller.processed(ids[2])["status"] == "failed"
    changed = caller.http.patch(
        f"/Metadata/{ids[0]}", json={"phone": call.phone, "meta1": f"{call.extra} once more"}
    )
    assert changed.status_code == 200, changed.text
    until(lambda: found(caller, call.said) == {ids[0]}, "the chat is found")
    return ids


def found(caller: Caller, word: str) -> set[str]:
    answer = caller.http.get("/v1/interactions", params={"q": word})
    assert answer.status_code == 200, answer.text
    return {item["id"] for item in answer.json()["items"]}


def bytes_with(folders: Iterable[Path], sought: dict[str, bytes]) -> list[str]:
    """Every word that stands in a file of the folders, deleted and free parts included."""
    return [
        one
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for one in [*seen(str(path), _content(path), sought), *seen("a name", path.name, sought)]
    ]


def _content(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError):  # a file of the server's own, gone meanwhile
        return path.read_bytes()
    return b""


@contextlib.contextmanager
def cluster_folder(request: pytest.FixtureRequest, server: Server) -> Iterator[list[Path]]:
    """The folder in which PostgreSQL has its tables, all of it written there; none for SQLite."""
    if not server.database_url:
        yield []
        return
    cluster: PostgresServer = request.getfixturevalue("postgres_server")
    url = cluster.superuser_url("postgres")
    if url is None:
        pytest.skip("needs a superuser of PostgreSQL, to write its tables to its folder")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        base = Path(row[0]) / "base"
        if not os.access(base, os.R_OK):
            pytest.skip(f"may not read {base}; run as root or as its user")
        yield [base]


def analyze(request: pytest.FixtureRequest, settings: dict[str, object]) -> None:
    """As PostgreSQL does by itself now and then: samples of values are kept."""
    if "database_owner_url" in settings:
        with contextlib.closing(Database(str(settings["database_owner_url"]))) as owned:
            plain = owned.engine.execution_options(isolation_level="AUTOCOMMIT")
            with plain.connect() as connection:
                connection.exec_driver_sql("ANALYZE")


def purge_beside_uploads(
    caller: Caller, settings: dict[str, object]
) -> subprocess.CompletedProcess[str]:
    """Purges while another uploads, of whom each is answered 200 and kept."""
    stop = threading.Event()
    answers: list[httpx.Response] = []

    def go_on() -> None:
        http = caller.another()
        while not stop.wait(PACE_SECONDS):
            name = f"meanwhile-{len(answers)}.wav"
            answers.append(caller.upload(name, SHORT, http))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        until(lambda: len(answers) > 2, "uploads go on")
        return run("purge", "--json", **settings)
    finally:
        stop.set()
        thread.join()
        assert {answer.status_code for answer in answers} == {200}
        for answer in answers:
            assert caller.media(answer.json()["id"]) == SHORT


def test_no_byte_of_what_was_deleted_is_left_after_a_purge(
    request: pytest.FixtureRequest, served: tuple[Server, dict[str, object]]
) -> None:
    server, settings = served
    caller = server.caller()
    mine, other = Call(), Call()
    ids = fill(caller, mine)
    kept = fill(caller, other)
    analyze(request, settings)
    (server.data / "storage" / "objects" / ids[1][-2:] / f"{ids[1]}.sha512").write_bytes(b"x")
    for id_ in ids:
        assert caller.http.delete(f"/v1/interactions/{id_}").status_code == 204
    # As a crash would leave it: the row is gone, the object is not, and a sweeper was misled.
    left = server.data / "storage" / "objects" / ids[0][-2:] / f"{ids[0]}.transcript"
    left.write_text(mine.said)
    aside = server.data / "storage" / "quarantine" / f"{ids[1]}@1700000000"
    aside.write_text(mine.said)
    with cluster_folder(request, server) as folders:
        before = bytes_with([server.data, *folders], mine.words)
    assert any("said" in one for one in before), "nothing to purge: this test would prove nothing"

    purged = purge_beside_uploads(caller, settings)
    assert purged.returncode == 0, purged.stderr
    told = json.loads(purged.stdout)
    assert told["objects"] == 2
    assert len(told["files"]) == (3 if not server.database_url else 0)
    assert (told["tables"] > 10) == bool(server.database_url)
    with cluster_folder(request, server) as folders:
        assert bytes_with([server.data, *folders], mine.words) == []
        # What was not deleted is there still, by the same search.
        after = bytes_with([server.data, *folders], other.words)
    assert {one.split("'")[1] for one in after} == set(other.words)
    for name, rows in tables(server):
        assert seen(name, rows, mine.words) == []
    assert found(caller, mine.said) == set()
    assert found(caller, other.said) == {kept[0]}
    audit = run("audit", "list", "--json", **settings)
    deeds = [json.loads(line) for line in audit.stdout.splitlines()]
    for id_ in ids:  # that it was there, and that it was deleted, by whom and when
        assert {"interaction.receive", "interaction.delete"} <= {
            deed["action"] for deed in deeds if deed["subject"] == id_
        }
    again = run("purge", **settings)
    assert again.returncode == 0, again.stderr
    assert "0 objects of deleted interactions removed" in again.stdout
    assert run("audit", "verify", **settings).returncode == 0
    scrubbed = run("scrub", **settings)
    assert scrubbed.returncode == 0, scrubbed.stdout + scrubbed.stderr


def test_only_the_owner_purges_postgresql(new_server: Callable[..., Server]) -> None:
    server = new_server("postgresql")
    ended = run("purge", **server.configured)
    assert ended.returncode == 1
    assert "name it in EARMARK_DATABASE_OWNER_URL" in ended.stderr


def test_a_drill_loses_nothing_that_was_acknowledged_before_the_backup(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    acknowledged: dict[str, bytes] = {}
    lock, stop = threading.Lock(), threading.Event()

    def upload(number: int, caller: Caller) -> None:
        http = caller.another()
        count = 0
        while not stop.wait(PACE_SECONDS):
            count += 1
            content = SHORT + secrets.token_bytes(100_000)
            answer = caller.upload(f"{number}/{count}.wav", content, http)
            if answer.status_code == 200:
                with lock:
                    acknowledged[answer.json()["id"]] = hashlib.sha256(content).digest()

    key, target = tmp_path / "backup.key", tmp_path / "backup.age"
    public = tmp_path / "backup.pub"
    made = run("backup-key", str(key))
    public.write_text(made.stdout)
    server = new_server("sqlite")
    with serving(server, worker=True) as started:
        caller = started.caller()
        threads = [
            threading.Thread(target=upload, args=(number, caller)) for number in range(UPLOADERS)
        ]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(acknowledged) > 5, "uploads go on")
            with lock:
                before = dict(acknowledged)
            written = run("backup", str(target), "--key-file", str(public), **server.configured)
            with lock:
                during = len(acknowledged) - len(before)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert written.returncode == 0, written.stderr
    assert during > 0, "no upload came during the backup: this test would prove nothing"
    data = tmp_path / "new"
    for command in (("backup", "--verify"), ("restore", "--check"), ("restore",)):
        ended = run(*command, str(target), "--key-file", str(key), data=data)
        assert ended.returncode == 0, ended.stderr
    new = Server(data)
    with serving(new, worker=True) as started:
        reader = started.caller()
        for id_, digest in before.items():
            assert hashlib.sha256(reader.media(id_)).digest() == digest
            assert reader.processed(id_)["status"] == "ready"
        assert run("scrub", **new.configured).returncode == 0
        assert run("audit", "verify", **new.configured).returncode == 0
        # It takes new ones, and they do not meet the old ones.
        more = reader.upload("after.wav", RECORDING.read_bytes())
        assert reader.processed(more.json()["id"])["status"] == "ready"
