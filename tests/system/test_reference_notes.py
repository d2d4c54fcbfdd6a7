"""What the pages of failed steps and of warnings show is what records hold, to the letter."""

from __future__ import annotations

import gzip
import json
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest

from chats import zipped
from contract.forms import wav
from earmark.web.reference.bodies import bodies
from earmark.web.reference.codes import Kind, meanings
from serving import RECORDING, Caller, Server, form, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG = json.dumps({"messages": [{"text": "Hello"}]})
FOREIGN = "Dear all,\nplease find the minutes below."
LATE = json.dumps({"messages": [{"text": "a"}, {"text": "b"}, {"text": "c", "at": "yesterday"}]})
CUT_OFF = RECORDING.read_bytes()
CUT_OFF = CUT_OFF[: len(CUT_OFF) // 2]


def without_samples() -> bytes:
    """A WAV whose header is whole and has nothing behind it."""
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 7, 1, 8000, 8000, 1, 8)
    chunks += b"data" + struct.pack("<I", 0)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


SENT: dict[str, tuple[str, bytes]] = {
    "not_audio": ("a.wav", b'{"error": "The recording is gone."}'),
    "unreadable": ("b.mp3", b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"\x55" * 2000),
    "no_audio_decoded": ("c.wav", without_samples()),
    "not_archive": ("d.zip", b"\x01\x02\x03\x04" * 1000),
    "archive_compressed": ("e.tar", gzip.compress(b"x" * 1000)),
    "archive_unsafe": ("f.zip", zipped({f"{number}.txt": "" for number in range(2001)})),
    "archive_damaged": ("g.zip", zipped({"chat.json": LOG})[:-30]),
    "archive_empty": ("h.zip", zipped({})),
    "chat_missing": ("i.zip", zipped({"photo.jpg": "x"})),
    "chat_unknown": ("j.zip", zipped({"chat.txt": FOREIGN})),
    "chat_encoding": ("k.zip", zipped({"chat.txt": "Zoë: Größe\n".encode("latin-1")})),
    "chat_damaged": ("l.zip", zipped({"chat.json": LATE})),
    "chat_empty": ("m.zip", zipped({"chat.json": json.dumps({"messages": []})})),
    "chat_files_left_out": ("n.zip", zipped({"chat.json": LOG, "notes.txt": FOREIGN})),
    "chat_metadata_left_out": ("o.zip", zipped({"chat.json": LOG, "other.json_meta": "{}"})),
    "container_differs": ("p.mp3", RECORDING.read_bytes()),
    "speech_off": ("q.wav", RECORDING.read_bytes()),
    "silent": ("r.wav", wav(1.0)),
    "truncated": ("s.wav", CUT_OFF),
}
"""A file that brings each code about."""

NUMBERS = {"truncated"}
"""Codes whose sentence has numbers of the file's own."""

NOT_PROVOKED = {
    "no_audio": "tests/unit/test_audio.py has such files, made with an encoder",
    "unsupported_codec": "no file that this decoder cannot read is made here",
    "too_many_channels": "tests/unit/test_audio.py has one, made with an encoder",
    "decode_too_slow": "needs a limit of its own; tests/unit/test_audio.py",
    "decoder_crashed": "needs a decoder that dies; tests/unit/test_audio.py",
    "decoder_out_of_memory": "needs a limit of its own; tests/unit/test_audio.py",
    "decoder_killed": "needs a decoder that is killed each time; tests/unit/test_patience.py",
    "chat_too_large": "needs 24 MiB of messages; tests/unit/test_chat.py",
    "chat_too_slow": "needs a limit of its own; tests/unit/test_chat.py",
    "chat_reader_crashed": "needs a reader that dies; tests/unit/test_chat.py",
    "speech_engine_missing": "needs a worker without the engine; tests/unit/test_speech.py",
    "speech_model_missing": "needs a worker without a model; tests/unit/test_speech_models.py",
    "speech_model_unusable": "needs a broken model; tests/unit/test_speech_models.py",
    "speech_url_missing": "needs a worker with that setting; tests/unit/test_speech.py",
    "speech_unreachable": "is told after an hour; tests/unit/test_speech.py",
    "speech_refused": "needs a server that refuses; tests/unit/test_speech.py",
    "worker_lost": "needs a worker that dies three times; tests/system/test_deadly.py",
    "internal": "needs a fault of ours; tests/unit/test_patience.py",
    "short_of_resources": "is told after an hour; tests/unit/test_patience.py",
    "unavailable": "is told after an hour; tests/unit/test_patience.py",
    "duration_differs": "needs a header that guesses; tests/unit/test_audio.py",
    "decode_errors": "needs damage between frames; tests/unit/test_audio.py",
    "language_mismatch": "needs a speech model; tests/unit/test_transcribe.py",
}
"""Codes that no file alone brings about, and where they arise. Their sentences are looked up in
the source by tests/docs/test_reference.py."""


@pytest.fixture(scope="module")
def caller(new_server: Callable[..., Server]) -> Iterator[Caller]:
    with serving(new_server("sqlite"), worker=True) as server:
        yield server.caller()


@pytest.fixture(scope="module")
def sent(caller: Caller) -> dict[str, str]:
    """Every file, uploaded; the ids by the codes."""
    ids = {}
    for code, (name, content) in SENT.items():
        kind = "Chat" if name.endswith(("zip", "tar")) else "Audio"
        facts = {"FileName": name, "UploadType": kind}
        answer = caller.http.post("/Media/Upload", **form(facts, content, name))
        assert answer.status_code == 200, (code, answer.text)
        ids[code] = answer.json()["id"]
    return ids


def processed(caller: Caller, id_: str) -> Any:
    def ended() -> Any:
        record = caller.record(id_)
        return record["status"] not in {"received", "processing"} and record

    return until(ended, "processed")


@pytest.mark.parametrize("code", SENT)
def test_a_record_has_what_the_page_of_its_code_shows(
    caller: Caller, sent: dict[str, str], code: str
) -> None:
    record = processed(caller, sent[code])
    (meaning,) = (one for one in meanings()[code] if one.kind in {Kind.STEP, Kind.WARNING})
    (shown,) = (json.loads(body.text) for body in bodies(meaning))
    notes = record["warnings"] if meaning.kind is Kind.WARNING else record["steps"]
    (found,) = (one for one in notes if (one.get("error") or one).get("code") == code)
    assert masked(code, found) == masked(code, shown)
    assert [*found] == [*shown], "the same keys in the same order"


def masked(code: str, told: Any) -> Any:
    """Without the times, and without numbers where the page says that they vary."""
    text = json.dumps(told)
    text = re.sub(r'"(started_at|finished_at)": "[^"]+"', r'"\1": "T"', text)
    return json.loads(re.sub(r"\d+\.\d+ s", "N s", text) if code in NUMBERS else text)


def test_every_code_of_processing_is_compared_or_named_with_its_reason() -> None:
    codes = {
        code
        for code, several in meanings().items()
        if any(one.kind in {Kind.STEP, Kind.WARNING} for one in several)
    }
    assert set(SENT) | set(NOT_PROVOKED) == codes
    assert not set(SENT) & set(NOT_PROVOKED)
