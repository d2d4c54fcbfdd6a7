"""A recording that kills every worker that touches it harms nothing but itself."""

from __future__ import annotations

import io
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import deadly
from serving import Caller, Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OTHERS = 20


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Iterator[Server]:
    """A server whose workers die of some recordings; two are processed at once."""
    made = new_server(request.param, worker_concurrency=2)
    made.program = (sys.executable, str(Path(deadly.__file__)))
    with serving(made, worker=True) as started:
        yield started
        assert started.stop() == 0


@pytest.fixture(scope="module")
def caller(server: Server) -> Caller:
    """Who uploads to it."""
    return server.caller()


def recording() -> bytes:
    """Half a second of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(8000))
    return file.getvalue()


HARMLESS = recording()


def test_it_ends_failed_after_three_attempts_and_all_others_are_processed(
    server: Server, caller: Caller
) -> None:
    killer = caller.upload("killer.wav", HARMLESS + deadly.CHUNK).json()["id"]
    others = [caller.upload(f"{number}.wav", HARMLESS).json()["id"] for number in range(OTHERS)]
    waits = until(lambda: waiting(caller.record(killer)), "it waits for its next attempt")
    assert waits["error"]["code"] == "worker_lost"
    assert waits["next_attempt_at"] > waits["started_at"]
    failed = caller.processed(killer)
    (step,) = failed["steps"]
    assert (failed["status"], step["status"], step["attempts"]) == ("failed", "failed", 3)
    assert (step["error"]["code"], step["next_attempt_at"]) == ("worker_lost", None)
    records = [caller.processed(one) for one in others]
    assert [record["steps"] for record in records if record["status"] != "ready"] == []
    deaths = [line for line in server.log.read_text().splitlines() if "process died" in line]
    assert len(deaths) == 3
    until(lambda: len(server.children("worker")) == 1, "a worker lives")
    again = caller.upload("afterwards.wav", HARMLESS).json()["id"]
    assert caller.processed(again)["status"] == "ready"


def waiting(record: dict[str, object]) -> dict[str, object] | None:
    """The step that waits, if one does."""
    steps: list[dict[str, object]] = record["steps"]  # type: ignore[assignment]
    return next((step for step in steps if step["status"] == "waiting"), None)
