"""Takes over the jobs of workers that died and did not come back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from earmark.errors import ServiceError

if TYPE_CHECKING:
    from earmark.database.slots import Slot, Slots
    from earmark.jobs import Engine


class SlotLostError(ServiceError):
    """Another process has this worker's name; start anew under another one."""


class Takeover:
    """Keeps this worker's own name and watches those of others."""

    def __init__(self, engine: Engine, slots: Slots, *, worker_id: str, slot: Slot) -> None:
        """Keeps its collaborators; `slot` is the one of `worker_id`."""
        self._engine = engine
        self._slots = slots
        self._worker_id = worker_id
        self._slot = slot
        self._suspects: frozenset[str] = frozenset()

    def keep_slot(self) -> None:
        """Makes sure that this worker's name is still its own.

        Raises:
            SlotLostError: the connection that held it broke, and another process was faster.
            UnavailableError: the database is away.
        """
        if self._slot.is_held():
            return
        slot = self._slots.take(self._worker_id)
        if slot is None:
            raise SlotLostError(self._worker_id)
        self._slot = slot

    def look(self) -> int:
        """Hands out again what dead workers left behind; returns how many jobs."""
        begun = self._engine.begun()
        mine = self._lost_here(begun.pop(self._worker_id, set()))
        self._engine.hand_out_again(mine)
        return len(mine) + sum(self._inherit(worker_id) for worker_id in begun)

    def release(self) -> None:
        """Gives this worker's name back."""
        self._slot.close()

    def _lost_here(self, begun: set[str]) -> set[str]:
        """Jobs that are ours by the record, but that no thread here has, at two looks."""
        lost = frozenset(job_id for job_id in begun if not self._engine.is_here(job_id))
        again = lost & self._suspects
        self._suspects = lost - again
        return set(again)

    def _inherit(self, worker_id: str) -> int:
        """Takes a worker's jobs if it is dead: who holds its name is the one to do so."""
        slot = self._slots.take(worker_id)
        if slot is None:
            return 0
        with contextlib.closing(slot):
            # Looked up again under the lock: another worker may have been here before.
            jobs = self._engine.begun().get(worker_id, set())
            self._engine.hand_out_again(jobs)
        return len(jobs)
