"""A speech server that is away: recordings wait for it, and nobody waits for them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from earmark.app.worker import Pace, Worker
from earmark.interactions import media_key
from earmark.model import Status, StepStatus
from earmark.pipeline import Tools, load_steps
from earmark.sandbox import Limits
from earmark.speech import Options, open_engine
from earmark.storage import open_store
from processing import load, receive, retry, wait_until
from serving import RECORDING, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database

ANSWER = {
    "language": "english",
    "text": "Good morning.",
    "segments": [{"start": 0.0, "end": 0.9, "text": "Good morning."}],
}


pytestmark = pytest.mark.usefixtures("plain_log")

SPOKEN = RECORDING.read_bytes()[:50_000]
"""Three seconds in which somebody speaks: nothing else is sent to a server."""


class Speech(BaseHTTPRequestHandler):
    """A speech server that hears the same in everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Says nothing."""


@pytest.fixture
def database_url(engine_url: str) -> str:
    """Takes the place of the common one: workers need the engine's tables too."""
    return engine_url


@pytest.fixture
def port() -> int:
    """On which no speech server listens yet."""
    return free_port()


@pytest.fixture
def add(
    database: Database, database_url: str, tmp_path: Path, port: int
) -> Iterator[Callable[[UUID], UUID]]:
    """Adds a recording of an organization; a worker for one at a time processes them."""
    store = open_store(f"file:{tmp_path}/store")
    address = Options(url=f"http://127.0.0.1:{port}/v1", models=tmp_path)
    tools = Tools(store, Limits(), lambda: open_engine("remote", address))
    stopping = threading.Event()
    worker = Worker(
        database,
        load_steps(tools),
        concurrency=1,
        sweep=lambda: None,
        index=lambda: 0,
        pace=Pace(wait_factor=0.05),
        stopping=stopping,
    )
    thread = threading.Thread(target=worker.run)
    thread.start()

    def added(organization_id: UUID) -> UUID:
        interaction_id = receive(database, organization_id, status=Status.FAILED)
        store.put(media_key(interaction_id), SPOKEN)
        retry(database, organization_id, interaction_id)
        return interaction_id

    yield added
    stopping.set()
    thread.join(30)


@pytest.fixture
def speech(port: int) -> Iterator[Callable[[], None]]:
    """Starts the speech server."""
    servers: list[HTTPServer] = []

    def start() -> None:
        servers.append(HTTPServer(("127.0.0.1", port), Speech))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_recordings_wait_without_a_place_and_go_on_by_themselves(
    database: Database,
    organization: UUID,
    other_organization: UUID,
    add: Callable[[UUID], UUID],
    speech: Callable[[], None],
) -> None:
    def listened(interaction_id: UUID) -> bool:
        found = load(database, interaction_id)
        return found.audio is not None

    def waits(interaction_id: UUID) -> bool:
        steps = {step.name: step for step in load(database, interaction_id).steps}
        last = steps.get("transcribe")
        if last is None or last.status is not StepStatus.WAITING:
            return False
        assert last.error is not None
        told.add(last.error.code)
        return True

    told: set[str] = set()

    mine = [add(organization) for _ in range(3)]
    wait_until(lambda: all(map(waits, mine)), 60)
    assert told == {"speech_unreachable"}
    others = [add(other_organization) for _ in range(3)]
    wait_until(lambda: all(map(listened, others)), 60)
    assert all(load(database, one).status is not Status.FAILED for one in mine)
    speech()
    ended = [*mine, *others]
    wait_until(lambda: all(load(database, one).status is Status.READY for one in ended), 90)
    for one in ended:
        found = load(database, one)
        assert found.transcript is not None
        assert [done.status for done in found.steps] == [StepStatus.DONE] * 2
        assert found.steps[0].attempts == 1, "it was listened to once"
