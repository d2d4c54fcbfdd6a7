"""A kill at each system call from the first write of an upload to its answer.

Which calls there are is found out by looking at one upload. Then, for each of them, a web process
is killed as it is about to enter it, another is started in its place, and everything is checked.
A thread is killed at its n-th call of a name, counted since strace came, so both are met in
processes that did the same before, with one thread of intake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.order import located, promise
from faults.tracing import need_strace
from faults.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from faults.copies import Copies
    from faults.ledger import Ledger
    from faults.tracing import Call

SHORT_BYTES, LONG_BYTES = 20_000, 1_500_000
"""The first is written by one thread at once, with its row; the second in part as it comes."""

SAMPLE = 4
"""In the ordinary run: of the calls of one name by one thread."""

PASSIVE = frozenset(
    {
        *("futex", "epoll_pwait", "poll", "getpid", "getrandom", "statfs"),
        *("brk", "madvise", "mmap", "mprotect", "munmap"),
    }
)
"""Calls that wait, ask or get memory. What is left when a process dies there is left at the next
as well, so the ordinary run leaves them out; and they do not all come again each time."""

VARYING = frozenset({"pwrite64", "read"})
"""How many pages a commit writes and in how many pieces a body is read differs a little."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kind", "size_bytes"),
    [("sqlite", SHORT_BYTES), ("postgresql", SHORT_BYTES), ("sqlite", LONG_BYTES)],
)
def test_a_kill_at_any_system_call_of_an_upload_loses_nothing(
    *,
    kind: str,
    size_bytes: int,
    new_copies: Callable[..., Copies],
    ledger: Ledger,
    thorough: bool,
    tmp_path: Path,
) -> None:
    need_strace()
    ledger.what = f"kill at a system call, {kind}, {size_bytes} bytes"
    server = new_copies(kind, intake_threads=1, arguments=("--no-worker",))
    windows = Windows(server, ledger, size_bytes=size_bytes)
    found = windows.find(tmp_path / "trace")
    steps = located(promise(server), found)
    assert None not in steps
    wanted = found if thorough else [*sampled(found), *steps]
    missed = []
    for call in {id(call): call for call in wanted}.values():
        if not windows.kill_at(call):
            missed.append(call)
        assert windows.breaches() == [], call
    assert windows.breaches(whole=True) == []
    assert not [call for call in missed if call.name not in PASSIVE | VARYING]
    ledger.counts["missed"] += len(missed)
    windows.process(whole=thorough)


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
