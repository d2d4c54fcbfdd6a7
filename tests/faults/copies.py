"""The service's own processes, each started in a tenth of a second, as a copy of one that has
loaded everything.

`earmark serve` does the same with its children, but takes a second or two before the first one
serves, most of it for imports; here they are done once, and a web process that was killed has a
successor at once. What runs in a copy is `serve_web` or `work`, with nothing replaced.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from serving import Server, alive, descendants, until

ORIGINAL = Path(__file__).with_name("original.py")


@dataclass
class Copies(Server):
    """A server whose web process and worker are started one by one, when they are asked for.

    Attributes:
        source: the folder of the package that is served, if not that of this test run.
        intake_threads: of a web process; with one, each system call of an upload has its number.
        made_from: the process of which they are copies.
        web: the web process.
    """

    source: Path | None = None
    intake_threads: int = 0
    made_from: subprocess.Popen[str] | None = None
    web: int = 0

    @override
    def start(self, *, worker: bool = False) -> Copies:
        """Starts a web process and waits until it takes uploads, and a worker as `serve` would."""
        self.web = self.begin("web")
        if worker or "--no-worker" not in self.arguments:
            self.begin("worker")
        until(lambda: self.get("/health/live"), f"answers; {self.log}")
        return self

    def begin(self, kind: str) -> int:
        """Starts a process "web", "worker" or "sweeper"; its id."""
        if self.made_from is None:
            self.made_from = self._load()
        assert self.made_from.stdin
        assert self.made_from.stdout
        self.made_from.stdin.write(f"{kind}\n")
        self.made_from.stdin.flush()
        told = self.made_from.stdout.readline()
        assert told, self.log.read_text()
        return int(told)

    @override
    def kill(self) -> None:
        """Kills the processes that were started, all at once."""
        if self.made_from is None:
            return
        made_from = self.made_from.pid
        family = descendants(made_from)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(map(alive, family)), "killed")
        # One whose first thread is dead may have others that hold its files for a moment.
        until(lambda: not descendants(made_from), "gone")

    def end(self) -> None:
        """Kills everything."""
        for http in self.opened:
            http.close()
        if self.made_from is not None:
            self.kill()
            self.made_from.kill()
            self.made_from.communicate()

    def _load(self) -> subprocess.Popen[str]:
        environment = self.environment
        if self.source is not None:
            environment["PYTHONPATH"] = str(self.source.parent)
        with self.log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, str(ORIGINAL), str(self.port), str(self.intake_threads)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
