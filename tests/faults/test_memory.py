"""The kernel ends a process because its control group has no memory left: nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.faults import MEBIBYTE, Ledger, caught, label, name_of, planted, recording
from faults.groups import Group, group
from faults.test_worker_faults import LONG, NOBODY_RESTARTS
from serving import Server, descendants, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

SPARE_BYTES = 128 * MEBIBYTE
"""Beyond what a server takes when it has begun: enough for what is asked of it here."""


def web_ended(server: Server, limited: Group) -> Ledger:
    """No memory in the group, web process ended: what is in flight ends, and is taken after."""
    return ended(server, limited, "web")


def worker_ended(server: Server, limited: Group) -> Ledger:
    """No memory in the group, worker ended: its step is begun again."""
    return ended(server, limited, "worker")


def ended(server: Server, limited: Group, kind: str) -> Ledger:
    ledger = Ledger(server.caller(), lost_allowed=kind == "web")
    assert ledger.upload("before.wav") == 200
    ledger.check()  # from now on the worker's only children are those that decode
    limited.limit(SPARE_BYTES)
    before = limited.kills()
    (victim,), (worker,) = server.children(kind), server.children("worker")
    with ledger.held(server.data / "storage" / "staging", "held-0.wav", "held-1.wav"):
        assert ledger.upload("long.wav", recording(LONG)) == 200
        until(lambda: descendants(worker), "in a step")
        limited.exhaust(victim)
    assert limited.kills() > before
    return ledger


@pytest.fixture
def limited() -> Iterator[Group]:
    with group() as made:
        yield made


@pytest.mark.parametrize("fault", [web_ended, worker_ended], ids=label)
def test_what_the_kernel_ends_for_want_of_memory_begins_again(
    new_server, limited, fault, record_property
):
    server = new_server("sqlite")
    server.program = limited.program
    with serving(server, worker=True):
        ledger = fault(server, limited)
        ledger.complete()
        kept = ledger.check()
        assert {*ledger.kept} == {"before.wav", "held-0.wav", "held-1.wav", "long.wav"}
        listed = ledger.caller.http.get("/v1/interactions", params={"status": "processing"})
        assert listed.json()["items"] == []
        assert "process died" in server.log.read_text()
        assert server.process.poll() is None
    record_property("fault", (name_of(fault), ledger.told, kept, ""))


def test_a_defence_that_is_off_is_seen(new_server, limited, tmp_path, record_property):
    server = new_server("sqlite")
    server.program = limited.program
    planted(server, [NOBODY_RESTARTS], tmp_path)
    noted = caught(NOBODY_RESTARTS, name_of(worker_ended), record_property)
    with serving(server, worker=True), noted:
        ledger = worker_ended(server, limited)
        ledger.patience_seconds = 5
        ledger.check()
