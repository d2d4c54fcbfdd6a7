"""What tests of processing share: received interactions, steps to order, what became of them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from dbos import Queue
from typing_extensions import override

from earmark import jobs
from earmark.database import Database, interactions, tables
from earmark.model import Cause, MediaType, Status, new_id, now
from earmark.pipeline import Done, Item, Outcome, Skipped, Step
from earmark.pipeline.notes import Notes
from earmark.pipeline.run import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from uuid import UUID

    from earmark.model import Interaction

NOT_NOW = Skipped(Cause("not_now", "Nothing to do now."))


def receive(
    database: Database,
    organization_id: UUID,
    *,
    media_type: MediaType = MediaType.AUDIO,
    status: Status = Status.RECEIVED,
    name: str = "",
    warnings: Sequence[dict[str, str]] = (),
) -> UUID:
    """Adds an interaction as an upload does; returns its id."""
    time.sleep(0.001)  # ids that are made in one millisecond are in no order
    interaction_id = new_id()
    row = {
        "id": interaction_id,
        "file_name": name or f"{interaction_id}.wav",
        "media_type": media_type.value,
        "status": status.value,
        "round": 1,
        "received_at": now(),
        "occurred_at": now(),
        "apply_hierarchy_to_agent": False,
        "locale": "en-US",
        "extended": {},
        "metadata_sent": "{}",
        "size_bytes": 1,
        "sha256": bytes(32),
        "warnings": list(warnings),
    }
    with database.write(organization_id) as scope:
        scope.insert(tables.interaction, row)
    return interaction_id


def load(database: Database, interaction_id: UUID) -> Interaction:
    with database.read(None) as scope:
        return interactions.load(scope, [interaction_id])[interaction_id]


def events(database: Database, interaction_id: UUID) -> list[tuple[str, Any]]:
    told = sa.select(tables.event.c.kind, tables.event.c.detail)
    of_it = told.where(tables.event.c.interaction_id == interaction_id)
    with database.read(None) as scope:
        rows = scope.rows(of_it.order_by(tables.event.c.sequence))
    return [(row.kind, row.detail) for row in rows]


def retry(database: Database, organization_id: UUID, interaction_id: UUID) -> None:
    with database.write(organization_id) as scope:
        interactions.receive_again(scope, interaction_id)


def delete(database: Database, organization_id: UUID, interaction_id: UUID) -> None:
    with database.write(organization_id) as scope:
        interactions.delete(scope, interaction_id)


def process(
    database: Database,
    organization_id: UUID,
    interaction_id: UUID,
    *steps: Step,
    number: int | None = None,
    stopping: threading.Event | None = None,
) -> None:
    """Processes a round, the present one unless another is said, and each that follows it."""
    pipeline = Pipeline(database, steps, stopping=stopping or threading.Event(), wait_factor=0.0)
    processed = None
    number = number or present_round(database, interaction_id)
    while number != processed:
        pipeline.process(str(organization_id), str(interaction_id), str(number))
        processed, number = number, present_round(database, interaction_id, but=number)


def present_round(database: Database, interaction_id: UUID, *, but: int = 1) -> int:
    """The round of an interaction; another one if it does not wait to be processed."""
    with database.read(None) as scope:
        found = interactions.load(scope, [interaction_id]).get(interaction_id)
    waits = found is not None and found.status in interactions.UNFINISHED
    return found.round if found is not None and waits else but


def hasten(change: pytest.MonkeyPatch) -> None:
    """Has engines that are made from now on look for jobs oftener than a server should."""
    change.setattr(jobs, "POLL_SECONDS", 0.05)
    # What this worker left behind is looked for once a second, by the engine's own queue.
    change.setitem(Queue.__init__.__kwdefaults__, "polling_interval_sec", 0.05)


def wait_until(holds: Callable[[], Any], seconds: float = 20) -> None:
    """Waits for a condition; fails if it does not come to hold."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "it did not come to hold"
        time.sleep(0.02)


class Scripted(Step):
    """A step that does what it is told: the next of `script`, or its last for ever."""

    required = True

    def __init__(
        self,
        *script: Outcome | Exception | Callable[[Item], Outcome],
        name: str = "scripted",
        required: bool = True,
        media_type: MediaType | None = None,
    ) -> None:
        self.name = name
        self.required = required
        self.runs: list[Item] = []
        self.discarded: list[Item] = []
        self._script = list(script or [Done()])
        self._media_type = media_type

    @override
    def applies_to(self, media_type: MediaType) -> bool:
        return self._media_type in {None, media_type}

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        self.runs.append(item)
        act = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(act, Exception):
            raise act
        return act if isinstance(act, Done | Skipped) else act(item)

    @override
    def discard(self, item: Item) -> None:
        self.discarded.append(item)


class Remembered(Notes):
    """Notes that no database keeps."""

    def __init__(self, *kept: Any) -> None:
        self.kept = list(kept)
        self.progress: list[float] = []

    @override
    def parts(self) -> Sequence[Any]:
        return list(self.kept)

    @override
    def begin_anew(self) -> None:
        self.kept.clear()

    @override
    def keep(self, part: Any, *, progress: float) -> None:
        self.kept.append(json.loads(json.dumps(part)))
        self.progress.append(progress)


class FromFolder(Step):
    """A step in a child process, told what to do by files in a folder.

    It notes each run in `ran`; waits while `hold` is there, and dies for ids in `deadly`.
    """

    name = "ordered"
    required = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @override
    def applies_to(self, media_type: MediaType) -> bool:
        return True

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        with (self._folder / "ran").open("a") as ran:
            ran.write(f"{os.getpid()} {item.interaction_id}\n")
        deadly = self._folder / "deadly"
        if deadly.exists() and str(item.interaction_id) in deadly.read_text():
            os.kill(os.getpid(), signal.SIGKILL)
        while (self._folder / "hold").exists():
            time.sleep(0.02)
        return Done()

    @override
    def discard(self, item: Item) -> None:
        """Stored nothing."""


def work(url: str, folder: Path, grace_seconds: float) -> None:
    """The main function of a worker in a child process."""
    from earmark.app.worker import Pace, run_worker

    threading.Thread(target=_end_with_tests, daemon=True).start()
    hasten(pytest.MonkeyPatch())
    pace = Pace(grace_seconds=grace_seconds, wait_factor=0.01, watch_seconds=0.1)
    run_worker(Database(url), [FromFolder(folder)], concurrency=2, pace=pace)


def _end_with_tests() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
