"""What was acknowledged survives a power loss at any instant.

Uploads are on their way when the disk stops writing, everything that was not synced by then is
gone, and a new server finds the rest. On PostgreSQL the recordings alone are on that disk: so
nothing that the database syncs makes a recording durable by the way, which on one disk it does.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from faults import mutants
from faults.ledger import Ledger, orphans, unswept
from faults.media import media
from faults.power import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from faults.copies import Copies
    from faults.power import Disk

ROUNDS, THOROUGH_ROUNDS = 3, 50
UPLOADERS = 3
LONGEST_SECONDS = 0.6
LARGEST_BYTES = 60_000

MUTANT_ROUNDS = 20
"""At most; one is enough as a rule."""


@pytest.fixture
def new_powered(
    new_copies: Callable[..., Copies], tmp_path: Path
) -> Iterator[Callable[..., Powered]]:
    """Makes a server whose data folder is on a disk of its own."""
    made: list[Powered] = []
    with disk(tmp_path) as own:

        def make(kind: str, **facts: object) -> Powered:
            server = new_copies(kind, arguments=("--no-worker",), **facts)
            if server.data.exists():
                shutil.copytree(server.data, own.folder, dirs_exist_ok=True)
            server.data = own.folder
            made.append(Powered(server, own))
            return made[-1]

        yield make
        for powered in made:
            powered.server.end()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_after_a_power_loss_every_promise_holds(
    kind: str, new_powered: Callable[..., Powered], ledger: Ledger, thorough: bool
) -> None:
    ledger.what = f"power loss, {kind}"
    powered = new_powered(kind)
    for _ in range(THOROUGH_ROUNDS if thorough else ROUNDS):
        assert powered.round(ledger) == []
    assert powered.whole(ledger) == []
    ledger.counts["orphans"] += len(orphans(powered.server))
    assert unswept(powered.server) == []


class Powered:
    """A server on a disk that loses its power in each round."""

    def __init__(self, server: Copies, own: Disk) -> None:
        seed = random.randrange(1 << 32)
        print("seed", seed)  # shown if the test fails
        self.server = server
        self._disk = own
        self._dice = random.Random(seed)
        self._caller = server.start().caller()
        own.sync()

    def round(self, ledger: Ledger) -> list[str]:
        """Uploads until the power fails; what the server breaks that comes after."""
        known = set(ledger.contents)
        threads = [
            threading.Thread(target=self._upload, args=(ledger, f"{len(known)}-{number}"))
            for number in range(UPLOADERS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(self._dice.uniform(0.1, LONGEST_SECONDS))
        self._disk.lose_power()
        self.server.kill()
        for thread in threads:
            thread.join()
        ledger.counts["interrupted"] += len(ledger.open)
        self._disk.unmount()
        self._disk.mount()
        self.server.start()
        ledger.counts["rounds"] += 1
        return ledger.breaches(self._caller, ledger.contents.keys() - known)

    def whole(self, ledger: Ledger) -> list[str]:
        """What it breaks of all that was ever promised."""
        return ledger.breaches(self._caller)

    def _upload(self, ledger: Ledger, stem: str) -> None:
        """One upload after the other until there is no answer, or none that is a promise."""
        http, dice, number = self._caller.another(), random.Random(stem), 0
        while True:
            number += 1
            name = f"{stem}-{number}.wav"
            content = media(name, dice, dice.randrange(1000, LARGEST_BYTES))
            answer = ledger.upload(http, name, content)
            if answer is None or answer.status_code != 200:
                return


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kind", "mutant"),
    [
        ("sqlite", mutants.DATA_UNSYNCED),
        ("sqlite", mutants.COMMIT_UNSYNCED),
        ("postgresql", mutants.FOLDER_UNSYNCED),
    ],
)
def test_a_sync_left_out_is_missed(kind, mutant, new_powered, catch, tmp_path) -> None:
    powered = new_powered(kind, source=mutant.made(tmp_path / "mutant"))
    ledger, found = Ledger(), []
    for _ in range(MUTANT_ROUNDS):
        if found := powered.round(ledger):
            break
    catch(mutant, f"power loss, {kind}", f"{ledger.counts['rounds']} rounds", found)
