"""Child processes that begin as copies: how they begin, how they end, and with whom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from serving import alive, until

# A process of its own is the parent: this one may have threads.
PARENT = """
import json, os, signal, sys, time
from earmark import telemetry
from earmark.app import fork
from earmark.app.lifeline import Lifeline

telemetry.configure()
lifeline = Lifeline()

def start(main):
    return fork.start("test", main, lifeline)

def status(main):
    child = start(main)
    child.join()
    return child.exitcode

def tell(**facts):
    print(json.dumps(facts), flush=True)
"""


def told(script: str) -> Any:
    """What a parent says in JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT + script],
        input="the parent's",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_its_end_is_that_of_its_main_function():
    script = """
def leave(): sys.exit(3)
def fail(): raise ValueError
tell(returns=status(lambda: None), leaves=status(leave), fails=status(fail))
"""
    assert told(script) == {"returns": 0, "leaves": 3, "fails": 1}


def test_what_it_dies_of_is_one_line_without_the_message():
    script = """
def fail(): raise ValueError(" ".join(["a", "name"]))
start(fail).join()
tell()
"""
    done = subprocess.run(
        [sys.executable, "-c", PARENT + script], capture_output=True, text=True, check=True
    )
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["event"] == "process failed"
    assert line["exception"].endswith("\nValueError")
    assert "a name" not in done.stderr


def test_it_is_asked_to_end_from_its_first_moment():
    script = """
signal.signal(signal.SIGTERM, lambda *_: None)
children = []
for _ in range(50):
    children.append(start(lambda: time.sleep(60)))
    children[-1].terminate()
give_up = time.monotonic() + 20
for child in children:
    child.join(max(0, give_up - time.monotonic()))
ends = [child.exitcode for child in children]
for child in children:
    child.kill()
tell(ends=ends)
"""
    assert told(script) == {"ends": [-signal.SIGTERM] * 50}


def test_it_has_a_name_and_a_session_of_its_own_and_nothing_to_read():
    script = """
def facts():
    tell(
        name=open("/proc/self/comm").read(),
        leads=os.getsid(0) == os.getpid(),
        reads=len(os.read(0, 1)),
        blocked=len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    )
start(facts).join()
"""
    assert told(script) == {"name": "earmark-test\n", "leads": True, "reads": 0, "blocked": 0}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_when_its_parent_is_gone(end):
    script = """
def wait():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(60)

children = [start(wait) for _ in range(3)]
tell(pids=[child.pid for child in children])
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT + script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        children = json.loads(parent.stdout.readline())["pids"]
        assert all(map(alive, children))
        os.kill(parent.pid, end)
        assert parent.wait(20) == -end
        until(lambda: not any(map(alive, children)), "ended", seconds=20)
