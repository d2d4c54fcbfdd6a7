"""What a control call takes while very many connections are open, and how much memory they need.

    ./run bench connections [--idle 10000] [--uploads 1000] [--rate 8000] [--rounds 4]

One `earmark serve` with one web process. Idle connections have made one request and are kept
alive; slow uploads bring 8 KB/s each, twice the least that is allowed, and never end; with `--rate
64000` they are live recordings in stereo of 16 kHz, 64 MB/s together. How much of that came is
read from the files that the service writes.
A caller beside them asks for readiness and for a page of interactions, one after the other, in
rounds: without the crowd and with it, in turn, so that both see the same machine. The crowd is a
process of its own, and connects from several addresses of the loopback.

The goal: with the crowd a p99 below ten times that without, in the same run, and less than 300 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import struct
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from serving import Caller, Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    import httpx

IDLE, UPLOADS = 10_000, 1_000
ROUNDS, ROUND_SECONDS = 4, 10.0
RATE = 8_000
"""Bytes per second of each upload."""

PIECES_PER_SECOND = 2
PER_ADDRESS = 1_500
"""Connections from each address: below what `serve` allows one."""

LOOKS_PER_SECOND = 50
"""Control calls: as many as can be told apart, far from what the service can do."""

SPARE_FILES = 500
PATIENCE_SECONDS = 300
PATHS = {"readiness": "/health/ready", "a page of interactions": "/v1/interactions?limit=20"}
MEGABYTE = 1_000_000


@dataclass
class Measured:
    """Milliseconds of each control call, by path, without the crowd and with it."""

    alone: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PATHS})
    crowded: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PATHS})


def main() -> None:
    """Measures, and prints a table."""
    asked = _arguments()
    idle, uploads = _allowed(asked.idle, asked.uploads)
    with tempfile.TemporaryDirectory(prefix="earmark-bench-") as folder:
        server = Server(
            Path(folder) / "data",
            arguments=("--no-worker",),
            settings={"keep_alive_seconds": 3600, "log_level": "warning"},
        )
        with serving(server):
            _run(server, Path(folder) / "data", idle, uploads, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench connections")
    parser.add_argument("--idle", type=int, default=IDLE)
    parser.add_argument("--uploads", type=int, default=UPLOADS)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=ROUND_SECONDS)
    return parser.parse_args()


def _allowed(idle: int, uploads: int) -> tuple[int, int]:
    """As many as this machine lets one process open; says so if those are fewer."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = (files - SPARE_FILES) * 2 // 3
    if files != resource.RLIM_INFINITY and room < idle + uploads:
        part = room / (idle + uploads)
        idle, uploads = int(idle * part), int(uploads * part)
        print(f"SCALED DOWN: only {files} open files are allowed (ulimit -Hn).", flush=True)
    if (idle, uploads) != (IDLE, UPLOADS):
        print(f"NOT THE GOAL'S NUMBERS: {idle} idle, {uploads} uploads.", flush=True)
    return idle, uploads


def _run(server: Server, data: Path, idle: int, uploads: int, asked: argparse.Namespace) -> None:
    caller = server.caller()
    (web,) = server.children("web")
    measured, empty, full = Measured(), _resident(web), 0
    _look(caller.http, measured.alone, 2)
    measured = Measured()
    with _crowd(server.port, caller, (idle, uploads, asked.rate)) as crowd:
        for number in range(asked.rounds):
            _look(caller.http, measured.alone, asked.seconds)
            held = crowd.gather()
            _look(caller.http, measured.crowded, asked.seconds)
            full = max(full, _resident(web))
            arrived, sent = _staged(data), crowd.disperse()
            rate = arrived / max(held["uploads"], 1) / (asked.seconds + held["settled"]) / 1000
            print(
                f"Round {number + 1}: {held}, {rate:.0f} KB/s each were written "
                f"({arrived / max(sent, 1):.0%} of what was sent).",
                flush=True,
            )
            assert (held["idle"], held["uploads"]) == (idle, uploads), "some were refused"
    _tell(measured, (idle, uploads, asked.rate), empty, full)


def _look(http: httpx.Client, kept: dict[str, list[float]], seconds: float) -> None:
    """Asks at a steady pace; a late answer does not spare the next one its turn."""
    turn = time.perf_counter()
    end = turn + seconds
    while turn < end:
        for name, path in PATHS.items():
            time.sleep(max(0.0, turn - time.perf_counter()))
            began = time.perf_counter()
            answer = http.get(path)
            kept[name].append((time.perf_counter() - began) * 1000)
            assert answer.status_code == 200, answer.text
            turn += 1 / LOOKS_PER_SECOND


def _resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def _staged(data: Path) -> int:
    """Bytes of uploads that the service has written so far."""
    sizes = 0
    for path in data.glob("**/staging/*"):
        with contextlib.suppress(FileNotFoundError):
            sizes += path.stat().st_size
    return sizes


def _tell(measured: Measured, kinds: tuple[int, int, int], empty: int, full: int) -> None:
    idle, uploads, rate = kinds
    print(
        f"\n{idle:,} idle connections and {uploads:,} uploads of {rate / 1000:g} KB/s each, "
        "one web process:\n"
    )
    print(
        "| control call | calls | median ms | p99 ms | with the crowd: median | p99 | p99, times |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in PATHS:
        alone, crowded = measured.alone[name], measured.crowded[name]
        before, after = _p99(alone), _p99(crowded)
        cells = [f"{len(alone)} + {len(crowded)}", f"{statistics.median(alone):.1f}"]
        cells += [f"{before:.1f}", f"{statistics.median(crowded):.1f}", f"{after:.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {after / before:.1f} |")
    share = (full - empty) / max(idle + uploads, 1) / 1000
    print(
        f"\nMemory of the web process: {empty / MEGABYTE:.0f} MB before, at most "
        f"{full / MEGABYTE:.0f} MB with the crowd ({share:.1f} KB a connection). "
        f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors."
    )


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


# The crowd


class _Crowd:
    """The crowd's process, as seen from here."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def gather(self) -> dict[str, float]:
        """Has it connect; tells how many of each kind hold, and seconds of uploading so far."""
        self._pipe.send("gather")
        assert self._pipe.poll(PATIENCE_SECONDS), "the crowd did not come together"
        held: dict[str, float] = self._pipe.recv()
        return held

    def disperse(self) -> int:
        """Has it go; tells how many bytes were uploaded."""
        self._pipe.send("disperse")
        sent: int = self._pipe.recv()
        return sent


@contextlib.contextmanager
def _crowd(port: int, caller: Caller, kinds: tuple[int, int, int]) -> Iterator[_Crowd]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    arguments = (theirs, port, caller.token, kinds)
    process = multiprocessing.get_context("spawn").Process(target=_be_crowd, args=arguments)
    process.start()
    try:
        yield _Crowd(ours)
        ours.send("end")
        process.join(30)
    finally:
        process.kill()


def _be_crowd(pipe: Connection, port: int, token: str, kinds: tuple[int, int, int]) -> None:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    os.nice(5)  # the crowd stands for many machines, and must not take the server's processor

    async def follow() -> None:
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv) == "gather":
            members = _Members(port, token)
            pipe.send(await members.gather(*kinds))
            await loop.run_in_executor(None, pipe.recv)
            pipe.send(await members.disperse())

    uvloop.run(follow())


class _Member(asyncio.Protocol):
    """One connection; counts as held once its request was answered, or its body may be sent."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.held = asyncio.get_running_loop().create_future()
        self.lost = False
        self.transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.held.done():
            self.held.set_result(data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 100")))

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True
        if not self.held.done():
            self.held.set_result(False)


class _Members:
    """All connections of one round."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.token = token
        self.count = 0
        self.sent = 0
        self.idle: list[_Member] = []
        self.uploads: list[_Member] = []
        self.sending: asyncio.Task[None] | None = None

    async def gather(self, idle: int, uploads: int, rate: int) -> dict[str, float]:
        ask = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"
        self.idle = await self._connect([ask] * idle)
        self.uploads = await self._connect([self._begun(number) for number in range(uploads)])
        self.sending = asyncio.create_task(self._send(rate))
        settled = 3.0
        await asyncio.sleep(settled)
        holds = {"idle": self.idle, "uploads": self.uploads}
        held = {kind: sum(_holds(one) for one in members) for kind, members in holds.items()}
        return {**held, "settled": settled}

    async def disperse(self) -> int:
        assert self.sending is not None
        self.sending.cancel()
        for one in (*self.idle, *self.uploads):
            one.transport.close()
        await asyncio.sleep(3)
        return self.sent

    async def _connect(self, requests: list[bytes]) -> list[_Member]:
        loop, members = asyncio.get_running_loop(), []
        for request in requests:
            source = f"127.0.1.{1 + self.count // PER_ADDRESS}"
            self.count += 1
            _, member = await loop.create_connection(
                lambda request=request: _Member(request),
                "127.0.0.1",
                self.port,
                local_addr=(source, 0),
            )
            members.append(member)
            await member.held
        return members

    def _begun(self, number: int) -> bytes:
        """An upload that asks before it sends, so that it is seen to be taken."""
        name = f"{number}-{time.time_ns()}.wav"
        metadata = json.dumps({"FileName": name, "UploadType": "Audio"})
        part = '--b\r\nContent-Disposition: form-data; name="'
        form = f'{part}metadata"\r\n\r\n{metadata}\r\n{part}file"; filename="{name}"\r\n\r\n'
        return (
            f"POST /Media/Upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {self.token}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000000\r\n"
            f"Expect: 100-continue\r\n\r\n{form}"
        ).encode() + _WAV

    async def _send(self, rate: int) -> None:
        """A piece for each in turn, evenly over the second."""
        piece = bytes(rate // PIECES_PER_SECOND)
        turn, groups = time.perf_counter(), 20
        while True:
            for group in range(groups):
                for one in self.uploads[group::groups]:
                    if not one.lost:
                        one.transport.write(piece)
                        self.sent += len(piece)
                turn += 1 / PIECES_PER_SECOND / groups
                await asyncio.sleep(max(0.0, turn - time.perf_counter()))


def _holds(one: _Member) -> bool:
    return not one.lost and one.held.done() and one.held.result() is True


_FORMAT = struct.pack("<IHHIIHH", 16, 1, 2, 16_000, 64_000, 4, 16)
_WAV = b"RIFF\xff\xff\xff\xffWAVEfmt " + _FORMAT + b"data\xff\xff\xff\xff"
"""The head of a recording in stereo of 16 kHz and 16 bits, which does not know its length yet."""


if __name__ == "__main__":
    main()
