"""Long steps: what they keep, how far they are, and which attempts count against them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from typing_extensions import override

from earmark.database import processing, tables
from earmark.jobs import UnfinishedError
from earmark.model import Cause, Status, StepStatus
from earmark.pipeline import Done, Skipped, TransientError
from earmark.pipeline.run import Pipeline
from processing import Scripted, delete, load, process, receive, retry

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from earmark.database import Database
    from earmark.pipeline import Item, Outcome
    from earmark.pipeline.notes import Notes


class Death(BaseException):
    """What ends a worker in the middle of a step."""


class Long(Scripted):
    """A step of four parts that does what it is told before it keeps each of them."""

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        super().__init__(name="long")
        self.before = before
        self.found: list[list[Any]] = []
        self.last: Notes | None = None

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        self.last = notes
        parts = notes.parts()
        self.found.append([*parts])
        for number in range(len(parts), 4):
            self.before(number)
            notes.keep({"part": number}, progress=(number + 1) / 4)
        return Done()


def kept(database: Database) -> int:
    with database.read(None) as scope:
        row = scope.row(sa.select(sa.func.count()).select_from(tables.step_part))
    assert row is not None
    return int(row[0])


def at(part: int, action: Callable[[], None]) -> Callable[[int], None]:
    """Does something before a part is kept."""
    return lambda number: action() if number == part else None


def die() -> None:
    raise Death


def test_a_step_tells_how_far_it_is(database: Database, organization: UUID) -> None:
    interaction_id = receive(database, organization)
    told = []

    def look(_number: int) -> None:
        (step,) = load(database, interaction_id).steps
        told.append(step.progress)

    process(database, organization, interaction_id, Long(look))
    assert told == [None, 0.25, 0.5, 0.75]
    (step,) = load(database, interaction_id).steps
    assert (step.status, step.progress) == (StepStatus.DONE, 1.0)


def test_a_step_that_tells_nothing_has_no_progress(database: Database, organization: UUID) -> None:
    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, Scripted())
    assert load(database, interaction_id).steps[0].progress is None


def test_a_step_whose_worker_died_goes_on_where_it_was(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    step = Long(at(2, die))
    with pytest.raises(Death):
        process(database, organization, interaction_id, step)
    step.before = lambda _: None
    process(database, organization, interaction_id, step)
    assert step.found == [[], [{"part": 0}, {"part": 1}]]
    assert load(database, interaction_id).status is Status.READY
    assert kept(database) == 0


def test_a_step_that_dies_at_one_place_fails_after_three_attempts_there(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    step = Long(at(0, die))
    for part in (0, 0, 1, 1, 1):
        step.before = at(part, die)
        with pytest.raises(Death):
            process(database, organization, interaction_id, step)
    process(database, organization, interaction_id, step)
    found = load(database, interaction_id)
    assert (found.status, found.steps[0].error) == (Status.FAILED, processing.WORKER_LOST)
    assert found.steps[0].attempts == 5


def test_what_was_kept_of_a_failed_step_serves_its_retry(
    database: Database, organization: UUID
) -> None:
    def fail() -> None:
        raise TransientError(Cause("far_away", "It is far away."))

    interaction_id = receive(database, organization)
    step = Long(at(3, fail))
    process(database, organization, interaction_id, step)
    found = load(database, interaction_id)
    assert (found.status, found.steps[0].progress) == (Status.FAILED, 0.75)
    assert found.steps[0].error == Cause("far_away", "It is far away.")
    retry(database, organization, interaction_id)
    step.before = lambda _: None
    process(database, organization, interaction_id, step)
    assert len(step.found[-1]) == 3
    assert load(database, interaction_id).status is Status.READY


def test_an_orderly_stop_ends_a_step_at_its_next_part_and_does_not_count(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    for part in range(3):
        stopping = threading.Event()
        step = Long(at(part, stopping.set))
        with pytest.raises(UnfinishedError):
            process(database, organization, interaction_id, step, stopping=stopping)
    for _ in range(2):
        step = Long(at(3, die))
        with pytest.raises(Death):
            process(database, organization, interaction_id, step)
    process(database, organization, interaction_id, Long())
    assert load(database, interaction_id).status is Status.READY


def test_attempts_that_a_stopping_worker_leaves_do_not_count(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    for _ in range(4):
        pipeline: list[Pipeline] = []

        def leave(_number: int, pipeline: list[Pipeline] = pipeline) -> None:
            pipeline[0].excuse_running()
            raise Death

        pipeline.append(Pipeline(database, [Long(leave)], stopping=threading.Event()))
        with pytest.raises(Death):
            pipeline[0].process(str(organization), str(interaction_id), "1")
    process(database, organization, interaction_id, Long())
    assert load(database, interaction_id).status is Status.READY


def test_a_step_ends_quietly_when_its_interaction_is_deleted(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    step = Long(at(2, lambda: delete(database, organization, interaction_id)))
    process(database, organization, interaction_id, step)
    assert (len(step.discarded), kept(database)) == (1, 0)


def test_a_step_that_was_taken_over_keeps_nothing_more(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    step = Long(at(1, die))
    with pytest.raises(Death):
        process(database, organization, interaction_id, step)
    old = step.last
    assert old is not None
    step.before = at(3, die)
    with pytest.raises(Death):
        process(database, organization, interaction_id, step)
    with pytest.raises(processing.SupersededError):
        old.keep({}, progress=1.0)
    assert kept(database) == 3


def test_a_step_may_drop_what_does_not_fit_it(database: Database, organization: UUID) -> None:
    class Anew(Long):
        @override
        def run(self, item: Item, notes: Notes) -> Outcome:
            notes.parts()
            notes.begin_anew()
            return super().run(item, notes)

    interaction_id = receive(database, organization)
    with pytest.raises(Death):
        process(database, organization, interaction_id, Long(at(2, die)))
    step = Anew()
    process(database, organization, interaction_id, step)
    assert step.found == [[]]


def test_a_skipped_step_may_have_kept_something(database: Database, organization: UUID) -> None:
    class Gives(Long):
        @override
        def run(self, item: Item, notes: Notes) -> Outcome:
            notes.keep(1, progress=0.5)
            return Skipped(Cause("enough", "That is enough."))

    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, Gives())
    (step,) = load(database, interaction_id).steps
    assert (step.status, step.progress) == (StepStatus.SKIPPED, 0.5)
