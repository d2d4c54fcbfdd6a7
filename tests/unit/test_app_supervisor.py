"""How child processes are looked after; commands stand for them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from earmark.app import supervisor
from earmark.app.supervisor import Child, Supervisor
from serving import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
IGNORE = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(60)
"""
STUBBORN = [sys.executable, "-S", "-c", IGNORE]


class Command:
    """A command as a process that a supervisor looks after."""

    def __init__(self, words: Sequence[str]) -> None:
        self.process = subprocess.Popen(words)
        self.terminate, self.kill = self.process.terminate, self.process.kill

    @property
    def exitcode(self) -> int | None:
        return self.process.poll()

    def join(self, timeout: float | None = None) -> None:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return


@pytest.fixture
def handlers() -> Iterator[None]:
    """Leaves the signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make(handlers) -> Iterator[Any]:
    """Makes supervisors of commands, with one second of grace."""
    made = []

    def supervise(*commands: Sequence[str]) -> Supervisor:
        words = {str(number): command for number, command in enumerate(commands)}
        children = [Child(name, lambda: None) for name in words]
        one = Supervisor(
            children,
            socket.create_server(("127.0.0.1", 0)),
            start=lambda name, _main: Command(words[name]),
            grace_seconds=1,
        )
        made.append(one)
        return one

    yield supervise
    for one in made:
        one._bound.close()


def test_a_process_that_keeps_dying_is_started_ever_more_slowly(make, monkeypatch):
    looking = make([sys.executable, "-S", "-c", "raise SystemExit(3)"])
    (child,) = looking._children
    clock = 1000.0
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: clock)
    waits = []
    for _ in range(9):
        looking._keep_alive(child)
        child.process.join()
        assert child.process.exitcode == 3
        looking._keep_alive(child)
        waits.append(child.start_after - clock)
        looking._keep_alive(child)
        assert child.process is None  # not before its time
        clock = child.start_after
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    looking._keep_alive(child)
    child.process.join()
    clock += supervisor.YOUNG_SECONDS
    looking._keep_alive(child)
    assert child.start_after - clock == supervisor.FIRST_WAIT_SECONDS


def test_a_process_that_runs_is_left_alone(make):
    looking = make(SLEEP)
    (child,) = looking._children
    looking._keep_alive(child)
    process = child.process
    looking._keep_alive(child)
    assert child.process is process
    looking._end_all()
    assert process.exitcode == -signal.SIGTERM


def test_the_end_of_a_process_is_told_before_it_is_started_again(make):
    looking = make([sys.executable, "-S", "-c", ""], SLEEP)
    ended: list[tuple[str, Any]] = []
    dying, living = looking._children
    looking._on_end = lambda name: ended.append((name, dying.process))
    for child in (dying, living):
        looking._keep_alive(child)
    dying.process.join()
    process = dying.process
    for child in (dying, living):
        looking._keep_alive(child)
    assert ended == [("0", process)]
    assert dying.process is None
    looking._end_all()


def test_it_stops_on_a_signal_and_frees_the_port_first(make):
    looking = make(SLEEP, SLEEP)
    running: list[Any] = []

    def stop() -> None:
        until(lambda: all(child.process for child in looking._children), "started")
        running.extend(child.process for child in looking._children)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    looking.run()
    stopper.join()
    assert [process.exitcode for process in running] == [-signal.SIGTERM] * 2
    assert looking._bound.fileno() == -1


def test_who_does_not_end_in_time_is_killed(make, monkeypatch, tmp_path):
    monkeypatch.setattr(supervisor, "AFTER_GRACE_SECONDS", 0)
    looking = make([*STUBBORN, str(tmp_path / "up")])
    (child,) = looking._children
    looking._keep_alive(child)
    until((tmp_path / "up").exists, "up")
    asked = time.monotonic()
    looking._end_all()
    assert child.process.exitcode == -signal.SIGKILL
    assert 1 <= time.monotonic() - asked < 5
