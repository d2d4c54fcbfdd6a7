"""The steps of the promise in a trace of system calls, and whether they came in their order."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from faults.ledger import listed
from faults.media import media
from faults.tracing import traced
from serving import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from faults.copies import Copies
    from faults.ledger import Ledger
    from faults.tracing import Call

NAME = "looked-at.wav"
WARM_UPS = 2
"""Uploads before the one that is looked at: connections are open then, and the log is begun."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the promise.

    Attributes:
        pattern: of the calls that are it: name, arguments and result.
        last: whether it is done with the last of them; else with the first.
        follows: whether what came before the step before it is something else.
    """

    what: str
    pattern: str
    last: bool = False
    follows: bool = False

    def of(self, calls: Sequence[Call], before: Call | None) -> Call | None:
        """The call in which it ends; None if it was not done."""
        start = calls.index(before) if self.follows and before is not None else 0
        fit = [one for one in calls[start:] if re.search(self.pattern, str(one))]
        return fit[-1 if self.last else 0] if fit else None


STAGED = r"[^>]*/staging/[^>]*"
SHARD = r"[^>]*/objects/[0-9a-f]{2}"
KEPT = (
    Step("the bytes are written", rf"^writev\(\d+<{STAGED}>", last=True),
    Step("the bytes are synced", rf"^f(data)?sync\(\d+<{STAGED}>\)\s+= 0"),
    Step("the file has its name", r'^rename\("[^"]*/staging/[^"]*", "[^"]*/objects/.*\)\s+= 0'),
    Step("the name is synced", rf"^fsync\(\d+<{SHARD}>\)\s+= 0"),
)
COMMITTED = {
    "sqlite": (
        Step("the row is begun", r"^pwrite64\(\d+<[^>]*/earmark\.sqlite3-wal>"),
        Step("the row is written", r"^pwrite64\(\d+<[^>]*/earmark\.sqlite3-wal>", last=True),
        Step("the row is synced", r"^f(data)?sync\(\d+<[^>]*/earmark\.sqlite3-wal>\)\s+= 0"),
    ),
    "postgresql": (
        Step("the row is sent", r"^sendto\(.*INSERT INTO interaction"),
        Step("the commit is sent", r"^sendto\(.*COMMIT", follows=True),
        Step("the commit is answered", r"^recvfrom\(.*COMMIT.*\)\s+= \d", follows=True),
    ),
}
ANSWERED = Step(
    "the caller is answered", r'^(write|writev|sendto|sendmsg)\(\d+<TCP.*"HTTP/1.1 200'
)


CROWD = 8
SETTLING_SECONDS = 5
CROWD_BYTES = 30_000


def promise(server: Copies) -> tuple[Step, ...]:
    """The steps in their order, as the database of a server takes them."""
    kind = "postgresql" if server.database_url else "sqlite"
    return (*KEPT, *COMMITTED[kind], ANSWERED)


def disorder(server: Copies, ledger: Ledger, into: Path, *, size_bytes: int) -> list[str]:
    """Uploads to a started server, and looks on; what was not done, or before its time."""
    dice = random.Random(size_bytes)
    caller = server.caller()
    for number in range(WARM_UPS):
        ledger.upload(caller.http, f"{number}.wav", media(NAME, dice, size_bytes))
    with traced(server.web, into) as calls:
        answer = ledger.upload(caller.http, NAME, media(NAME, dice, size_bytes))
        assert answer is not None
        assert answer.status_code == 200, answer.text
        until(lambda: NAME in listed(caller), "what comes too late has come")
    return broken(promise(server), calls)


def crowded_disorder(
    server: Copies, ledger: Ledger, into: Path, *, organization: str = "First"
) -> list[str]:
    """The same of uploads at once, which may share a commit: what each did not wait for."""
    dice, caller = random.Random(1), server.caller(organization)
    sent = {f"in-a-crowd-{number}.wav": media(NAME, dice, CROWD_BYTES) for number in range(CROWD)}
    ledger.upload(caller.http, "0.wav", media(NAME, dice, CROWD_BYTES))
    callers = [caller.another() for _ in sent]
    with traced(server.web, into) as calls:
        with ThreadPoolExecutor(CROWD) as pool:
            answers = list(pool.map(ledger.upload, callers, sent, sent.values()))
        assert {answer and answer.status_code for answer in answers} == {200}
        with contextlib.suppress(AssertionError):  # what comes too late may never come
            until(lambda: listed(caller).keys() >= sent.keys(), "listed", SETTLING_SECONDS)
    kind = "postgresql" if server.database_url else "sqlite"
    return [
        f"{name}: not in its order: {missing}"
        for name, content in sent.items()
        if (missing := _unordered(kind, calls, name, ledger.promised[name], content))
    ]


def _unordered(kind: str, calls: Sequence[Call], name: str, id_: str, content: bytes) -> str:
    """The first step of one upload among many that did not come after the one before it."""
    digest = re.escape(b64encode(hashlib.sha256(content).digest()).decode())
    renamed = rf'^rename\(.*/objects/{id_[-2:]}/{id_}"'
    steps = {
        "its bytes are written": rf"^writev\(\d+<[^>]*/staging/{id_}\.",
        "they are synced": rf"^f(data)?sync\(\d+<[^>]*/staging/{id_}\.[^>]*>\)\s+= 0",
        "it has its name": renamed,
        "the name is synced": rf"^fsync\(\d+<[^>]*/objects/{id_[-2:]}>\)\s+= 0",
    }
    if kind == "sqlite":
        own, log = calls, r"\(\d+<[^>]*/earmark\.sqlite3-wal>"
        steps["the row is written"] = rf"^pwrite64{log}.*{name}"
        steps["the row is synced"] = rf"^f(data)?sync{log}\)\s+= 0"
    else:  # a transaction has its thread, and its answers do not say whose they are
        thread = next(call.thread for call in calls if re.search(renamed, str(call)))
        own = [call for call in calls if call.thread == thread or "HTTP/1.1 200" in call.text]
        steps["the row is sent"] = rf"^sendto\(.*INSERT INTO interaction.*{name}"
        steps |= {step.what: step.pattern for step in COMMITTED["postgresql"][1:]}
    steps[ANSWERED.what] = rf'^write\(\d+<TCP.*"HTTP/1.1 200.*{digest}'
    ended = -1
    for what, pattern in steps.items():
        found = (one for one in own if one.began > ended and re.search(pattern, str(one)))
        if (call := next(found, None)) is None:
            return what
        ended = call.ended
    return ""


def located(steps: Sequence[Step], calls: Sequence[Call]) -> list[Call | None]:
    """The calls that are the steps."""
    found: list[Call | None] = []
    for step in steps:
        found.append(step.of(calls, found[-1] if found else None))
    return found


def broken(steps: Sequence[Step], calls: Sequence[Call]) -> list[str]:
    """The steps that were left out, or begun before the one before them had ended."""
    found = list(zip(steps, located(steps, calls), strict=True))
    missing = [f"never: {step.what}" for step, call in found if call is None]
    done = [(step, call) for step, call in found if call is not None]
    early = [
        f"{later.what} before {earlier.what}"
        for (earlier, one), (later, other) in pairwise(done)
        if other is not one and other.began < one.ended
    ]
    return missing + early
