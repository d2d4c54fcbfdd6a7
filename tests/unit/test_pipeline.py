"""Processing without the engine: steps, attempts, outcomes, dispatch and watchdog."""

from __future__ import annotations

import errno
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import structlog
from structlog.testing import capture_logs

from earmark.database import processing, tables
from earmark.errors import MediaError, UnavailableError
from earmark.jobs import State, UnfinishedError
from earmark.model import AudioFacts, Cause, MediaType, Status, StepStatus, Warn, now
from earmark.pipeline import Done, TransientError
from earmark.pipeline.dispatcher import Dispatcher, Watchdog
from earmark.pipeline.run import (
    DECODER_KILLED,
    INTERNAL,
    SHORT_OF_RESOURCES,
    UNAVAILABLE,
    Pipeline,
)
from earmark.sandbox import CrashedError
from processing import NOT_NOW, Scripted, delete, events, load, process, receive, retry, wait_until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from uuid import UUID

    from earmark.database import Database
    from earmark.pipeline import Item, Outcome, Step

FACTS = AudioFacts("wav", "pcm_s16le", 8000, 1, 1.5, None)


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    structlog.reset_defaults()
    with capture_logs():
        yield


class Recorder:
    """Stands in for the engine, which is slow to start: remembers what was begun."""

    def __init__(self, room: int = 100) -> None:
        self.known: dict[str, State] = {}
        self.begun: list[str] = []
        self.room = room

    def wait_for_room(self, _timeout_seconds: float) -> bool:
        return len(self.begun) < self.room

    def begin(self, job_id: str, *arguments: str) -> None:
        assert job_id not in self.known
        self.known[job_id] = State.UNFINISHED
        self.begun.append(arguments[1])

    def states(self, job_ids: Collection[str]) -> dict[str, State]:
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}

    def forget(self, job_id: str) -> None:
        del self.known[job_id]


def pipeline_of(database: Database, *steps: Step, stopping: threading.Event | None = None):
    return Pipeline(
        database,
        steps,
        stopping=stopping or threading.Event(),
        wait_factor=0.0,
    )


def job_of(database: Database, interaction_id: UUID) -> processing.Job:
    with database.read(None) as scope:
        (job,) = [
            job for job in processing.in_processing(scope) if job.interaction_id == interaction_id
        ]
    return job


def make_due(database: Database, interaction_id: UUID) -> None:
    """As if its wait were over."""
    mine = tables.interaction.c.id == interaction_id
    with database.write(None) as scope:
        scope.run(sa.update(tables.interaction).where(mine).values(due_at=now()))


def test_an_interaction_is_ready_when_its_steps_are_done(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, Scripted(name="a"), Scripted(name="b"))
    found = load(database, interaction_id)
    assert found.status is Status.READY
    assert [(step.name, step.status, step.attempts) for step in found.steps] == [
        ("a", StepStatus.DONE, 1),
        ("b", StepStatus.DONE, 1),
    ]
    assert all(step.started_at <= step.finished_at for step in found.steps)
    assert events(database, interaction_id) == [("interaction.ready", {"round": 1})]


def test_a_step_learns_what_it_works_at(database: Database, organization: UUID) -> None:
    step = Scripted()
    interaction_id = receive(database, organization, name="a/b.MP3")
    process(database, organization, interaction_id, step)
    (item,) = step.runs
    assert (item.organization_id, item.interaction_id) == (organization, interaction_id)
    assert (item.media_type, item.extension) == (MediaType.AUDIO, ".mp3")


def test_steps_for_another_kind_of_media_are_passed_over(
    database: Database, organization: UUID
) -> None:
    step = Scripted(media_type=MediaType.CHAT)
    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, step)
    assert load(database, interaction_id).steps == ()
    assert load(database, interaction_id).status is Status.READY


def test_what_a_step_found_is_saved_with_its_outcome(
    database: Database, organization: UUID
) -> None:
    kept = {"code": "container_differs", "message": "Kept."}
    interaction_id = receive(database, organization, warnings=[kept])
    added = (Warn("container_differs", "Another."), Warn("silent", "Nothing is heard."))

    def save(scope) -> None:
        processing.save_audio(scope, interaction_id, FACTS, added)

    process(database, organization, interaction_id, Scripted(Done(save)))
    found = load(database, interaction_id)
    assert found.audio == FACTS
    assert found.warnings == (Warn(**kept), Warn("silent", "Nothing is heard."))


def test_a_skipped_step_says_why_and_the_interaction_is_ready(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, Scripted(NOT_NOW))
    found = load(database, interaction_id)
    assert found.status is Status.READY
    assert found.steps[0].status is StepStatus.SKIPPED
    assert found.steps[0].error == NOT_NOW.cause


def test_a_file_at_fault_fails_at_once_with_its_own_cause(
    database: Database, organization: UUID
) -> None:
    broken = Scripted(MediaError("not_audio", "It is no audio."))
    later = Scripted(name="later")
    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, broken, later)
    found = load(database, interaction_id)
    assert found.status is Status.FAILED
    (step,) = found.steps
    assert (step.status, step.attempts) == (StepStatus.FAILED, 1)
    assert step.error == Cause("not_audio", "It is no audio.")
    assert later.runs == []
    assert events(database, interaction_id) == [("interaction.failed", {"round": 1})]


def test_what_passes_by_itself_is_tried_again(database: Database, organization: UUID) -> None:
    step = Scripted(OSError("once"), OSError("twice"), Done())
    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, step)
    found = load(database, interaction_id)
    assert found.status is Status.READY
    assert found.steps[0].attempts == 3
    assert found.steps[0].error is None


@pytest.mark.parametrize(
    ("fault", "cause", "attempts"),
    [
        (RuntimeError("/secret/path"), INTERNAL, 3),
        (CrashedError(signal.SIGKILL, ""), DECODER_KILLED, 3),
        (UnavailableError("no"), UNAVAILABLE, 10),
        (OSError(errno.EMFILE, "no"), SHORT_OF_RESOURCES, 10),
        (OSError(errno.ENOENT, "no"), INTERNAL, 3),
        (MemoryError(), SHORT_OF_RESOURCES, 10),
        (TransientError(Cause("far_away", "It is.")), Cause("far_away", "It is."), 10),
    ],
)
def test_after_its_last_attempt_it_fails_and_the_log_alone_has_the_details(
    database: Database, organization: UUID, fault: Exception, cause: Cause, attempts: int
) -> None:
    interaction_id = receive(database, organization)
    step = Scripted(fault)
    with capture_logs() as logs:
        process(database, organization, interaction_id, step)
    found = load(database, interaction_id)
    assert found.status is Status.FAILED
    assert (found.steps[0].attempts, found.steps[0].error) == (attempts, cause)
    assert found.steps[0].next_attempt_at is None
    assert len(step.runs) == attempts
    assert [line["event"] for line in logs] == ["step.failed"] * attempts
    assert [line["final"] for line in logs] == [False] * (attempts - 1) + [True]
    assert all(line["exc_info"] for line in logs)


def test_between_attempts_it_waits_and_says_why_and_until_when(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    step = Scripted(UnavailableError("no"))
    pipeline = Pipeline(database, [step], stopping=threading.Event())
    begun = now()
    pipeline.process(str(organization), str(interaction_id), "1")
    found = load(database, interaction_id)
    assert (found.status, found.round) == (Status.RECEIVED, 2)
    (waits,) = found.steps
    assert (waits.status, waits.attempts, waits.error) == (StepStatus.WAITING, 1, UNAVAILABLE)
    assert waits.next_attempt_at is not None
    assert timedelta(seconds=1) <= waits.next_attempt_at - begun
    assert waits.next_attempt_at - now() <= timedelta(seconds=2)
    assert (waits.finished_at, events(database, interaction_id)) == (None, [])


def test_what_waits_holds_no_place_and_lets_others_pass_until_it_is_due(
    database: Database, organization: UUID, other_organization: UUID
) -> None:
    first = receive(database, organization)
    away = Scripted(UnavailableError("no"))
    Pipeline(database, [away], stopping=threading.Event()).process(
        str(organization), str(first), "1"
    )
    later, others = receive(database, organization), receive(database, other_organization)
    engine = Recorder()
    dispatcher = Dispatcher(database, engine, stopping=threading.Event())
    while dispatcher.dispatch():
        pass
    assert set(engine.begun) == {str(later), str(others)}
    make_due(database, first)
    assert dispatcher.dispatch()
    assert engine.begun[-1] == str(first)
    assert f"interaction:{first}:2" in engine.known


def test_a_step_that_is_tried_again_forgets_why_it_waited(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    seen = []

    def look(item: Item) -> Outcome:
        seen.extend(load(database, interaction_id).steps)
        return Done()

    process(database, organization, interaction_id, Scripted(OSError("once"), look))
    assert [(one.status, one.error, one.next_attempt_at) for one in seen] == [
        (StepStatus.RUNNING, None, None)
    ]


def test_a_worker_that_stops_begins_no_step(database: Database, organization: UUID) -> None:
    stopping = threading.Event()
    stopping.set()
    interaction_id = receive(database, organization)
    with pytest.raises(UnfinishedError):
        process(database, organization, interaction_id, Scripted(), stopping=stopping)
    assert load(database, interaction_id).steps == ()


def test_what_is_deleted_while_it_waits_is_gone(database: Database, organization: UUID) -> None:
    interaction_id = receive(database, organization)
    step = Scripted(OSError("once"))
    Pipeline(database, [step], stopping=threading.Event()).process(
        str(organization), str(interaction_id), "1"
    )
    delete(database, organization, interaction_id)
    process(database, organization, interaction_id, step, number=2)
    assert len(step.runs) == 1


def test_a_step_that_may_fail_stops_neither_the_next_nor_the_interaction(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    weak = Scripted(MediaError("no", "No."), name="weak", required=False)
    process(database, organization, interaction_id, weak, Scripted())
    found = load(database, interaction_id)
    assert found.status is Status.READY
    assert [step.status for step in found.steps] == [StepStatus.FAILED, StepStatus.DONE]


def test_attempts_that_ended_with_their_worker_count(
    database: Database, organization: UUID
) -> None:
    class Death(BaseException):
        pass

    def die(item: Item) -> Outcome:
        raise Death

    interaction_id = receive(database, organization)
    step = Scripted(die)
    for _ in range(3):
        with pytest.raises(Death):
            process(database, organization, interaction_id, step)
    process(database, organization, interaction_id, step)
    found = load(database, interaction_id)
    assert (found.status, found.round) == (Status.FAILED, 3)
    assert (found.steps[0].attempts, found.steps[0].error) == (3, processing.WORKER_LOST)
    assert len(step.runs) == 3


def test_a_job_handed_out_twice_does_its_steps_once(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    first, second = Scripted(name="a"), Scripted(NOT_NOW, name="b")
    for _ in range(2):
        process(database, organization, interaction_id, first, second)
    assert (len(first.runs), len(second.runs)) == (1, 1)
    assert len(events(database, interaction_id)) == 1


def test_a_worker_that_died_between_two_steps_is_followed_where_it_was(
    database: Database, organization: UUID
) -> None:
    stopping = threading.Event()

    def stop(item: Item) -> Outcome:
        stopping.set()
        return Done()

    interaction_id = receive(database, organization)
    first, second = Scripted(stop, name="a"), Scripted(name="b")
    with pytest.raises(UnfinishedError):
        pipeline_of(database, first, second, stopping=stopping).process(
            str(organization), str(interaction_id), "1"
        )
    process(database, organization, interaction_id, first, second)
    assert load(database, interaction_id).status is Status.READY
    assert (len(first.runs), len(second.runs)) == (1, 1)


def test_a_retry_runs_only_what_is_not_done(database: Database, organization: UUID) -> None:
    done, skipped = Scripted(name="done"), Scripted(NOT_NOW, Done(), name="skipped")
    broken = Scripted(MediaError("no", "No."), Done(), name="broken")
    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, done, skipped, broken)
    retry(database, organization, interaction_id)
    process(database, organization, interaction_id, done, skipped, broken, number=2)
    found = load(database, interaction_id)
    assert found.status is Status.READY
    assert {step.status for step in found.steps} == {StepStatus.DONE}
    assert (len(done.runs), len(skipped.runs), len(broken.runs)) == (1, 2, 2)
    assert events(database, interaction_id)[-1] == ("interaction.ready", {"round": 2})


def test_a_round_that_is_over_is_left_alone(database: Database, organization: UUID) -> None:
    interaction_id = receive(database, organization)
    step = Scripted()
    pipeline_of(database, step).process(str(organization), str(interaction_id), "7")
    assert (step.runs, load(database, interaction_id).status) == ([], Status.RECEIVED)


def test_a_deleted_interaction_ends_quietly(database: Database, organization: UUID) -> None:
    interaction_id = receive(database, organization)
    delete(database, organization, interaction_id)
    step = Scripted()
    process(database, organization, interaction_id, step)
    assert step.runs == []


def test_what_was_stored_for_an_interaction_deleted_meanwhile_is_removed(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)

    def lose(item: Item) -> Outcome:
        delete(database, organization, interaction_id)
        return Done()

    step, other = Scripted(lose, name="a"), Scripted(name="b", media_type=MediaType.CHAT)
    process(database, organization, interaction_id, step, other)
    assert (len(step.discarded), other.discarded) == (1, [])
    assert events(database, interaction_id) == []


def test_a_step_whose_file_was_deleted_under_its_hands_is_no_fault(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)

    def lose(item: Item) -> Outcome:
        delete(database, organization, interaction_id)
        raise FileNotFoundError

    step = Scripted(lose)
    with capture_logs() as logs:
        process(database, organization, interaction_id, step)
    assert (len(step.runs), len(step.discarded), logs) == (1, 1, [])


def test_results_that_cannot_be_removed_now_are_left_to_the_sweeper(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)

    def lose(item: Item) -> Outcome:
        delete(database, organization, interaction_id)
        return Done()

    class Stuck(Scripted):
        def discard(self, _item: Item) -> None:
            raise UnavailableError("the disk is gone")

    with capture_logs() as logs:
        process(database, organization, interaction_id, Stuck(lose))
    assert [line["event"] for line in logs] == ["step.discard_failed"]


def test_a_worker_that_was_overtaken_changes_nothing(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)

    def be_overtaken(item: Item) -> Outcome:
        job = job_of(database, interaction_id)
        pipeline_of(database, step).process(
            str(organization), str(job.interaction_id), str(job.round)
        )
        return Done()

    step = Scripted(be_overtaken)
    pipeline_of(database, step).process(str(organization), str(interaction_id), "1")
    found = load(database, interaction_id)
    assert (found.status, found.steps[0].status) == (Status.RECEIVED, StepStatus.WAITING)
    assert (found.steps[0].attempts, step.discarded, len(step.runs)) == (1, [], 1)


def test_what_ended_with_its_worker_waits_before_it_is_tried_again(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization, status=Status.PROCESSING)
    with database.write(organization) as scope:
        job = processing.load_job(scope, interaction_id, 1)
        processing.claim(scope, job, name="scripted", position=0, max_losses=3)
    step = Scripted()
    pipeline_of(database, step).process(str(organization), str(interaction_id), "1")
    (waits,) = load(database, interaction_id).steps
    assert (step.runs, waits.status, waits.attempts) == ([], StepStatus.WAITING, 1)
    assert waits.error == processing.WORKER_LOST_BEFORE
    process(database, organization, interaction_id, step)
    assert load(database, interaction_id).status is Status.READY


def test_what_ended_with_its_worker_twice_is_tried_alone(
    database: Database, organization: UUID
) -> None:
    """Else it would be condemned for what another, which runs beside it, does to the worker."""
    alone, beside = threading.Event(), threading.Event()
    runs: list[str] = []

    def slow(item: Item) -> Outcome:
        beside.set()
        assert not alone.wait(0.3), "the suspect came in beside another"
        runs.append("beside")
        return Done()

    def suspect(item: Item) -> Outcome:
        alone.set()
        time.sleep(0.3)
        runs.append("alone")
        return Done()

    def later(item: Item) -> Outcome:
        runs.append("later")
        return Done()

    ids = [receive(database, organization) for _ in range(3)]
    with database.write(organization) as scope:
        for _ in range(2):
            number = 1 if _ == 0 else 2
            job = processing.load_job(scope, ids[1], number)
            processing.claim(scope, job, name="scripted", position=0, max_losses=3)
            lost = processing.claim(scope, job, name="scripted", position=0, max_losses=3)
            cause = processing.WORKER_LOST_BEFORE
            step = {"name": "scripted", "attempt": lost.attempt, "cause": cause, "until": now()}
            processing.postpone(scope, job, **step)

    def act(item: Item) -> Outcome:
        return dict(zip(ids, (slow, suspect, later), strict=True))[item.interaction_id](item)

    pipeline = pipeline_of(database, Scripted(act))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(pipeline.process, str(organization), str(ids[0]), "1")
        assert beside.wait(10)
        second = pool.submit(pipeline.process, str(organization), str(ids[1]), "3")
        wait_until(lambda: pipeline._turnstile._wanted or alone.is_set())
        third = pool.submit(pipeline.process, str(organization), str(ids[2]), "1")
        for ended in (first, second, third):
            ended.result(20)
    assert runs == ["beside", "alone", "later"]
    assert all(load(database, one).status is Status.READY for one in ids)


def test_a_result_that_cannot_be_saved_fails_the_interaction(
    database: Database, organization: UUID
) -> None:
    def save(scope) -> None:
        raise ValueError("our fault")

    interaction_id = receive(database, organization)
    process(database, organization, interaction_id, Scripted(Done(save)))
    found = load(database, interaction_id)
    assert (found.status, found.steps[0].error) == (Status.FAILED, INTERNAL)


def test_an_outcome_waits_for_a_database_that_is_away(
    database: Database, organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earmark.pipeline.run.RECONNECT_SECONDS", 0.0)
    away = [UnavailableError("away"), UnavailableError("away")]
    real = processing.record

    def record(*arguments, **keywords) -> None:
        if away:
            raise away.pop()
        real(*arguments, **keywords)

    monkeypatch.setattr(processing, "record", record)
    interaction_id = receive(database, organization)
    step = Scripted()
    process(database, organization, interaction_id, step)
    assert load(database, interaction_id).status is Status.READY
    assert len(step.runs) == 1


def test_the_dispatcher_begins_what_was_received_once(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    engine = Recorder()
    dispatcher = Dispatcher(database, engine, stopping=threading.Event())
    assert [dispatcher.dispatch(), dispatcher.dispatch()] == [True, False]
    assert engine.known == {f"interaction:{interaction_id}:1": State.UNFINISHED}
    assert load(database, interaction_id).status is Status.PROCESSING


def test_a_crash_between_job_and_row_is_made_good(database: Database, organization: UUID) -> None:
    class Crashing(Recorder):
        def begin(self, job_id: str, *arguments: str) -> None:
            super().begin(job_id, *arguments)
            if len(self.begun) == 1:
                raise UnavailableError("crash")

    interaction_id = receive(database, organization)
    engine = Crashing()
    dispatcher = Dispatcher(database, engine, stopping=threading.Event())
    with pytest.raises(UnavailableError):
        dispatcher.dispatch()
    assert load(database, interaction_id).status is Status.RECEIVED
    assert dispatcher.dispatch()
    assert len(engine.begun) == 1
    assert load(database, interaction_id).status is Status.PROCESSING


def test_a_job_that_ended_in_another_life_of_the_database_is_begun_anew(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    engine = Recorder()
    engine.known[f"interaction:{interaction_id}:1"] = State.ENDED
    Dispatcher(database, engine, stopping=threading.Event()).dispatch()
    assert engine.begun == [str(interaction_id)]


def test_organizations_take_turns(
    database: Database, organization: UUID, other_organization: UUID
) -> None:
    many = [receive(database, organization) for _ in range(4)]
    few = [receive(database, other_organization) for _ in range(2)]
    engine = Recorder()
    dispatcher = Dispatcher(database, engine, stopping=threading.Event())
    while dispatcher.dispatch():
        pass
    expected = [many[0], few[0], many[1], few[1], many[2], many[3]]
    assert engine.begun == [str(interaction_id) for interaction_id in expected]


def test_a_dispatcher_passes_over_what_another_has_in_hand(
    database: Database, organization: UUID
) -> None:
    if database.is_sqlite:
        pytest.skip("one writer at a time")
    first, second = receive(database, organization), receive(database, organization)
    with database.write(None) as scope:
        taken = processing.next_due(scope)
        with database.write(None) as other:
            also = processing.next_due(other)
            with database.write(None) as third:
                assert processing.next_due(third) is None
                assert processing.any_due(third)
            engine = Recorder()
            dispatcher = Dispatcher(database, engine, stopping=threading.Event())
            assert not dispatcher.dispatch()
    assert (taken.interaction_id, also.interaction_id) == (first, second)


def test_without_room_nothing_is_begun(database: Database, organization: UUID) -> None:
    receive(database, organization)
    engine = Recorder(room=0)
    Dispatcher(database, engine, stopping=threading.Event()).poll()
    assert engine.begun == []


def test_a_poll_begins_something_at_once_or_rests(
    database: Database, organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(database, organization)
    rests: list[float] = []
    stopping = threading.Event()
    monkeypatch.setattr(stopping, "wait", rests.append)
    dispatcher = Dispatcher(database, Recorder(), stopping=stopping)
    dispatcher.poll()
    assert rests == []
    dispatcher.poll()
    assert rests == [0.25]


@pytest.mark.parametrize("state", [None, State.ENDED])
def test_what_the_engine_lost_or_gave_up_fails_at_the_second_look(
    database: Database, organization: UUID, state: State | None
) -> None:
    interaction_id = receive(database, organization, status=Status.PROCESSING)
    engine = Recorder()
    if state:
        engine.known[f"interaction:{interaction_id}:1"] = state
    watchdog = Watchdog(database, engine, pipeline_of(database, Scripted()))
    assert watchdog.look() == 0
    assert load(database, interaction_id).status is Status.PROCESSING
    assert watchdog.look() == 1
    found = load(database, interaction_id)
    assert (found.status, found.steps[0].error) == (Status.FAILED, processing.WORKER_LOST)
    told = ("interaction.failed", {"round": 1, "cause": "worker_lost"})
    assert events(database, interaction_id) == [told]
    assert watchdog.look() == 0


def test_what_the_engine_works_at_is_left_alone(database: Database, organization: UUID) -> None:
    interaction_id = receive(database, organization, status=Status.PROCESSING)
    engine = Recorder()
    engine.known[f"interaction:{interaction_id}:1"] = State.UNFINISHED
    watchdog = Watchdog(database, engine, pipeline_of(database, Scripted()))
    assert [watchdog.look(), watchdog.look()] == [0, 0]
    assert load(database, interaction_id).status is Status.PROCESSING


def test_a_step_that_was_under_way_bears_the_cause(database: Database, organization: UUID) -> None:
    interaction_id = receive(database, organization, status=Status.PROCESSING)
    job = job_of(database, interaction_id)
    with database.write(organization) as scope:
        processing.claim(scope, job, name="b", position=1, max_losses=3)
    first = Scripted(name="a")
    with database.write(organization) as scope:
        processing.claim(scope, job, name="a", position=0, max_losses=3)
        processing.record(scope, job, name="a", attempt=1, status=StepStatus.DONE, cause=None)
    pipeline = pipeline_of(database, first, Scripted(name="b"))
    assert pipeline.abandon(job, processing.WORKER_LOST)
    assert not pipeline.abandon(job, processing.WORKER_LOST)
    found = load(database, interaction_id)
    assert [(step.name, step.status, step.attempts) for step in found.steps] == [
        ("a", StepStatus.DONE, 1),
        ("b", StepStatus.FAILED, 1),
    ]


def test_a_round_of_which_only_the_end_was_missing_gets_it(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization, status=Status.PROCESSING)
    job = job_of(database, interaction_id)
    with database.write(organization) as scope:
        processing.claim(scope, job, name="a", position=0, max_losses=3)
        processing.record(scope, job, name="a", attempt=1, status=StepStatus.DONE, cause=None)
    assert pipeline_of(database, Scripted(name="a")).abandon(job, processing.WORKER_LOST)
    assert load(database, interaction_id).status is Status.READY


def test_a_watchdog_that_comes_too_late_changes_nothing(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization, status=Status.PROCESSING)

    class Racing(Recorder):
        def states(self, _job_ids: Collection[str]) -> dict[str, State]:
            if watchdog.looks == 2:
                process(database, organization, interaction_id, Scripted())
            return {}

    class Counting(Watchdog):
        looks = 0

        def look(self) -> int:
            self.looks += 1
            return super().look()

    watchdog = Counting(database, Racing(), pipeline_of(database, Scripted()))
    assert [watchdog.look(), watchdog.look()] == [0, 0]
    assert load(database, interaction_id).status is Status.READY


def test_facts_of_a_deleted_interaction_are_not_saved(
    database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    delete(database, organization, interaction_id)
    with database.write(organization) as scope, pytest.raises(processing.GoneError):
        processing.save_audio(scope, interaction_id, FACTS, ())


def test_another_organization_cannot_process_it(
    database: Database, organization: UUID, other_organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    step = Scripted()
    process(database, other_organization, interaction_id, step)
    assert (step.runs, load(database, interaction_id).status) == ([], Status.RECEIVED)


def test_a_backlog_and_what_waits_cost_the_dispatcher_nothing(
    database: Database, organization: UUID
) -> None:
    """What is due longest is the first entry of an index; nothing is sorted or walked over."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL plans by statistics, and there are no rows")
    receive(database, organization)
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, sql: str, values: Any, _context: Any, _many: Any) -> None:
        if "FROM interaction" in sql:
            asked.append((sql, values))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.read(None) as scope:
            assert processing.any_due(scope)
            assert processing.next_due(scope)
            assert processing.in_processing(scope) == []
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)
    with database.read(None) as scope:
        plans = [
            " ".join(
                row[3]
                for row in scope.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
            )
            for sql, values in asked
        ]
    one, turns, oldest, processed = plans
    assert "USING INDEX ix_interaction_due (due_at<?)" in one
    assert "USING INDEX ix_interaction_turn (organization_id=? AND due_at<?)" in turns
    assert "USING INDEX ix_interaction_turn (organization_id=? AND due_at<?)" in oldest
    assert "ix_interaction_processing" in processed
    assert not any("B-TREE" in plan for plan in (one, oldest, processed))
