"""What was acknowledged survives the death of every process at any instant."""

from __future__ import annotations

import hashlib
import io
import json
import random
import threading
import time
import wave
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from chats import zipped
from serving import Caller, Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS, THOROUGH_ROUNDS = 2, 20
UPLOADERS = 4
EACH = (".wav", ".zip")  # a chat as well: decoding a recording takes long
TAKEN = "An interaction with this file name already exists."


@dataclass
class Ledger:
    """What the callers know: the promises they hold and the uploads they must ask about."""

    promised: dict[str, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def note(self, name: str, answer: httpx.Response) -> None:
        """Keeps an answer."""
        self.open.discard(name)
        if answer.status_code == 200:
            self.promised[name] = answer.json()["id"]
        elif answer.text != TAKEN or answer.headers["Earmark-Duplicate"] == "different":
            self.wrong.append(f"{name}: {answer.status_code} {answer.text}")
        else:
            self.promised[name] = answer.headers["Location"].rpartition("/")[2]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_after_kill_9_every_promise_holds_and_nothing_is_half_there(
    kind, new_server, pytestconfig
):
    seed = random.randrange(1 << 32)
    print("seed", seed)  # shown if the test fails
    dice, ledger = random.Random(seed), Ledger()
    rounds = THOROUGH_ROUNDS if pytestconfig.getoption("--thorough") else ROUNDS
    server = new_server(kind, upload_idle_seconds=10)
    with serving(server) as started:
        caller = started.caller()
        for number in range(rounds):
            kill_while_uploading(started, caller, ledger, dice, number)
            started.start()
            check(caller, ledger)
            # In each round: an attempt that dies with its worker counts, and three are the end.
            for id_ in ledger.promised.values():
                record = caller.processed(id_)
                assert record["status"] == "ready", record["steps"]
        assert not ledger.wrong
        assert len(ledger.contents) == rounds * UPLOADERS * len(EACH)


def kill_while_uploading(
    server: Server, caller: Caller, ledger: Ledger, dice: random.Random, number: int
) -> None:
    threads = []
    for uploader in range(UPLOADERS):
        names = [f"{number}-{uploader}{extension}" for extension in dice.sample(EACH, len(EACH))]
        ledger.contents |= {name: MEDIA[name[-4:]](dice) for name in names}
        ledger.open |= set(names)
        pauses = [dice.uniform(0, 0.02) for _ in names]
        threads.append(threading.Thread(target=upload, args=(caller, ledger, names, pauses)))
    for thread in threads:
        thread.start()
    time.sleep(dice.uniform(0.05, 0.6))
    server.kill()
    for thread in threads:
        thread.join()


def upload(caller: Caller, ledger: Ledger, names: list[str], pauses: list[float]) -> None:
    http = caller.another()
    for name, pause in zip(names, pauses, strict=True):
        try:
            answer = http.post(
                "/Media/Upload",
                content=slowly(body(name, ledger.contents[name]), pause),
                headers={"Content-Type": "multipart/form-data; boundary=b"},
            )
        except httpx.TransportError:
            return  # the others of this uploader were never sent: they are asked about as well
        ledger.note(name, answer)


def check(caller: Caller, ledger: Ledger) -> None:
    """Asks about what is open, then compares everything that is visible with what is known."""
    visible = listed(caller)
    assert set(ledger.promised) <= set(visible)
    assert set(visible) <= set(ledger.promised) | ledger.open
    for name in sorted(ledger.open):
        metadata = {"UploadType": upload_type(name)}
        ledger.note(name, caller.upload(name, ledger.contents[name], **metadata))
    assert not ledger.wrong
    for name, id_ in listed(caller).items():
        assert ledger.promised[name] == id_
        expected = hashlib.sha256(ledger.contents[name]).digest()
        assert hashlib.sha256(caller.media(id_)).digest() == expected


def listed(caller: Caller) -> dict[str, str]:
    page = caller.http.get("/v1/interactions", params={"limit": 1000}).json()
    return {item["file_name"]: item["id"] for item in page["items"]}


def recording(dice: random.Random) -> bytes:
    """A short recording of noise, different each time."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(dice.randbytes(2 * dice.randrange(1000, 60000)))
    return made.getvalue()


def chat(dice: random.Random) -> bytes:
    """An archive of nonsense, different each time."""
    said = dice.randbytes(dice.randrange(1000, 60000)).hex()
    return zipped({"chat.txt": f"Somebody: {said}"})


MEDIA = {".wav": recording, ".zip": chat}


def upload_type(name: str) -> str:
    return "Audio" if name.endswith(".wav") else "Chat"


def body(name: str, content: bytes) -> bytes:
    metadata = json.dumps({"FileName": name, "UploadType": upload_type(name)})
    head = '--b\r\nContent-Disposition: form-data; name="'
    form = f'{head}metadata"\r\n\r\n{metadata}\r\n{head}file"; filename="{name}"\r\n\r\n'
    return form.encode() + content + b"\r\n--b--\r\n"


def slowly(whole: bytes, pause: float) -> Iterator[bytes]:
    for start in range(0, len(whole), 8192):
        yield whole[start : start + 8192]
        time.sleep(pause)
