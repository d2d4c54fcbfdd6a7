"""A clock that is set forward or back under a running server: nothing is swept, nothing stuck."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from earmark.model import new_id
from faults.faults import Ledger, Mutant, caught, name_of, planted, preloaded
from serving import Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from earmark.access import NewClient

HASTE = Mutant(
    "",  # no mutant: it sweeps twice a second, and not each five minutes
    "app/worker.py",
    "SWEEP_SECONDS = 300.0\n",
    "SWEEP_SECONDS = 0.5\n",
)
UNWATCHED = Mutant(
    "the sweeper trusts the clock",
    "app/worker_process.py",
    "    if steadiness.seconds() >= grace:",
    "    if True:",
)
LEFT_WAITING = Mutant(
    "what is due in the future waits for it",
    "pipeline/dispatcher.py",
    "        if put_off:",
    "        if False:",
)
SLEEP = """
# libfaketime fails what Python 3.11 and later sleep with where the steady clock is left alone.
import select, time
time.sleep = lambda seconds: select.select([], [], [], max(0, seconds))
"""


@dataclass
class Clock:
    """The clock of all processes of a server, as far as they ask for the time of day.

    The steady clock and the times of files are the machine's: as after a real jump.
    """

    file: Path

    def set(self, hours: int) -> None:
        """Sets it so far beside the machine's."""
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{hours:+d}h\n")
        beside.rename(self.file)


@contextlib.contextmanager
def clocked(
    server: Server, folder: Path, hours: int, *mutants: Mutant
) -> Iterator[tuple[Server, Clock]]:
    clock = Clock(folder / "clock")
    clock.set(hours)
    variables = (
        f"FAKETIME_TIMESTAMP_FILE={clock.file}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    )
    planted(server, [HASTE, *mutants], folder)
    (folder / "mutant" / "sitecustomize.py").write_text(SLEEP)
    server.program = (*preloaded("libfaketimeMT.so.1"), *variables, *server.program)
    with serving(server, worker=True):
        yield server, clock
        if mutants:
            server.kill()


def forward(server: Server, clock: Clock) -> Ledger:
    """Clock set forward: two hours, while uploads are staged and one waits to be committed."""
    client = server.create_client()
    ledger = Ledger(server.sign_in(client.client.id, client.secret))
    storage = server.data / "storage"
    before = len(objects(storage))
    with ledger.held(storage / "staging", "staged.wav"):
        locker = sqlite3.connect(server.data / "earmark.sqlite3", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")  # so that bytes are published, and their row has to wait
        waiting = threading.Thread(target=ledger.upload, args=("published.wav",))
        waiting.start()
        until(lambda: len(objects(storage)) == before + 1, "published")
        orphan = storage / "objects" / "00" / f"{str(new_id())[:-2]}00"
        orphan.write_bytes(b"nobody's")
        clock.set(hours=2)
        with contextlib.suppress(AssertionError):  # unless nothing is swept
            until(lambda: not orphan.exists(), "swept", seconds=3)
            until(lambda: len(objects(storage)) <= before, "all of it swept", seconds=3)
        assert len(objects(storage)) >= before + 1, "what waits for its row is where it was"
        locker.close()
        waiting.join()
    assert ledger.caller.http.get("/v1/interactions").status_code == 401, "its token has expired"
    return after(server, ledger, client)


def back(server: Server, clock: Clock) -> Ledger:
    """Clock set back: two hours, when uploads were staged, and received but not processed."""
    client = server.create_client()
    ledger = Ledger(server.sign_in(client.client.id, client.secret))
    (worker,) = server.children("worker")
    # To its first sweep, which may be late, files would be two hours old: their times are real.
    os.kill(worker, signal.SIGSTOP)
    with ledger.held(server.data / "storage" / "staging", "staged.wav"):
        assert ledger.upload("received.wav") == 200
        clock.set(hours=0)
        os.kill(worker, signal.SIGCONT)
    return after(server, ledger, client)


def after(server: Server, ledger: Ledger, client: NewClient) -> Ledger:
    """What a caller does then: it gets a new token and goes on."""
    assert ledger.answers == {"200": 2}, ledger.told
    ledger.caller = server.sign_in(client.client.id, client.secret)
    assert ledger.upload("after.wav") == 200
    until(lambda: server.ready(worker=True), "ready, and its worker alive", seconds=30)
    return ledger


def objects(storage: Path) -> list[Path]:
    return [*(storage / "objects").glob("*/*")]


FAULTS = [(forward, 0), (back, 2)]


@pytest.mark.parametrize(("fault", "hours"), FAULTS, ids=["forward", "back"])
def test_nothing_is_swept_and_nothing_stuck(new_server, fault, hours, tmp_path, record_property):
    with clocked(new_server("sqlite", orphan_grace_seconds=60), tmp_path, hours) as (
        server,
        clock,
    ):
        ledger = fault(server, clock)
        record_property("fault", (name_of(fault), ledger.told, ledger.check(), ""))


@pytest.mark.parametrize(
    ("fault", "hours", "mutant"),
    [(forward, 0, UNWATCHED), (back, 2, LEFT_WAITING)],
    ids=["forward", "back"],
)
def test_a_defence_that_is_off_is_seen(request, fault, hours, mutant, tmp_path):
    server = request.getfixturevalue("new_server")("sqlite", orphan_grace_seconds=60)
    record_property = request.getfixturevalue("record_property")
    with (
        clocked(server, tmp_path, hours, mutant) as (started, clock),
        caught(mutant, name_of(fault), record_property),
    ):
        ledger = fault(started, clock)
        ledger.patience_seconds = 8
        ledger.check()
