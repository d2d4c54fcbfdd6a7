"""One recording through a real server and its worker, watched from outside."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from serving import Server, descendants, serving  # noqa: E402 - the tests' own

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS = 0.5
_KIB = 1 << 10
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Watched:
    """What was seen.

    Attributes:
        seconds: from the 200 to the end of processing.
        cpu_seconds: of the worker and its children.
        worker_bytes: the most resident memory that the worker had.
        child_bytes: the most that one of its children had, which decode.
        together_bytes: the most that all of them had at one moment at which we looked.
        progress: the values that the step told, in order, each once.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    worker_bytes: int = 0
    child_bytes: int = 0
    together_bytes: int = 0
    progress: tuple[float, ...] = ()


def watch(
    recording: Path,
    folder: Path,
    *,
    models: Path,
    threads: int = 0,
    tell: Callable[[float], object] = lambda _: None,
) -> Watched:
    """Uploads a recording and watches the worker until it is transcribed."""
    server = Server(
        folder / "data",
        settings={"speech_engine": "local", "models": str(models), "speech_threads": threads},
    )
    with serving(server, worker=True):
        (worker,) = server.children("worker")
        caller = server.caller()
        before = _cpu(worker)
        began = time.monotonic()
        answer = caller.upload("call.wav", recording.read_bytes())
        assert answer.status_code == 200, answer.text
        seen, record = Watched(), caller.record(answer.json()["id"])
        while record["status"] == "processing":
            _look(worker, record, seen, tell)
            time.sleep(LOOK_SECONDS)
            record = caller.record(record["id"])
        _look(worker, record, seen, tell)
        seen.seconds, seen.cpu_seconds = time.monotonic() - began, _cpu(worker) - before
        assert record["status"] == "ready", record["steps"]
        assert record["transcript"]["word_count"], record
        return seen


def _look(
    worker: int, record: dict[str, Any], seen: Watched, tell: Callable[[float], object]
) -> None:
    children = descendants(worker)
    now = sum(_bytes(pid, "VmRSS") for pid in [worker, *children])
    seen.together_bytes = max(seen.together_bytes, now)
    seen.worker_bytes = max(seen.worker_bytes, _bytes(worker, "VmHWM"))
    seen.child_bytes = max([seen.child_bytes, *(_bytes(child, "VmHWM") for child in children)])
    for step in record["steps"]:
        progress = step["progress"] if step["name"] == "transcribe" else None
        if progress is not None and progress not in seen.progress:
            seen.progress += (progress,)
            tell(progress)


def _bytes(pid: int, field: str) -> int:
    """Resident memory of a process: VmRSS now, VmHWM at most so far; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * _KIB
    return 0


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS
