"""A process that may write, open or hold no more: it says so, keeps its word and goes on after."""

from __future__ import annotations

import contextlib
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.faults import (
    MEBIBYTE,
    SWALLOWED,
    Ledger,
    Mutant,
    caught,
    label,
    lines,
    name_of,
    planted,
    recording,
)
from serving import Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLY_SIGNAL = Mutant(
    "SIGXFSZ ends the process",
    "app/web_process.py",
    "    parts = Parts(settings, issuer=listen.address)\n    heart",
    "    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
    "    parts = Parts(settings, issuer=listen.address)\n    heart",
)
OUR_FAULT = Mutant(
    "no memory counts as our fault",
    "web/errors.py",
    '_unavailable(errors.UnavailableError("not enough memory"))',
    "_internal(error)",
)
NOT_SCARCE = Mutant(
    "no descriptors count as our fault",
    "pipeline/run.py",
    "error.errno in _SCARCE",
    "error.errno is None",
)


@contextlib.contextmanager
def limited(pid: int, limit: int, value: int) -> Iterator[None]:
    """Lowers a limit of a running process."""
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (value, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, limit, before)


@pytest.fixture(scope="module")
def server(new_server) -> Iterator[Server]:
    with serving(new_server("sqlite"), worker=True) as started:
        yield started


def file_size(server: Server) -> Ledger:
    """File size limit: a larger file is refused, and the signal ends nothing."""
    ledger = Ledger(server.caller())
    (web,) = server.children("web")
    with limited(web, resource.RLIMIT_FSIZE, 2 * MEBIBYTE):
        assert ledger.upload("large.wav", recording(3 * MEBIBYTE)) == 503
        assert ledger.upload("small.wav") == 200
    with limited(web, resource.RLIMIT_FSIZE, 1):
        assert ledger.upload("another.wav") == 503
    assert server.children("web") == [web]
    ledger.complete()
    return ledger


def descriptors_gone(server: Server) -> Ledger:
    """No descriptors left: what cannot be opened is refused, and nothing half kept."""
    ledger = Ledger(server.caller(), lost_allowed=True)
    (web,) = server.children("web")
    names = [f"held-{number}.wav" for number in range(3)]
    with ledger.held(server.data / "storage" / "staging", *names):
        # What is open now stays open, and nothing more can be.
        stack = limited(web, resource.RLIMIT_NOFILE, highest(web) + 1)
        stack.__enter__()
    stack.__exit__(None, None, None)
    assert ledger.answers["503 in 5 s"], ledger.told
    ledger.complete()
    return ledger


def highest(pid: int) -> int:
    return max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())


def memory_gone(server: Server) -> Ledger:
    """No memory left: what cannot be held is refused, or its process dies and is replaced."""
    ledger = Ledger(server.caller(), lost_allowed=True)
    (web,) = server.children("web")
    size = address_space(web)
    for spare in (MEBIBYTE, MEBIBYTE // 2, 0):
        with limited(web, resource.RLIMIT_AS, size + spare):
            at_once = [(f"{spare}-{number}.wav", recording(3 * MEBIBYTE)) for number in range(8)]
            with ThreadPoolExecutor(8) as pool:
                [*pool.map(lambda sent: ledger.upload(*sent), at_once)]
    ledger.complete()
    return ledger


def address_space(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def worker_short(server: Server) -> Ledger:
    """A worker without descriptors: what it has to do waits, and is done once there are some."""
    ledger = Ledger(server.caller())
    (worker,) = server.children("worker")
    with limited(worker, resource.RLIMIT_NOFILE, highest(worker) + 1):
        assert ledger.upload("waits.wav") == 200
        id_ = ledger.kept["waits.wav"]

        def told() -> str:
            steps = ledger.caller.record(id_)["steps"]
            return ((steps and steps[0]["error"]) or {}).get("code", "")

        assert until(told, "told") == "short_of_resources"
    return ledger


FAULTS = [file_size, descriptors_gone, worker_short]


@pytest.mark.parametrize("fault", FAULTS, ids=label)
def test_what_a_limit_forbids_is_503_and_is_taken_once_it_is_lifted(
    server, fault, record_property
):
    before = len(lines(server))
    ledger = fault(server)
    kept = ledger.check()
    until(server.ready, "ready again")
    told = [line for line in lines(server, before) if "milliseconds" not in line]
    assert told
    assert len(told) < 60, told
    record_property("fault", (name_of(fault), ledger.told, kept, ""))


def test_without_memory_it_is_503_and_is_taken_once_there_is_some(new_server, record_property):
    with serving(new_server("sqlite"), worker=True) as fresh:  # whose heap has no room to spare
        ledger = memory_gone(fresh)
        record_property("fault", (name_of(memory_gone), ledger.told, ledger.check(), ""))
        assert "not enough memory" in fresh.log.read_text()


@pytest.mark.parametrize(
    ("fault", "mutant"),
    [
        (file_size, DEADLY_SIGNAL),
        (descriptors_gone, SWALLOWED),
        (memory_gone, OUR_FAULT),
        (worker_short, NOT_SCARCE),
    ],
    ids=label,
)
def test_a_defence_that_is_off_is_seen(fault, mutant, tmp_path, new_server, record_property):
    server = new_server("sqlite")
    planted(server, [mutant], tmp_path)
    with serving(server, worker=True), caught(mutant, name_of(fault), record_property):
        fault(server).check()
