"""System calls of a running process: seen in their order, and one of them never entered.

Source: strace(1), -p and "Tampering"; the threads of a process are in /proc/PID/task.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LINE = re.compile(r"(?P<thread>\d+) +(?P<rest>.*)")
_ENTERED = re.compile(r"(?P<name>\w+)\((?P<text>.*)")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<text>.*)")
_UNFINISHED = " <unfinished ...>"
SHOWN_BYTES = 4096
"""Of what is read or written: a whole page of SQLite."""


@dataclass(slots=True)
class Call:
    """One system call.

    Attributes:
        thread: which thread of the process made it, in the order in which they were begun.
        number: how many of this name the thread had made, itself included.
        text: arguments and result, as strace writes them.
        began, ended: where in the trace; what ended before another began happened before it.
    """

    thread: int
    name: str
    number: int
    text: str = ""
    began: int = 0
    ended: int = 0

    def __str__(self) -> str:
        return f"{self.name}({self.text}"


@contextlib.contextmanager
def traced(pid: int, into: Path) -> Iterator[list[Call]]:
    """The system calls that all threads of a process make while the block runs, after it."""
    calls: list[Call] = []
    ids = threads(pid)
    # Sockets are told by their addresses.
    with _attached(["-f", "-yy", "-s", str(SHOWN_BYTES), "-o", str(into), "-p", str(pid)]):
        yield calls
    calls += _parsed(into.read_text().splitlines(), ids)


@contextlib.contextmanager
def killing(pid: int, call: Call) -> Iterator[None]:
    """While the block runs, the process is killed as it is about to enter that call."""
    injected = f"inject={call.name}:signal=KILL:when={call.number}"
    thread = threads(pid)[call.thread]
    with _attached(["-e", f"trace={call.name}", "-e", injected, "-o", os.devnull, "-p", thread]):
        yield


def threads(pid: int) -> list[str]:
    """The ids of a process's threads, the oldest first."""
    return sorted((path.name for path in Path(f"/proc/{pid}/task").iterdir()), key=int)


@contextlib.contextmanager
def _attached(arguments: Sequence[str]) -> Iterator[None]:
    tracer = subprocess.Popen(["strace", *arguments], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr
    try:
        said = tracer.stderr.readline()
        assert "attached" in said, said
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # it leaves, and what it traced goes on
        tracer.communicate(timeout=PATIENCE_SECONDS)


def _parsed(lines: Sequence[str], ids: Sequence[str]) -> list[Call]:
    calls: list[Call] = []
    known = list(ids)
    counts: dict[tuple[int, str], int] = {}
    unfinished: dict[int, Call] = {}
    for place, line in enumerate(lines):
        split = _LINE.fullmatch(line)
        assert split, line
        if split["thread"] not in known:
            known.append(split["thread"])
        thread = known.index(split["thread"])
        if found := _ENTERED.fullmatch(split["rest"]):
            key = thread, found["name"]
            counts[key] = counts.get(key, 0) + 1
            call = Call(*key, counts[key], found["text"], place, place)
            calls.append(call)
            if call.text.endswith(_UNFINISHED):
                call.text, call.ended = call.text.removesuffix(_UNFINISHED), len(lines)
                unfinished[thread] = call
        elif (found := _RESUMED.fullmatch(split["rest"])) and thread in unfinished:
            call = unfinished.pop(thread)
            call.text, call.ended = call.text + found["text"], place
    return calls


def need_strace() -> None:
    """Skips a test, loudly, where system calls cannot be seen."""
    if not shutil.which("strace"):
        pytest.skip("NOT SHOWN: strace is not installed")
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            with _attached(["-o", os.devnull, "-p", str(child.pid)]):
                pass
        except AssertionError as error:
            pytest.skip(f"NOT SHOWN: strace may not trace here: {error}")
        finally:
            child.kill()
