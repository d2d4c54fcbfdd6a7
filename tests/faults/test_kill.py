"""What was acknowledged survives the death of every process at any instant.

SIGKILL leaves the page cache alone: what it cannot show, test_power.py and test_order.py do.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from faults.copies import Copies
from faults.ledger import Ledger, orphans, unswept
from faults.media import media
from serving import Caller, Server, serving

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = {"upload_idle_seconds": 10}
ROUNDS, THOROUGH_ROUNDS = 10, 100
SERVE_ROUNDS, THOROUGH_SERVE_ROUNDS = 2, 20
UPLOADERS = 4
EACH = (".zip", ".wav", ".zip")

CYCLE = 5
"""Rounds, of which the last begins with a worker at work, and ends with everything processed. Not
each: an attempt that dies with its worker counts, and three are the end."""

LONGEST_SECONDS = 0.5
"""Until a kill; by then most were answered."""

LONGEST_PAUSE_SECONDS = 0.02
"""Between pieces of a body."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_after_kill_9_every_promise_holds_and_nothing_is_half_there(
    kind: str, new_copies: Callable[..., Copies], ledger: Ledger, thorough: bool
) -> None:
    ledger.what = f"kill -9 of web process and worker, {kind}"
    rounds = THOROUGH_ROUNDS if thorough else ROUNDS
    kill_again_and_again(new_copies(kind, settings=SETTINGS), ledger, rounds)
    assert ledger.counts["interrupted"] > 0, "the kills came too early or too late"


@pytest.mark.timeout(3600)
def test_after_kill_9_of_the_whole_tree_of_serve_as_well(
    new_server: Callable[..., Server], ledger: Ledger, thorough: bool
) -> None:
    ledger.what = "kill -9 of the whole tree of `earmark serve`, sqlite"
    rounds = THOROUGH_SERVE_ROUNDS if thorough else SERVE_ROUNDS
    with serving(new_server("sqlite", "--no-worker", **SETTINGS)) as server:
        server.kill()
        kill_again_and_again(server, ledger, rounds)


def kill_again_and_again(server: Server, ledger: Ledger, rounds: int) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)  # shown if the test fails
    dice = random.Random(seed)
    server.arguments = ("--no-worker",)
    caller = server.start().caller()
    for number in range(rounds):
        names = kill_while_uploading(server, caller, ledger, dice, number)
        left = (rounds - number - 1) % CYCLE
        server.arguments = () if left < 2 else ("--no-worker",)
        server.start()
        assert ledger.breaches(caller, names) == []
        ledger.counts["rounds"] += 1
        if left == 0:
            assert ledger.unprocessed(caller) == []
    assert ledger.breaches(caller) == []
    server.kill()
    sweep(server, ledger)


def kill_while_uploading(
    server: Server, caller: Caller, ledger: Ledger, dice: random.Random, number: int
) -> list[str]:
    """Returns the names of the uploads that were begun."""
    threads, names = [], []
    for uploader in range(UPLOADERS):
        mine = [f"{number}-{uploader}-{n}{kind}" for n, kind in enumerate(EACH)]
        begun = [(name, media(name, dice)) for name in mine]
        pause = dice.uniform(0, LONGEST_PAUSE_SECONDS)
        threads.append(threading.Thread(target=upload, args=(caller, ledger, begun, pause)))
        names += mine
    for thread in threads:
        thread.start()
    time.sleep(dice.uniform(0, LONGEST_SECONDS))
    server.kill()
    for thread in threads:
        thread.join()
    ledger.counts["interrupted"] += len(ledger.open)
    return names


def upload(caller: Caller, ledger: Ledger, begun: list[tuple[str, bytes]], pause: float) -> None:
    http = caller.another()
    for name, content in begun:
        if ledger.upload(http, name, content, pause) is None:
            return


def sweep(server: Server, ledger: Ledger) -> None:
    """What kills left behind is removed by a worker."""
    ledger.counts["orphans"] += len(orphans(server))
    copies = Copies(server.data, server.database_url, settings=server.settings)
    try:
        assert unswept(copies) == []
    finally:
        copies.end()
