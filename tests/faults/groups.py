"""Control groups of their own, whose memory ends before the machine's does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving import EARMARK, alive, until

if TYPE_CHECKING:
    from collections.abc import Iterator

MEBIBYTE = 1 << 20

JOINING = ("sh", "-c", 'echo $$ > "$0" && exec "$@"')
"""A program that begins in the group of whose processes the file after it tells."""

BALLAST = """
import sys
with open("/proc/self/oom_score_adj", "w") as score:
    score.write("500")
held = []
print("ready", flush=True)
for line in sys.stdin:
    held.append(bytearray(b"x") * int(line))
    print("held", flush=True)
"""
"""Takes as much as it is told. After the victim, whose score is twice as high, it is the next that
the kernel ends: nobody else has to end before the victim has given its memory back."""

PIECE_BYTES = 4 * MEBIBYTE


@dataclass(frozen=True)
class Group:
    """A group whose memory can be limited. Source: cgroups(7), the kernel's admin-guide."""

    path: Path
    is_v2: bool

    @property
    def program(self) -> tuple[str, ...]:
        """What takes the place of the command `earmark`."""
        return (*self._joining, EARMARK)

    @property
    def _joining(self) -> tuple[str, ...]:
        return (*JOINING, str(self.path / "cgroup.procs"))

    def limit(self, spare_bytes: int) -> None:
        """Allows as much memory as is used now, and so much more; none of it on disk."""
        now = int(self._read("memory.current", "memory.usage_in_bytes"))
        self._write("memory.max", "memory.limit_in_bytes", str(now + spare_bytes))
        with contextlib.suppress(OSError):  # a kernel without swap
            both = "0" if self.is_v2 else str(now + spare_bytes)
            self._write("memory.swap.max", "memory.memsw.limit_in_bytes", both)

    def kills(self) -> int:
        """How many processes the kernel ended for want of memory."""
        told = self._read("memory.events", "memory.oom_control").split()
        return int(told[told.index("oom_kill") + 1])

    def exhaust(self, victim: int) -> None:
        """Takes memory until none is left and the kernel ends the process, then gives it back."""
        Path(f"/proc/{victim}/oom_score_adj").write_text("1000")
        taking = [*self._joining, sys.executable, "-S", "-c", BALLAST]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with subprocess.Popen(taking, **pipes) as ballast:  # type: ignore[call-overload]
            assert ballast.stdout.readline() == "ready\n"
            with contextlib.suppress(BrokenPipeError):
                told = "held\n"
                while told and alive(victim):
                    ballast.stdin.write(f"{PIECE_BYTES}\n")
                    told = ballast.stdout.readline()
            ballast.kill()
        until(lambda: not alive(victim), "ended by the kernel", seconds=10)

    def _read(self, v2: str, v1: str) -> str:
        return (self.path / (v2 if self.is_v2 else v1)).read_text()

    def _write(self, v2: str, v1: str, value: str) -> None:
        (self.path / (v2 if self.is_v2 else v1)).write_text(value)


@contextlib.contextmanager
def group() -> Iterator[Group]:
    """A new group within that of the tests; skips loudly where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("control groups of their own need root, which may make them")
    above = _above()
    if above is None:
        pytest.skip("no control group here has the memory controller, neither of v1 nor of v2")
    within, is_v2 = above
    try:
        path = Path(tempfile.mkdtemp(prefix="earmark-", dir=within))
    except OSError as error:
        pytest.skip(f"no control group can be made here, not even by root: {error}")
    try:
        yield Group(path, is_v2)
    finally:
        until(lambda: _removed(path), "its processes ended")


def _above() -> tuple[Path, bool] | None:
    """The nearest group of ours within which others can have a limit; whether it is of v2."""
    ours = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in ours:
        if (mounted := _mounted(controllers)) is None:
            continue
        here = mounted / path.lstrip("/")
        if "memory" in controllers.split(",") and here.is_dir():
            return here, False
        for candidate in (here, *here.parents) if not controllers else ():
            # Elsewhere it would have to be handed down first, which is not ours to do.
            handed = candidate / "cgroup.subtree_control"
            if handed.is_file() and "memory" in handed.read_text().split():
                return candidate, True
    return None


def _mounted(controllers: str) -> Path | None:
    """Where the hierarchy of some controllers of v1 is mounted, or that of v2 for none."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        wanted = set(filter(None, controllers.split(",")))
        if kind == ("cgroup" if wanted else "cgroup2") and wanted <= set(options.split(",")):
            return Path(place)
    return None


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()
