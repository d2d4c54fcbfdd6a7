"""Calls become transcripts: a real server, a real worker, a real model."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest

import vcons
from serving import ROOT, Server, serving
from speaking import installed_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serving import Caller


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def caller(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Iterator[Caller]:
    """A client of a server whose worker hears."""
    settings = {"speech_engine": "local", "models": str(installed_models())}
    with serving(new_server(request.param, **settings), worker=True) as server:
        yield server.caller()


def transcribed(caller: Caller, name: str, locale: int) -> list[str]:
    """The lines of the transcript of a sample call, which its vCon tells too."""
    content = (ROOT / "samples" / name).read_bytes()
    taken = caller.upload(f"calls/{name}", content, LocaleId=locale)
    assert taken.status_code == 200, taken.text
    id_ = taken.json()["id"]
    record = caller.processed(id_)
    assert [(step["name"], step["status"]) for step in record["steps"]] == [
        ("listen", "done"),
        ("transcribe", "done"),
    ], record["steps"]
    assert record["transcript"]["detected_language"] == record["transcript"]["language"]
    assert record["steps"][1]["progress"] == 1.0
    assert record["warnings"] == []
    lines = caller.http.get(f"/v1/interactions/{id_}/transcript.txt").text.splitlines()
    assert_same_in_a_vcon(caller, id_, content, lines)
    return lines


def assert_same_in_a_vcon(caller: Caller, id_: str, content: bytes, lines: list[str]) -> None:
    address = f"/v1/interactions/{id_}/vcon"
    by_url = vcons.checked(caller.http.get(address).content, secure=False)
    within = vcons.checked(caller.http.get(address, params={"inline": "true"}).content)
    (recording,), (analysis,) = by_url["dialog"], by_url["analysis"]
    assert vcons.decoded(within["dialog"][0]["body"]) == content
    assert recording["url"] == f"{caller.base}/v1/interactions/{id_}/media"
    digest = recording["content_hash"].removeprefix("sha512-")
    assert vcons.decoded(digest) == hashlib.sha512(content).digest()
    assert recording["parties"] == [0, 1]
    segments = analysis["body"]["segments"]
    assert [one["text"] for one in segments] == [line.split(": ", 1)[1] for line in lines]
    assert {one["speaker"] for one in segments} == {"agent", "customer"}


def test_an_english_call_is_told_word_for_word_by_agent_and_customer(caller: Caller) -> None:
    assert [_words(line) for line in transcribed(caller, "support-call.wav", 1033)] == [
        "00:00:00 agent: good morning riverside clinic how can i help you",
        "00:00:03 customer: hello i have an appointment on monday and i need to move it",
        "00:00:07 agent: of course would friday morning suit you",
        "00:00:11 customer: friday is fine but could it be in the afternoon",
        "00:00:14 agent: yes there is a free place after lunch shall i book that for you",
        "00:00:19 customer: yes please that is great thank you very much goodbye",
        "00:00:24 agent: you are welcome goodbye",
    ]


def test_a_spanish_call_is_told_by_agent_and_customer(caller: Caller) -> None:
    lines = [_words(line) for line in transcribed(caller, "llamada-citas.mp3", 2058)]
    assert lines[0] == "00:00:00 agent: buenos días y gracias por llamar que necesita"
    assert lines[1].startswith("00:00:04 customer: buenos días quisiera cambiar la cita")
    assert lines[3] == "00:00:14 customer: prefiero el jueves por la mañana"
    assert lines[-1] == "00:00:30 agent: gracias por llamar hasta el jueves"
    assert len(lines) == 9


def _words(line: str) -> str:
    """A line without what only punctuation and capitals say."""
    return re.sub(r"[,.?!¿¡]", "", line).lower()
