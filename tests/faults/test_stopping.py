"""A server that is told to stop: what is in flight ends well, nothing new begins, and it ends."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from faults.faults import Ledger, Mutant, caught, label, name_of, planted
from serving import PATIENCE_SECONDS, Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE_SECONDS = 20

IMPATIENT = Mutant(
    "a second signal kills",
    "app/supervisor.py",
    "        self._stopping = True\n",
    "        if self._stopping:\n"
    "            for child in self._children:\n"
    "                child.process.kill()\n"
    "        self._stopping = True\n",
)
OPEN_DOOR = Mutant(
    "connections are taken until the end",
    "app/supervisor.py",
    "        self._bound.close()",
    "        pass",
)


def asked_once(server: Server) -> Ledger:
    """SIGTERM with uploads in flight: they end well, new ones are refused."""
    return stopped(server, signal.SIGTERM)


def asked_twice(server: Server) -> Ledger:
    """SIGTERM twice, then SIGINT: no more than the first changes anything."""
    return stopped(server, signal.SIGTERM, signal.SIGTERM, signal.SIGINT)


def stopped(server: Server, *signals: signal.Signals) -> Ledger:
    assert server.process is not None
    ledger = Ledger(server.caller())
    names = [f"held-{number}.wav" for number in range(3)]
    with ledger.held(server.data / "storage" / "staging", *names):
        asked = time.monotonic()
        for number in signals:
            server.process.send_signal(number)
            until(lambda: refused(server.port), "refused", seconds=5)
        assert server.process.poll() is None
    assert server.process.wait(PATIENCE_SECONDS) == 0
    assert time.monotonic() - asked < GRACE_SECONDS
    assert ledger.answers == {"200": 3}, ledger.told
    assert not [*(server.data / "storage" / "staging").iterdir()]
    server.start(worker=True)
    return ledger


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.fixture(scope="module")
def server(new_server) -> Iterator[Server]:
    with serving(new_server("sqlite", shutdown_grace_seconds=GRACE_SECONDS), worker=True) as one:
        yield one


@pytest.mark.parametrize("fault", [asked_once, asked_twice], ids=label)
def test_what_is_in_flight_ends_well_and_nothing_new_begins(server, fault, record_property):
    ledger = fault(server)
    record_property("fault", (name_of(fault), ledger.told, ledger.check(), ""))


@pytest.mark.parametrize(
    ("fault", "mutant"),
    [(asked_twice, IMPATIENT), (asked_once, OPEN_DOOR)],
    ids=label,
)
def test_a_defence_that_is_off_is_seen(new_server, fault, mutant, tmp_path, record_property):
    server = new_server("sqlite", shutdown_grace_seconds=GRACE_SECONDS)
    planted(server, [mutant], tmp_path)
    with serving(server, worker=True), caught(mutant, name_of(fault), record_property):
        fault(server)
