"""A worker that dies in the middle of a step: it goes on after, and nothing stays `processing`."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from faults.faults import MEBIBYTE, Ledger, Mutant, caught, label, name_of, planted, recording
from serving import Server, descendants, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 40 * MEBIBYTE
"""Of a recording that takes a second or more to decode."""

NOBODY_RESTARTS = Mutant(
    "what dies stays dead",
    "app/supervisor.py",
    "        if child.process is None and moment >= child.start_after:",
    "        if child.process is None and not child.start_after:",
)


def worker_killed(server: Server) -> Ledger:
    """Worker killed in the middle of a step: begun again by the next one."""
    return killed(server, lambda worker: [worker])


def decoder_killed(server: Server) -> Ledger:
    """Decoder killed in the middle of a step: begun again by the same worker."""
    return killed(server, descendants)


def killed(server: Server, whom: Callable[[int], list[int]]) -> Ledger:
    ledger = Ledger(server.caller())
    assert ledger.upload("before.wav") == 200
    ledger.check()  # from now on its only children are those that decode
    (worker,) = server.children("worker")
    assert ledger.upload("long.wav", recording(LONG)) == 200
    until(lambda: descendants(worker), "in a step")
    for pid in whom(worker):
        os.kill(pid, signal.SIGKILL)
    for number in range(3):
        assert ledger.upload(f"other-{number}.wav") == 200
    return ledger


@pytest.fixture(scope="module")
def server(new_server) -> Iterator[Server]:
    with serving(new_server("sqlite"), worker=True) as one:
        yield one


@pytest.mark.parametrize("fault", [worker_killed, decoder_killed], ids=label)
def test_a_step_whose_process_is_killed_is_done_all_the_same(server, fault, record_property):
    ledger = fault(server)
    kept = ledger.check()
    (step, *_) = ledger.caller.record(ledger.kept["long.wav"])["steps"]
    assert step["attempts"] == 2
    record_property("fault", (name_of(fault), ledger.told, kept, ""))


@pytest.mark.parametrize(
    ("fault", "mutant"),
    [(worker_killed, NOBODY_RESTARTS)],
    ids=label,
)
def test_a_defence_that_is_off_is_seen(new_server, fault, mutant, tmp_path, record_property):
    server = new_server("sqlite")
    planted(server, [mutant], tmp_path)
    with serving(server, worker=True), caught(mutant, name_of(fault), record_property):
        ledger = fault(server)
        ledger.patience_seconds = 5
        ledger.check()
