"""What a service under full load needs of memory, and how it answers others meanwhile.

    ./run bench load [--only large slow] [--size 1000000000] [--at-once 20] [--slow 1000]
                     [--folder FOLDER]

large: one upload of a gigabyte, then twenty at once. Told are the growth of the web process's
memory from the one to the other, and how control calls (readiness, a page of interactions) and the
event loop fare beside them, compared with the same calls without any load in the same run.
slow: a thousand uploads of 4 MB that bring 64 KB/s each, like live recordings, and all end.

Earmark without a worker, one web process; server and clients have processors of their own.
The lag of the event loop is that of `/metrics` (`earmark_event_loop_lag_duration_seconds`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import _contenders
import httpx
import uvloop
from _contenders import Contender, Places, free_port, status_bytes
from _load import BOUNDARY
from ingest import GB, MB, _fitting, _recording

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKS_PER_SECOND = 25
IDLE_SECONDS = 15.0
SLOW_RATE, SLOW_BYTES = 64_000, 4 * MB
PATHS = {"readiness": "/health/ready", "a page of interactions": "/v1/interactions?limit=20"}
LAG = "earmark_event_loop_lag_duration_seconds_bucket"
LAG_GOAL = 0.05
PER_ADDRESS = 400


@dataclass
class Seen:
    """What was seen while something ran.

    Attributes:
        calls: milliseconds of each control call, by its name.
        most_bytes: the most resident memory of the web process.
        lags: looks at the event loop: all, and those within the goal.
        seconds: how long it ran.
    """

    calls: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PATHS})
    most_bytes: int = 0
    lags: tuple[int, int] = (0, 0)
    seconds: float = 0.0


def main() -> None:
    """Measures, and prints tables."""
    asked = _arguments()
    places = Places.of_this_machine()
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="earmark-bench-", dir=asked.folder) as made:
        for name in asked.only or ("large", "slow"):
            folder = Path(made) / name
            folder.mkdir()
            {"large": large, "slow": slow}[name](folder, places, asked)
            shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench load")
    parser.add_argument("--only", nargs="+", choices=["large", "slow"])
    parser.add_argument("--size", type=int, default=GB, help="of a large upload")
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--slow", type=int, default=1000, help="how many slow uploads")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    return parser.parse_args()


def large(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    """One upload of a gigabyte, then many at once."""
    size = _fitting(folder, asked.size, copies=asked.at_once + 2)
    source = _recording(size)
    try:
        with _served(folder, places) as (contender, watched):
            with watched() as idle:
                time.sleep(IDLE_SECONDS)
            with watched() as one:
                _upload_large(contender, source, size, 1)
            with watched() as many:
                _upload_large(contender, source, size, asked.at_once)
    finally:
        source.unlink()
    title = f"{asked.at_once} uploads of {size / GB:g} GB at once"
    _tell(title, idle, many)
    print(
        f"Memory of the web process: {idle.most_bytes / MB:.0f} MB idle, {one.most_bytes / MB:.0f}"
        f" MB with one upload, {many.most_bytes / MB:.0f} MB with {asked.at_once}: grown by "
        f"{(many.most_bytes - one.most_bytes) / MB:.0f} MB. "
        f"{asked.at_once * size / many.seconds / MB:.0f} MB/s came in.",
        flush=True,
    )


def slow(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    """Very many uploads that come slowly and all end."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < 2 * asked.slow + 200 and files != resource.RLIM_INFINITY:
        asked.slow = (files - 200) // 2
        print(f"SCALED DOWN: only {files} open files are allowed; {asked.slow} uploads.")
    with _served(folder, places) as (contender, watched):
        with watched() as idle:
            time.sleep(IDLE_SECONDS)
        with watched() as many:
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                given = (
                    contender.port,
                    contender.token,
                    asked.slow,
                    sorted(os.sched_getaffinity(0)),
                )
                kept, failures = pool.apply(be_slow, given)
    _tell(
        f"{asked.slow} uploads of {SLOW_BYTES / MB:g} MB at {SLOW_RATE / 1000:g} KB/s", idle, many
    )
    print(
        f"{kept} were kept, {len(failures)} were not {sorted(set(failures))[:3]}. Memory of the "
        f"web process: {idle.most_bytes / MB:.0f} MB idle, at most {many.most_bytes / MB:.0f} MB.",
        flush=True,
    )


@contextlib.contextmanager
def _served(folder: Path, places: Places) -> Iterator[tuple[Contender, object]]:
    port = free_port()
    started = _contenders.earmark(
        folder,
        places,
        metrics_listen=f"127.0.0.1:{port}",
        log_level="warning",
        max_connections_per_address=PER_ADDRESS * 4,
    )
    before = os.sched_getaffinity(0)
    with started as contender:
        assert contender.server is not None
        (web,) = contender.server.children("web")
        places.settle()
        try:
            yield contender, lambda: _watching(contender, web, port)
        finally:
            os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _watching(contender: Contender, web: int, metrics_port: int) -> Iterator[Seen]:
    seen, over = Seen(), threading.Event()
    before = _lags(metrics_port)
    watching = threading.Thread(target=_watch, args=(contender, web, seen, over))
    watching.start()
    began = time.perf_counter()
    try:
        yield seen
    finally:
        seen.seconds = time.perf_counter() - began
        over.set()
        watching.join()
        after = _lags(metrics_port)
        seen.lags = (after[0] - before[0], after[1] - before[1])


def _watch(contender: Contender, web: int, seen: Seen, over: threading.Event) -> None:
    """Asks at a steady pace; a late answer does not spare the next one its turn."""
    assert contender.server is not None
    headers = {"Authorization": f"Bearer {contender.token}"}
    with httpx.Client(
        base_url=contender.server.base, headers=headers, trust_env=False, timeout=60
    ) as http:
        turn = time.perf_counter()
        while not over.is_set():
            for name, path in PATHS.items():
                time.sleep(max(0.0, turn - time.perf_counter()))
                began = time.perf_counter()
                answer = http.get(path)
                seen.calls[name].append((time.perf_counter() - began) * 1000)
                assert answer.status_code == 200, answer.text
                seen.most_bytes = max(seen.most_bytes, status_bytes(web, "VmRSS"))
                turn += 1 / LOOKS_PER_SECOND


def _lags(port: int) -> tuple[int, int]:
    """All looks at the event loop so far, and those in which it was not too late."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found = {}
    for line in text.splitlines():
        if line.startswith(LAG):
            bound, _, count = line.partition('le="')[2].partition('"} ')
            found[float(bound)] = int(float(count))
    return found[float("inf")], found[LAG_GOAL]


def _upload_large(contender: Contender, source: Path, size: int, at_once: int) -> None:
    def upload(_number: int) -> str:
        with (
            source.open("rb") as content,
            contextlib.closing(contender.connect()) as connection,
        ):
            return connection.upload(content, size)

    with ThreadPoolExecutor(at_once) as pool:
        contender.forget(list(pool.map(upload, range(at_once))))


def be_slow(port: int, token: str, count: int, processors: list[int]) -> tuple[int, list[str]]:
    """The slow clients, in a process of their own; how many were kept, and what others got."""
    os.sched_setaffinity(0, set(processors))
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    return uvloop.run(_all_slow(port, token, count))


async def _all_slow(port: int, token: str, count: int) -> tuple[int, list[str]]:
    piece = bytes(SLOW_RATE // 2)

    async def one(number: int) -> str:
        await asyncio.sleep(number / count * 0.5)  # evenly over the time between two pieces
        name = f"{uuid.uuid4()}.wav"
        metadata = json.dumps({"FileName": name, "UploadType": "Audio"})
        part = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
        before = (
            f'{part}"metadata"\r\n\r\n{metadata}\r\n{part}"file"; filename="{name}"\r\n\r\n'
        ).encode() + b"RIFF\xff\xff\xff\x7fWAVE"
        after = f"\r\n--{BOUNDARY}--\r\n".encode()
        source = f"127.0.1.{1 + number // PER_ADDRESS}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        head = (
            f"POST /Media/Upload HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: {len(before) + SLOW_BYTES + len(after)}\r\n\r\n"
        )
        writer.write(head.encode() + before)
        loop = asyncio.get_running_loop()
        turn, sent = loop.time(), 0
        while sent < SLOW_BYTES:
            writer.write(piece[: SLOW_BYTES - sent])
            await writer.drain()
            sent += len(piece)
            turn += 0.5
            await asyncio.sleep(max(0.0, turn - loop.time()))
        writer.write(after)
        status = (await reader.readline()).decode(errors="replace").strip()
        writer.close()
        return status

    answers = await asyncio.gather(*map(one, range(count)), return_exceptions=True)
    kept = [answer for answer in answers if answer == "HTTP/1.1 200 OK"]
    return len(kept), [str(answer) or repr(answer) for answer in answers if answer not in kept]


def _tell(title: str, idle: Seen, many: Seen) -> None:
    print(f"\n## {title}, one web process\n")
    print("| control call | calls | idle: median ms | p99 | loaded: median | p99 | p99, times |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in PATHS:
        alone, crowded = idle.calls[name], many.calls[name]
        before, after = _p99(alone), _p99(crowded)
        cells = [f"{len(alone)} + {len(crowded)}", f"{statistics.median(alone):.1f}"]
        cells += [f"{before:.1f}", f"{statistics.median(crowded):.1f}", f"{after:.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {after / before:.1f} |")
    for name, seen in (("idle", idle), ("loaded", many)):
        looks, good = seen.lags
        print(
            f"\nEvent loop, {name}: {good} of {looks} looks at most {LAG_GOAL * 1000:.0f} ms late "
            f"({good / max(looks, 1):.2%})."
        )


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


if __name__ == "__main__":
    main()
