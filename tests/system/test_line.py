"""The whole line, from token to upload to processed to read back, over real processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from chats import zipped
from earmark.database import Database, tables
from serving import RECORDING, Server, descriptors, until

METADATA = {
    "CallDirection": "Inbound",
    "Name": "Chris Example",
    "AgentCode": "A-7",
    "InteractionDate": "2022-03-18T21:52:26-04:00",
    "ExtendedMetadataValues": {"queue": "general"},
    "LocaleId": 1033,
    "ClientCallId": "call-1",
}


def staged(server: Server) -> list[Path]:
    return [*(server.data / "storage" / "staging").iterdir()]


def in_database(server: Server, statement: sa.Select[Any]) -> list[Any]:
    database = Database(server.settled().database_address)
    try:
        with database.read(None) as scope:
            return list(scope.rows(statement))
    finally:
        database.close()


def test_a_recording_is_taken_kept_processed_and_given_back(server):
    caller = server.caller()
    content = RECORDING.read_bytes()
    answer = caller.upload("line/support-call.wav", content, **METADATA)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "id": answer.json()["id"],
            "fileName": "line/support-call.wav",
            "fileSizeKb": -(-len(content) // 1024),
        },
    )
    record = caller.processed(answer.json()["id"])
    assert record["status"] == "ready", record["steps"]
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["interaction_at"] == "2022-03-19T01:52:26Z"
    assert record["audio"]["duration_seconds"] > 1
    assert caller.media(record["id"]) == content
    waveform = caller.http.get(f"/v1/interactions/{record['id']}/waveform").json()
    assert len(waveform["data"]) == 2 * waveform["length"] * waveform["channels"]
    listed = caller.http.get("/v1/interactions", params={"client_call_id": "call-1"}).json()
    assert record["id"] in [item["id"] for item in listed["items"]]


def test_a_committed_upload_is_handed_to_the_worker_within_a_second(server):
    caller = server.caller("Prompt")
    waits = []
    for number in range(5):  # chats, since a recording takes the processor for a while
        answer = caller.upload(
            f"prompt-{number}.zip", zipped({"a.txt": "A: b"}), UploadType="Chat"
        )
        id_ = answer.json()["id"]
        record = caller.processed(id_)
        begun = datetime.fromisoformat(record["steps"][0]["started_at"])
        waits.append((begun - datetime.fromisoformat(record["received_at"])).total_seconds())
    assert sorted(waits)[2] < 1, waits


def test_a_killed_worker_is_started_anew_and_what_it_had_is_processed(server):
    caller = server.caller("Unlucky")
    (worker,) = server.children("worker")
    ids = [caller.upload(f"{n}.wav", RECORDING.read_bytes()).json()["id"] for n in range(3)]
    until(lambda: any(caller.record(one)["steps"] for one in ids), "begun")
    os.kill(worker, signal.SIGKILL)
    assert [caller.processed(one)["status"] for one in ids] == ["ready"] * 3
    assert server.children("worker") != [worker]


def test_what_the_other_processes_are_copied_from_has_neither_threads_nor_connections(server):
    supervisor = server.process.pid
    assert len([*Path(f"/proc/{supervisor}/task").iterdir()]) == 1
    opened = descriptors(supervisor)
    assert not [one for one in opened if "sqlite3" in one]
    assert len([one for one in opened if one.startswith("socket:")]) == 1  # the one to listen on


def test_an_interaction_has_one_audit_row_and_its_events(server):
    caller = server.caller("Audited")
    id_ = caller.upload("audited.wav", RECORDING.read_bytes()).json()["id"]
    caller.processed(id_)
    audit = in_database(server, sa.select(tables.audit).where(tables.audit.c.subject == id_))
    assert [row.action for row in audit] == ["interaction.receive"]
    kinds = [
        row.kind
        for row in in_database(server, sa.select(tables.event).order_by(tables.event.c.sequence))
        if str(row.interaction_id) == id_
    ]
    assert kinds[0] == "interaction.received"
    assert len(kinds) == 2


def test_health_tells_of_a_living_worker(server):
    status, states = server.health()
    assert status == 200
    assert states == {
        "status": "ready",
        "database": "ok",
        "migrations": "ok",
        "storage": "ok",
        "worker": "alive",
    }


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_an_upload_whose_client_goes_away_leaves_nothing(server):
    caller = server.caller("Leaver")
    (web,) = server.children("web")
    caller.upload("before.wav", RECORDING.read_bytes())
    before = files_open(web)
    for share in (0.2, 0.9):
        leave_in_the_middle(server, caller.token, share)
    until(lambda: not staged(server), "nothing staged")
    until(lambda: files_open(web) == before, "nothing open")
    names = in_database(server, sa.select(tables.interaction.c.file_name))
    assert not [row for row in names if row.file_name == "left.wav"]


def files_open(pid: int) -> list[str]:
    """The files a process has open, its database's apart: that opens more when it needs them."""
    return [one for one in descriptors(pid) if one.startswith("/") and "sqlite3" not in one]


def leave_in_the_middle(server: Server, token: str, share: float) -> None:
    """Sends some of an upload, waits until it is staged, and closes the connection."""
    metadata = json.dumps({"FileName": "left.wav", "UploadType": "Audio"})
    content = RECORDING.read_bytes() * 16  # what is short is kept in memory
    head = '--b\r\nContent-Disposition: form-data; name="'
    body = f'{head}metadata"\r\n\r\n{metadata}\r\n{head}file"; filename="left.wav"\r\n\r\n'
    body_bytes = body.encode() + content + b"\r\n--b--\r\n"
    request = (
        f"POST /Media/Upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body_bytes)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request.encode() + body_bytes[: int(len(body_bytes) * share)])
        until(lambda: staged(server), "staged")
        time.sleep(0.05)
