"""Chats become transcripts: a real server, a real worker, the sample archives."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from chats import zipped
from serving import ROOT, Server

if TYPE_CHECKING:
    from pathlib import Path

    from serving import Caller

SAMPLES = ROOT / "samples"

ENGLISH = """\
00:00:00 Riverside assistant: Welcome to Riverside Clinic. How can we help?
00:00:22 Chris Example: Hello. I have an appointment on Tuesday and need to move it.
00:00:43 Dana Reyes: Of course. Would Thursday at ten o'clock suit you?
00:01:04 Chris Example: Thursday is fine, but could it be in the afternoon?
00:01:31 Dana Reyes: A quarter past two is free. Shall I book that for you?
00:01:41 Chris Example: Yes, please 👍
00:02:00 Dana Reyes: Done. You will get a reminder the day before.
"""
SPANISH = """\
00:00:00 María Ejemplo: Buenos días. Quisiera cambiar mi cita del martes.
00:00:21 Ana Ríos: Muy bien. ¿Le conviene el jueves a las diez?
00:00:43 María Ejemplo: Sí, perfecto. Muchas gracias.
00:01:09 Ana Ríos: [Attachment: 00000005-MAPA.pdf]
00:01:20 Ana Ríos: A usted. Hasta el jueves.
"""


def processed(caller: Caller, name: str, content: bytes, **metadata: object) -> dict:
    taken = caller.upload(name, content, UploadType="Chat", **metadata)
    assert taken.status_code == 200, taken.text
    return caller.processed(taken.json()["id"])


def form(caller: Caller, record: dict, extension: str) -> str:
    answer = caller.http.get(f"/v1/interactions/{record['id']}/transcript.{extension}")
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_chat_is_read_back_in_every_form_and_its_metadata_joins(server: Server) -> None:
    caller = server.caller("Chats")
    content = (SAMPLES / "support-chat.zip").read_bytes()
    record = processed(
        caller, "chats/4711.zip", content, ExtendedMetadataValues={"queue": "general"}
    )
    assert record["status"] == "ready", record["steps"]
    assert [(step["name"], step["status"]) for step in record["steps"]] == [("unpack", "done")]
    assert record["chat_message_count"] == 7
    assert record["chat_first_at"] == "2026-03-02T09:14:58.204000Z"
    assert record["chat_last_at"] == "2026-03-02T09:16:58.421000Z"
    assert (record["transcript"]["segment_count"], record["transcript"]["engine"]) == (7, None)
    assert record["extended"] == {
        "queue": "general",
        "channel": "web",
        "csat": "5",
        "tag": ["reschedule", "reminder"],
        "widget": "blue",
    }
    assert record["warnings"] == []
    assert form(caller, record, "txt") == ENGLISH
    assert "<v Dana Reyes>A quarter past two is free.\nShall I book" in form(caller, record, "vtt")
    assert "Chris Example: Yes, please 👍" in form(caller, record, "srt")
    address = f"/v1/interactions/{record['id']}/transcript.json"
    document = caller.http.get(address).json()
    assert document["chat_format"] == "earmark"
    speakers = [one["speaker"] for one in document["segments"]]
    assert speakers == ["bot", *("customer", "agent") * 3]
    assert caller.media(record["id"]) == content


def test_a_chat_in_spanish_is_told_by_the_names_of_the_upload(server: Server) -> None:
    caller = server.caller("Chats")
    record = processed(
        caller,
        "chats/citas.tar",
        (SAMPLES / "chat-citas.tar").read_bytes(),
        LocaleId=2058,
        Name="María Ejemplo",
        AgentFirstName="Ana",
        AgentLastName="Ríos",
        InteractionDate="2026-03-13T09:15:20-06:00",
    )
    assert record["status"] == "ready", record["steps"]
    assert record["chat_first_at"] == "2026-03-13T15:15:20Z"
    assert record["transcript"]["language"] == "es"
    assert form(caller, record, "txt") == SPANISH
    address = f"/v1/interactions/{record['id']}/transcript.json"
    speakers = [one["speaker"] for one in caller.http.get(address).json()["segments"]]
    assert speakers == ["customer", "agent", "customer", "agent", "agent"]


def test_a_chat_in_no_known_format_has_failed_and_says_what_was_found(server: Server) -> None:
    caller = server.caller("Chats")
    record = processed(caller, "chats/none.zip", zipped({"export.json": '{"rooms": []}'}))
    assert record["status"] == "failed"
    error = record["steps"][0]["error"]
    assert error["code"] == "chat_unknown"
    assert "Found: export.json (JSON with rooms)." in error["message"]
    again = caller.http.post(f"/v1/interactions/{record['id']}/retry")
    assert again.status_code in {200, 202}, again.text
    assert caller.processed(record["id"])["status"] == "failed"


@pytest.mark.parametrize("name", ["support-chat.zip", "chat-citas.tar"])
def test_the_sample_chats_are_what_their_script_makes(name: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, SAMPLES / "make-chats", tmp_path], check=True)
    assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes()
