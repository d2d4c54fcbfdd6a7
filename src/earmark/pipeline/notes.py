"""What a step writes down as it goes, so that neither a crash nor a stop costs the whole of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earmark.database import processing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from earmark.database.processing import Job
    from earmark.database.scope import Scope

    Write = Callable[[Callable[[Scope], Any]], Any]


class Notes:
    """The parts of one step of one interaction, across attempts, rounds and workers.

    Attempts that were followed by a part count no more against the step: only what fails over and
    over at the same place fails for good.
    """

    def __init__(
        self,
        write: Write,
        job: Job,
        *,
        name: str,
        attempt: int,
        kept: Callable[[], None] = lambda: None,
    ) -> None:
        """Keeps its collaborators.

        Args:
            write: runs a function in a transaction of the job's organization.
            job: what is worked at.
            name: of the step.
            attempt: that was claimed.
            kept: called when a part was kept.
        """
        self._write = write
        self._job = job
        self._name = name
        self._attempt = attempt
        self._kept = kept
        self._count = 0

    def parts(self) -> Sequence[Any]:
        """What was kept so far, in order: JSON values. Further parts come after these."""
        found: list[Any] = self._write(
            lambda scope: processing.parts(scope, self._job, name=self._name)
        )
        self._count = len(found)
        return found

    def begin_anew(self) -> None:
        """Drops what was kept: it does not fit this attempt, as with another model."""
        self._write(lambda scope: processing.forget_parts(scope, self._job, name=self._name))
        self._count = 0

    def keep(self, part: Any, *, progress: float) -> None:
        """Keeps one part; durable when this returns.

        Args:
            part: a JSON value.
            progress: how much of the step is done with it, 0 to 1.

        Raises:
            GoneError, SupersededError, UnfinishedError: nobody wants the rest; let them through.
        """
        self._write(
            lambda scope: processing.keep_part(
                scope,
                self._job,
                name=self._name,
                attempt=self._attempt,
                number=self._count,
                content=part,
                progress=progress,
            )
        )
        self._kept()
        self._count += 1
