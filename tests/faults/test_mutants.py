"""Earmark without one part of its durability: each proof notices those that it is there for.

SIGKILL cannot show a sync that was left out; the order of system calls does, and a power loss
(test_power.py).
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from faults import mutants
from faults.ledger import Ledger, orphans, unswept
from faults.media import media
from faults.order import crowded_disorder, disorder
from faults.tracing import Call, need_strace
from faults.windows import Windows
from serving import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults.copies import Copies
    from faults.mutants import Mutant

CROWDED_ROUNDS = 10
"""At most; whether uploads at once share a commit is up to chance."""

LARGE_BYTES = 30_000_000
PAUSE_SECONDS = 0.1
"""Between pieces of a body that is not to end."""

SWEEP_SECONDS = 8
"""A worker sweeps as it starts, which takes two or three."""

KEY_CALLS = {
    "sqlite": (("fsync", 1), ("rename", 1), ("fsync", 2), ("pwrite64", 1), ("fdatasync", 1)),
    "postgresql": (("fsync", 1), ("rename", 1), ("fsync", 2), ("sendto", 2), ("sendto", 4)),
}
"""At which to kill: where files and rows become what they are."""


@pytest.fixture
def new_mutant(new_copies: Callable[..., Copies], tmp_path: Path) -> Callable[..., Copies]:
    """Makes a server of a mutant."""

    def make(mutant: Mutant, kind: str, **facts: object) -> Copies:
        source = mutant.made(tmp_path / "mutant")
        return new_copies(kind, source=source, arguments=("--no-worker",), **facts)

    return make


@pytest.mark.parametrize(
    ("kind", "mutant", "said"),
    [
        ("sqlite", mutants.ACKNOWLEDGED_EARLY, "the caller is answered before"),
        ("postgresql", mutants.ACKNOWLEDGED_EARLY, "the caller is answered before"),
        ("sqlite", mutants.DATA_UNSYNCED, "never: the bytes are synced"),
        ("sqlite", mutants.FOLDER_UNSYNCED, "never: the name is synced"),
        ("sqlite", mutants.COMMIT_UNSYNCED, "never: the row is synced"),
        ("sqlite", mutants.ROW_FIRST, "the row is begun before the name is synced"),
        ("postgresql", mutants.ROW_FIRST, "the row is sent before the name is synced"),
    ],
)
def test_another_order_is_seen(kind, mutant, said, new_mutant, catch) -> None:
    need_strace()
    server = new_mutant(mutant, kind).start()
    found = disorder(server, Ledger(), server.data / "trace", size_bytes=20_000)
    catch(mutant, f"order of system calls, {kind}", "1 upload", found)
    assert any(said in one for one in found), found


@pytest.mark.parametrize("mutant", [mutants.ACKNOWLEDGED_EARLY, mutants.SHARED_COMMIT_UNAWAITED])
def test_another_order_among_uploads_at_once_is_seen(mutant, new_mutant, catch) -> None:
    need_strace()
    server, rounds, found = new_mutant(mutant, "sqlite").start(), 0, []
    while not found and rounds < CROWDED_ROUNDS:
        rounds += 1
        into = server.data / f"trace-{rounds}"
        found = crowded_disorder(server, Ledger(), into, organization=str(rounds))
    catch(mutant, "order among uploads at once, sqlite", f"{rounds} rounds", found)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("mutant", [mutants.ACKNOWLEDGED_EARLY, mutants.ROW_FIRST])
def test_a_kill_at_some_system_call_shows_it(kind, mutant, new_mutant, catch) -> None:
    need_strace()
    server = new_mutant(mutant, kind, intake_threads=1)
    windows = Windows(server, Ledger())
    thread = windows.find(server.data / "trace")[0].thread
    found: list[str] = []
    for name, number in KEY_CALLS[kind]:
        if windows.kill_at(Call(thread, name, number)) and (found := windows.breaches()):
            break
    killed = windows.ledger.counts["windows"]
    catch(mutant, f"kill at a system call, {kind}", f"{killed} windows", found)


def test_what_a_kill_leaves_is_seen_to_stay(new_mutant, catch) -> None:
    mutant, ledger = mutants.UNSWEPT, Ledger()
    server = new_mutant(mutant, "sqlite").start()
    caller = server.caller()
    content = media("left.wav", random.Random(1), LARGE_BYTES)
    sent = (caller.another(), "left.wav", content, PAUSE_SECONDS)
    sending = threading.Thread(target=ledger.upload, args=sent)
    sending.start()
    until(lambda: orphans(server), "staged")
    server.kill()
    sending.join()
    server.start()
    assert ledger.breaches(caller) == []
    found = unswept(server, SWEEP_SECONDS)
    assert ledger.unprocessed(caller) == []  # so the worker was at work
    catch(mutant, "orphans after kill -9, sqlite", "1 round", found)
