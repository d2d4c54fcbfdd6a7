"""A kill at each system call from the first write of an upload to its answer.

Which calls there are is found out by looking at one upload. Then, for each of them, a web process
is killed as it is about to enter it, another is started in its place, and everything is checked.
A thread is killed at its n-th call of a name, counted since strace came, so both are met in
processes that did the same before, with one thread of intake.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from faults.ledger import listed, swept
from faults.media import media
from faults.tracing import Call, killing, need_strace, threads, traced
from serving import PATIENCE_SECONDS, alive, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from faults.copies import Copies
    from faults.ledger import Ledger
    from serving import Caller

SAMPLE = 4
"""In the ordinary run: of the calls of one name by one thread."""

PASSIVE = frozenset({"futex", "epoll_pwait", "poll", "getpid", "getrandom", "statfs"})
"""Calls that only wait or ask. What differs when one is killed there differs at the next as well,
so the ordinary run leaves them out."""

ATTEMPTS = 3
"""At a call that did not come: how many pages a commit writes, or who waits for whom, differs."""

MEDIA_BYTES = 20_000


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_kill_at_any_system_call_of_an_upload_loses_nothing(
    kind: str,
    new_copies: Callable[..., Copies],
    ledger: Ledger,
    thorough: bool,
    tmp_path: Path,
) -> None:
    need_strace()
    ledger.what = f"kill at a system call, {kind}"
    windows = Windows(new_copies(kind, intake_threads=1, arguments=("--no-worker",)), ledger)
    found = windows.find(tmp_path / "trace")
    wanted = found if thorough else [*sampled(found)]
    missed = [call for call in wanted if not windows.kill_at(call)]
    assert windows.breaches() == []
    struck = [call for call in wanted if call not in missed]
    for needed in NEEDED[kind]:
        assert any(needed in f"{call.name} {call.text}" for call in struck), needed
    # All threads wait for the interpreter's lock now and then; the rest comes the same each time.
    assert not [call for call in missed if call.name not in {*PASSIVE, "pwrite64", "read"}]
    windows.process(whole=thorough)


NEEDED = {
    "sqlite": ("writev", "fsync", "rename", "pwrite64", "fdatasync", "HTTP/1.1 200"),
    "postgresql": ("writev", "fsync", "rename", "INSERT INTO", "COMMIT", "HTTP/1.1 200"),
}


class Windows:
    """One server after the other, each killed at a call."""

    def __init__(self, server: Copies, ledger: Ledger) -> None:
        self.ledger = ledger
        self._server = server
        self._dice = random.Random(1)
        self._caller: Caller = server.start().caller()
        self._warm_up()
        self._threads = len(threads(server.web))

    def find(self, into: Path) -> list[Call]:
        """The calls of an upload, from its first write to the last byte of its answer."""
        with traced(self._server.web, into) as calls:
            assert self._upload()
        first = next(n for n, call in enumerate(calls) if call.name == "writev")
        last = max(n for n, call in enumerate(calls) if _answers(call, self._server.port))
        return calls[first : last + 1]

    def kill_at(self, call: Call) -> bool:
        """Whether that call came before the answer; checks what is left of the service."""
        for _ in range(ATTEMPTS):
            self._restart()
            with killing(self._server.web, call):
                answered = self._upload()
                struck = not alive(self._server.web)
            if struck or not answered:
                until(lambda: not alive(self._server.web), "killed")
                self.ledger.counts["windows"] += 1
                return True
        return False

    def breaches(self) -> list[str]:
        """Of all that was ever promised."""
        self._restart()
        return self.ledger.breaches(self._caller)

    def process(self, *, whole: bool) -> None:
        """Has a worker sweep what was left, and process everything if it may take long."""
        self._server.begin("worker")
        assert swept(self._server, PATIENCE_SECONDS) == []
        if whole:
            assert self.ledger.unprocessed(self._caller) == []

    def _restart(self) -> None:
        """A web process that has done what each one does before its call."""
        while True:
            self._server.kill()
            self._server.start()
            assert self.ledger.breaches(self._caller, self._last()) == []
            self._warm_up()
            if len(threads(self._server.web)) == self._threads:
                return

    def _last(self) -> list[str]:
        return [*self.ledger.contents][-2:]

    def _warm_up(self) -> None:
        listed(self._caller)
        assert self._upload()

    def _upload(self) -> bool:
        name = f"{len(self.ledger.contents)}.wav"
        content = media(name, self._dice, MEDIA_BYTES)
        answer = self.ledger.upload(self._caller.http, name, content)
        return answer is not None and answer.status_code == 200


def sampled(calls: Sequence[Call]) -> Iterator[Call]:
    """Some of the calls that change something, the first and the last of each kind among them."""
    series: dict[tuple[int, str], list[Call]] = {}
    for call in calls:
        if call.name not in PASSIVE:
            series.setdefault((call.thread, call.name), []).append(call)
    for found in series.values():
        step = (len(found) - 1) / (SAMPLE - 1)
        places = sorted({round(step * place) for place in range(SAMPLE)})
        yield from (found[place] for place in places)


def _answers(call: Call, port: int) -> bool:
    """Whether it writes to a caller."""
    return call.name == "write" and f"TCP:[127.0.0.1:{port}->" in call.text
