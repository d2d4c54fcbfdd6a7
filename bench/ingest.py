"""How close taking recordings in comes to what the machine can do, and to what others do.

    ./run bench ingest [--only 1gb tmpfs 5mb 100kb two reading] [--rounds 5] [--folder FOLDER]

Every figure is a ratio within one run: in each round all contenders come in turn on the same disk,
and the median over the rounds of each round's ratio is told, with the least and the most. Server
and client are pinned to processors of their own, but for two web processes, which need two. The
worker is off.

Contenders: Earmark; `bench/naive.py`, the service of an afternoon brought to the same durability;
the limits: `dd conv=fsync` of the same bytes, SHA-256 over them, the server's receive-and-discard,
serial write and fsync of 100 KB; and, as context, servers of others (see `_peers.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import _contenders
from _contenders import Contender, Places
from _peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _load import Connection

ROUNDS = 5
GB, MB = 1_000_000_000, 1_000_000
SMALL_BYTES, MIDDLE_BYTES = 100_000, 5 * MB
SMALL_UPLOADS, MIDDLE_UPLOADS = 400, 24
AT_ONCE = 16
MIDDLE_AT_ONCE = 4
PARTS = ("1gb", "tmpfs", "5mb", "100kb", "two", "reading")
TMPFS = Path("/dev/shm")
WAV_HEAD = b"RIFF\xff\xff\xff\x7fWAVE"


@dataclass(frozen=True)
class Figure:
    """One measurement: seconds, and the processor's where they were counted."""

    seconds: float
    cpu_seconds: float = 0.0


def main() -> None:
    """Measures, and prints tables."""
    asked = _arguments()
    places = Places.of_this_machine()
    load = os.getloadavg()[0]
    print(f"load average at the start: {load:.1f} on {os.cpu_count()} processors", flush=True)
    parts: dict[str, Callable[[Path, Places, argparse.Namespace], None]] = {
        "1gb": large_on_disk,
        "tmpfs": large_in_memory,
        "5mb": middle,
        "100kb": small,
        "two": two_processes,
        "reading": reading,
    }
    with tempfile.TemporaryDirectory(prefix="earmark-bench-", dir=asked.folder) as made:
        Path(made).chmod(0o755)
        for name in asked.only or parts:
            folder = Path(made) / name
            folder.mkdir()
            parts[name](folder, places, asked)
            shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench ingest")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--size", type=int, default=GB, help="of the large file, in bytes")
    asked = parser.parse_args()
    if asked.rounds < ROUNDS:
        print(f"FEWER ROUNDS: {asked.rounds}; no figures to quote.")
    return asked


def large_on_disk(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    """A gigabyte, durable on disk."""
    size = _fitting(folder, asked.size, copies=5)
    _large(folder, places, asked.rounds, size, f"{size / GB:g} GB, durable on disk")


def large_in_memory(_folder: Path, places: Places, asked: argparse.Namespace) -> None:
    """A gigabyte on tmpfs: what the processor does."""
    size = _fitting(TMPFS, asked.size, copies=5)
    with tempfile.TemporaryDirectory(prefix="earmark-bench-", dir=TMPFS) as made:
        _large(Path(made), places, asked.rounds, size, f"{size / GB:g} GB on tmpfs")


def _large(folder: Path, places: Places, rounds: int, size: int, title: str) -> None:
    source = _recording(size)
    seen: dict[str, list[Figure]] = {}
    try:
        with (
            _contenders.earmark(folder, places) as ours,
            _contenders.naive(folder, places) as theirs,
            _contenders.discard(folder, places) as nothing,
            _peers(folder, places) as peers,
            _client(places),
        ):
            for _ in _counted(rounds, title):
                for contender in (ours, theirs, nothing, *peers):
                    _note(seen, contender.name, _upload_one(contender, source, size))
                _note(seen, "dd", _dd(source, folder, places))
                _note(seen, "hash", _hash(source, places))
    finally:
        source.unlink()
    _table(title, seen, size)
    _ratio(seen, "of dd with fsync", "dd", "earmark")
    _ratio(seen, "of naive", "naive", "earmark")
    cpu = [
        own.cpu_seconds / (hashed.cpu_seconds + received.cpu_seconds + copied.cpu_seconds)
        for own, hashed, received, copied in zip(
            seen["earmark"], seen["hash"], seen["receive and discard"], seen["dd"], strict=True
        )
    ]
    _tell("processor time over hash + receive-and-discard + dd", cpu)


def middle(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    """Five megabytes, the size of a common call."""
    _many(folder, places, asked.rounds, _Kind(MIDDLE_BYTES, MIDDLE_UPLOADS, MIDDLE_AT_ONCE))


def small(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    """A hundred kilobytes, where the row and the calls are what counts."""
    _many(folder, places, asked.rounds, _Kind(SMALL_BYTES, SMALL_UPLOADS, AT_ONCE))


@dataclass(frozen=True)
class _Kind:
    """Uploads of bytes each, as many, so many of them at once."""

    size: int
    uploads: int
    at_once: int


def _many(folder: Path, places: Places, rounds: int, kind: _Kind) -> None:
    size, uploads, at_once = kind.size, kind.uploads, kind.at_once
    content = _content(size)
    title = f"{uploads} uploads of {size / MB:g} MB, {at_once} at once, row durable"
    seen: dict[str, list[Figure]] = {}
    slowest: list[float] = []
    with (
        _contenders.earmark(folder, places) as ours,
        _contenders.naive(folder, places) as theirs,
        _contenders.bare(folder, places) as least,
        _contenders.discard(folder, places) as nothing,
        _peers(folder, places) as peers,
        _client(places),
    ):
        for _ in _counted(rounds, title):
            for contender in (ours, theirs, least, nothing, *peers):
                _settle()
                before = contender.cpu_seconds()
                answers = contender.upload_many(content, uploads=uploads, at_once=at_once)
                figure = Figure(answers.seconds, contender.cpu_seconds() - before)
                _note(seen, contender.name, figure)
                contender.forget(answers.ids)
                if contender is ours:
                    slowest.append(statistics.quantiles(answers.each, n=100)[98])
            _settle()
            _note(seen, "serial write+fsync", _serial(folder, content, uploads, places))
    _table(title, seen, size * uploads, uploads)
    _ratio(seen, "of naive", "naive", "earmark")
    _ratio(seen, "of serial write and fsync", "serial write+fsync", "earmark")
    _ratio(seen, "of naive", "naive", "bare promise")
    _ratio(seen, "of serial write and fsync", "serial write+fsync", "bare promise")
    for other in ("naive", "bare promise"):
        used = zip(seen[other], seen["earmark"], strict=True)
        ratios = [their.cpu_seconds / our.cpu_seconds for their, our in used]
        _tell(f"earmark: processor time of {other} over its own", ratios)
    print(f"p99 of one upload: {statistics.median(slowest) * 1000:.0f} ms")


def two_processes(folder: Path, _places: Places, asked: argparse.Namespace) -> None:
    """What a second web process brings. Server and client share all processors here."""
    content, places = _content(SMALL_BYTES), Places.shared()
    seen: dict[str, list[Figure]] = {}
    slowest: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        made = tempfile.TemporaryDirectory(prefix="earmark-bench-", dir=TMPFS)
        memory = stack.enter_context(made)
        contenders: dict[str, Contender] = {}
        for number in (1, 2):
            for kind, place in (("disk", folder), ("tmpfs", Path(memory))):
                own = place / str(number)
                own.mkdir()
                started = _contenders.earmark(own, places, processes=number)
                contenders[f"earmark, {kind}, {number}"] = stack.enter_context(started)
            own = folder / f"discard-{number}"
            own.mkdir()
            started = _contenders.discard(own, places, processes=number)
            contenders[f"discard, {number}"] = stack.enter_context(started)
        stack.enter_context(_client(places))
        for _ in _counted(asked.rounds, "one and two web processes"):
            for name, contender in contenders.items():
                _settle()
                answers = contender.upload_many(content, uploads=SMALL_UPLOADS, at_once=AT_ONCE)
                _note(seen, name, Figure(answers.seconds))
                slowest.setdefault(name, []).append(statistics.quantiles(answers.each, n=100)[98])
                contender.forget(answers.ids)
    _table("One and two web processes, 0.1 MB", seen, SMALL_BYTES * SMALL_UPLOADS, SMALL_UPLOADS)
    for name in ("discard", "earmark, disk", "earmark, tmpfs"):
        _ratio(seen, f"gained by the second ({name})", f"{name}, 1", f"{name}, 2")
    for name, values in slowest.items():
        print(f"p99 of one upload, {name}: {statistics.median(values) * 1000:.0f} ms")


def reading(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    """A gigabyte given back, against one constant buffer and against the kernel alone."""
    size = _fitting(folder, asked.size, copies=3)
    source = _recording(size)
    copy = folder / "copy"
    seen: dict[str, list[Figure]] = {}
    try:
        shutil.copyfile(source, copy)
        with (
            _contenders.earmark(folder, places) as ours,
            _contenders.discard(folder, places) as nothing,
            _contenders.sendfile(folder, places, copy) as least,
            _client(places),
        ):
            with source.open("rb") as content, _connected(ours) as connection:
                id_ = connection.upload(content, size)
            paths = {
                ours: f"/v1/interactions/{id_}/media",
                nothing: f"/?{size}",
                least: "/",
            }
            for _ in _counted(asked.rounds, "reading"):
                for contender, path in paths.items():
                    with _connected(contender) as connection:
                        before, began = contender.cpu_seconds(), time.perf_counter()
                        received = connection.download(path)
                        took = time.perf_counter() - began
                    assert received == size
                    name = "constant buffer" if contender is nothing else contender.name
                    _note(seen, name, Figure(took, contender.cpu_seconds() - before))
    finally:
        source.unlink()
    _table(f"GET of {size / GB:g} GB", seen, size)
    _ratio(seen, "of the constant buffer", "constant buffer", "earmark")
    _ratio(seen, "of the constant buffer", "constant buffer", "sendfile alone")
    _ratio(seen, "of sendfile alone", "sendfile alone", "earmark")


def _connected(contender: Contender) -> contextlib.closing[Connection]:
    return contextlib.closing(contender.connect())


def _upload_one(contender: Contender, source: Path, size: int) -> Figure:
    _settle()
    with (
        source.open("rb") as content,
        _connected(contender) as connection,
    ):
        before, began = contender.cpu_seconds(), time.perf_counter()
        id_ = contender.send(connection, content, size)
        figure = Figure(time.perf_counter() - began, contender.cpu_seconds() - before)
    contender.forget([id_])
    return figure


def _dd(source: Path, folder: Path, places: Places) -> Figure:
    _settle()
    target = folder / "dd"
    command = ["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync", "status=none"]
    figure = _timed(places.command(*command))
    target.unlink()
    return figure


def _hash(source: Path, places: Places) -> Figure:
    script = (
        "import hashlib, sys\nwith open(sys.argv[1], 'rb') as f: hashlib.file_digest(f, 'sha256')"
    )
    return _timed(places.command(sys.executable, "-c", script, str(source)))


def _timed(command: list[str]) -> Figure:
    began = time.perf_counter()
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    cpu = after.children_user - before.children_user
    cpu += after.children_system - before.children_system
    return Figure(time.perf_counter() - began, cpu)


def _serial(folder: Path, content: bytes, count: int, places: Places) -> Figure:
    """One thread that writes and syncs one file after the other, and their folder once each."""
    place = folder / "serial"
    place.mkdir()
    script = """
import os, sys, time
place, content, count = sys.argv[1], open(sys.argv[2], "rb").read(), int(sys.argv[3])
began = time.perf_counter()
for number in range(count):
    one = os.open(f"{place}/{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(one, content)
    os.fsync(one)
    os.close(one)
print(time.perf_counter() - began)
"""
    source = folder / "serial-content"
    source.write_bytes(content)
    command = places.command(sys.executable, "-c", script, str(place), str(source), str(count))
    seconds = float(subprocess.run(command, check=True, capture_output=True).stdout)
    shutil.rmtree(place)
    source.unlink()
    return Figure(seconds)


def _settle() -> None:
    """Nothing of one contender's bytes is left for the next one to wait for."""
    os.sync()


@contextlib.contextmanager
def _client(places: Places) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    places.settle()
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _peers(folder: Path, places: Places) -> Iterator[list[Contender]]:
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(peer(folder, places)) for peer in PEERS]
        yield [one for one in started if one is not None]


def _counted(rounds: int, title: str) -> Iterator[int]:
    for number in range(rounds):
        print(f"{title}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        yield number


def _recording(size: int) -> Path:
    """A recording of noise in memory, from which it costs nothing to read."""
    descriptor, name = tempfile.mkstemp(prefix="earmark-bench-", dir=TMPFS)
    with os.fdopen(descriptor, "wb") as file:
        file.write(WAV_HEAD)
        left = size - len(WAV_HEAD)
        block = os.urandom(16 * MB)
        while left:
            left -= file.write(block[: min(left, len(block))])
    return Path(name)


def _content(size: int) -> bytes:
    return WAV_HEAD + os.urandom(size - len(WAV_HEAD))


def _fitting(folder: Path, size: int, copies: int) -> int:
    """The size, or what the disk has room for, said loudly."""
    free = shutil.disk_usage(folder).free
    fits = min(size, int(free * 0.8) // copies)
    if fits < size:
        print(f"SCALED DOWN: {free / GB:.1f} GB are free in {folder}; {fits / GB:.2f} GB a file.")
    return fits


def _note(seen: dict[str, list[Figure]], name: str, figure: Figure) -> None:
    seen.setdefault(name, []).append(figure)


def _table(title: str, seen: dict[str, list[Figure]], size: int, uploads: int = 1) -> None:
    print(f"\n## {title}\n")
    print("| | seconds, median | least | most | MB/s | uploads/s | processor seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, figures in seen.items():
        times = [figure.seconds for figure in figures]
        middle_one = statistics.median(times)
        cpu = statistics.median(figure.cpu_seconds for figure in figures)
        print(
            f"| {name} | {middle_one:.2f} | {min(times):.2f} | {max(times):.2f} "
            f"| {size / middle_one / MB:.0f} | {uploads / middle_one:.0f} "
            f"| {f'{cpu:.2f}' if cpu else ''} |"
        )
    print(flush=True)


def _ratio(seen: dict[str, list[Figure]], what: str, over: str, under: str) -> None:
    """How many times as fast the second is as the first, round by round."""
    pairs = zip(seen[over], seen[under], strict=True)
    _tell(f"{under}: {what}", [one.seconds / other.seconds for one, other in pairs])


def _tell(what: str, ratios: list[float]) -> None:
    middle_one = statistics.median(ratios)
    print(f"{what}: {middle_one:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
