"""What the uploads of one organization take while another sends against its limits.

    ./run bench quota [UPLOADS] [--only sqlite|postgresql]

A real server with one web process, and two organizations. One uploads recordings, one after the
other, and is measured. A program of its own floods the server with those of the other, at twice
the default of `EARMARK_RATE_LIMIT`: first without a quota, so that all of them are taken, then
with each of the three, so that nearly all are refused. Rounds with the flood and without take
turns, so that whatever else the machine does falls on both; compared are the medians of each pair
of rounds, and told is the median of these ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from contract.forms import CONTENT_TYPE, form, meta, wav
from earmark.app.parts import Parts
from earmark.database import Database
from earmark.database.migrate import upgrade
from postgres import Cluster
from postgres import Server as Postgres
from serving import Caller, Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UPLOADS = 15
"""Measured in each round."""

ROUNDS = 5
RECORDING_SECONDS = 60.0
"""Of speech in each recording: 480 kB."""

FLOOD_PER_SECOND = 100
CONNECTIONS = 4
SETTLE_SECONDS = 1.2
"""Until a changed quota holds and what was under way has ended."""

CASES: dict[str, dict[str, int]] = {
    "none: all are taken": {},
    "uploads at once": {"uploads_at_once": 1},
    "uploads per minute": {"uploads_per_minute": 1},
    "bytes stored": {"stored_bytes": 1},
}
NO_QUOTA = {"uploads_at_once": 0, "uploads_per_minute": 0, "stored_bytes": 0}

_FORK = multiprocessing.get_context("fork")


class Flood:
    """Uploads of one client from a process of its own, while it is on.

    Attributes:
        statuses: how many answers had each status.
    """

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self._on = _FORK.Event()
        self.statuses = _FORK.Array("i", 600)
        self._process = _FORK.Process(target=self._run, daemon=True)

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        self._process.start()
        try:
            yield
        finally:
            self._process.kill()
            self._process.join()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self._on.set()
        try:
            yield
        finally:
            self._on.clear()

    def _run(self) -> None:
        threads = [threading.Thread(target=self._send) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self) -> None:
        content = wav(RECORDING_SECONDS)
        pause, next_at = CONNECTIONS / FLOOD_PER_SECOND, time.monotonic()
        while True:
            self._on.wait()
            next_at = max(next_at + pause, time.monotonic())
            time.sleep(max(0.0, next_at - time.monotonic()))
            name = f"{os.urandom(8).hex()}.wav"
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = self._upload(form(meta(FileName=name), content))
                with self.statuses.get_lock():
                    self.statuses[status] += 1

    def _upload(self, body: bytes) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("POST", "/Media/Upload", body, _headers(self._token))
            return connection.getresponse().status
        finally:
            connection.close()


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": CONTENT_TYPE}


@contextlib.contextmanager
def _begun(port: int, token: str) -> Iterator[None]:
    """An upload that stands still in the middle, so that its place stays taken."""
    head = "".join(f"{name}: {value}\r\n" for name, value in _headers(token).items())
    sent = f"POST /Media/Upload HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 1000\r\n\r\n--"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent.encode())
        yield


@dataclass(frozen=True)
class Measured:
    """Medians of each round, in milliseconds, and what became of the flood."""

    alone: Sequence[float]
    beside: Sequence[float]
    taken: int
    refused: int

    @property
    def ratio(self) -> float:
        pairs = zip(self.alone, self.beside, strict=True)
        return statistics.median(beside / alone for alone, beside in pairs)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("uploads", type=int, nargs="?", default=UPLOADS)
    asked.add_argument("--only", choices=["sqlite", "postgresql"])
    given = asked.parse_args()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="earmark-bench-") as folder:
        if given.only != "postgresql":
            measure("SQLite", Server(Path(folder) / "sqlite", settings=_settings()), given.uploads)
        if given.only != "sqlite":
            with _postgresql() as url:
                data = Path(folder) / "postgresql"
                server = Server(data, url, settings=_settings())
                measure("PostgreSQL", server, given.uploads)


def _settings() -> dict[str, object]:
    return {"upload_idle_seconds": 600, "log_level": "warning"}


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    cluster = Cluster()
    try:
        server = Postgres(*cluster.urls)
        name = server.create()
        with contextlib.closing(Database(server.owner_url(name))) as database:
            upgrade(database, app_role=server.app_role)
        yield server.url(name)
        server.close()
    finally:
        cluster.stop()


def measure(kind: str, server: Server, uploads: int) -> None:
    server.arguments = ("--no-worker",)
    print(f"\n## {kind}\n", flush=True)
    with serving(server):
        one, other = server.caller("One"), server.caller("Other")
        parts = Parts(server.settled(), issuer=server.base)
        flood = Flood(server.port, other.token)
        with flood.ready():
            print("| quota of the other | refused | alone | beside it | ratio |")
            print("| --- | ---: | ---: | ---: | ---: |")
            for name, quota in CASES.items():
                parts.access.set_quota("Other", **NO_QUOTA)
                parts.access.set_quota("Other", **quota)
                time.sleep(SETTLE_SECONDS)
                holds = _begun(server.port, other.token)
                with holds if "uploads_at_once" in quota else contextlib.nullcontext():
                    _tell(name, _rounds(one, flood, uploads))
        parts.close()


def _rounds(caller: Caller, flood: Flood, uploads: int) -> Measured:
    content, numbers = wav(RECORDING_SECONDS), itertools.count()
    before = flood.statuses[:]

    def median() -> float:
        took = []
        for _ in range(uploads):
            name = f"{os.urandom(8).hex()}-{next(numbers)}.wav"
            began = time.perf_counter()
            answer = caller.upload(name, content)
            took.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text
        return statistics.median(took) * 1000

    median()  # warm
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(median())
        with flood.on():
            time.sleep(0.2)
            beside.append(median())
        time.sleep(0.2)
    got = [now - then for now, then in zip(flood.statuses[:], before, strict=True)]
    return Measured(alone, beside, got[200], sum(got) - got[200])


def _tell(name: str, seen: Measured) -> None:
    alone, beside = statistics.median(seen.alone), statistics.median(seen.beside)
    total = max(1, seen.taken + seen.refused)
    print(
        f"| {name} | {seen.refused / total:.0%} of {total} | {alone:.1f} ms | {beside:.1f} ms "
        f"| {seen.ratio:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
