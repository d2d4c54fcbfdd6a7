"""Web processes, each killed as it is about to enter a system call, and what then is left."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

from faults.ledger import listed, orphans, unswept
from faults.media import media
from faults.tracing import killing, threads, traced
from serving import PATIENCE_SECONDS, alive, until

if TYPE_CHECKING:
    from pathlib import Path

    from faults.copies import Copies
    from faults.ledger import Ledger
    from faults.tracing import Call
    from serving import Caller

ATTEMPTS = 3
"""At a call that did not come: how many pages a commit writes, or who waits for whom, differs."""

COMES_SECONDS = 1
"""Until a call that has not come before the answer is given up."""

ANSWERED = "fileSizeKb"
"""Stands in what a caller gets, and in nothing else that is written."""


class Windows:
    """One server after the other, each killed at a call."""

    def __init__(self, server: Copies, ledger: Ledger, *, size_bytes: int = 20_000) -> None:
        self.ledger = ledger
        self._size_bytes = size_bytes
        self._server = server
        self._dice = random.Random(1)
        self._caller: Caller = server.start().caller()
        assert self.ledger.breaches(self._caller) == []
        self._warm_up()
        self._threads = len(threads(server.web))

    def find(self, into: Path) -> list[Call]:
        """The calls of an upload, from the one that makes its file to the end of its answer."""
        with traced(self._server.web, into) as calls:
            assert self._upload()
            name = [*self.ledger.contents][-1]
            until(lambda: name in listed(self._caller), "what comes too late has come")
        first = next(n for n, call in enumerate(calls) if "/staging/" in call.text)
        last = next(n for n, call in enumerate(calls) if ANSWERED in call.text)
        return calls[first : max(first, last) + 1]

    def kill_at(self, call: Call) -> bool:
        """Whether that call came, before the answer or right after it."""
        for _ in range(ATTEMPTS):
            self._begin_anew()
            with killing(self._server.web, call):
                seconds = COMES_SECONDS if self._upload() else PATIENCE_SECONDS
                if ended(self._server.web, seconds):
                    self.ledger.counts["windows"] += 1
                    return True
        return False

    def breaches(self, *, whole: bool = False) -> list[str]:
        """What the web process that follows the killed one breaks: of the last uploads, or all."""
        self._server.kill()
        self._server.start()
        names = [] if whole else [*self.ledger.contents][-2:]
        return self.ledger.breaches(self._caller, names)

    def process(self, *, whole: bool) -> None:
        """Has a worker sweep what was left, and process everything if it may take long."""
        self.ledger.counts["orphans"] += len(orphans(self._server))
        assert unswept(self._server) == []
        if whole:
            assert self.ledger.unprocessed(self._caller) == []

    def _begin_anew(self) -> None:
        """Gets a process that has done what each one does before its call."""
        self._warm_up()
        while len(threads(self._server.web)) != self._threads:
            self._server.kill()
            self._server.start()
            self._warm_up()

    def _warm_up(self) -> None:
        listed(self._caller)
        assert self._upload()

    def _upload(self) -> bool:
        name = f"{len(self.ledger.contents)}.wav"
        content = media(name, self._dice, self._size_bytes)
        answer = self.ledger.upload(self._caller.http, name, content)
        return answer is not None and answer.status_code == 200


def ended(pid: int, seconds: float) -> bool:
    """Whether a process ends within that time."""
    with contextlib.suppress(AssertionError):
        until(lambda: not alive(pid), "ended", seconds)
    return not alive(pid)
