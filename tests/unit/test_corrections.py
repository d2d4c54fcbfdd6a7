"""Corrections: what is given changes, is told, and has the right things found out anew."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from books import NOON, Books
from earmark.database import processing, search_index, tables
from earmark.errors import ForbiddenError, InvalidError, NotFoundError
from earmark.interactions import Interactions, OrganizationInteractions
from earmark.model import (
    Cause,
    Correction,
    Customer,
    Direction,
    Grant,
    InteractionDate,
    Principal,
    Query,
    Status,
    StepStatus,
    Warn,
)
from earmark.model.transcript import Segment, Transcript
from earmark.pipeline import Done
from earmark.pipeline.run import Pipeline
from earmark.storage import open_store
from processing import Scripted

if TYPE_CHECKING:
    from pathlib import Path

    from earmark.database import Database
    from earmark.pipeline import Item

SPANISH = Correction(locale="es-MX")
TRANSCRIPT = {"language": "en", "segment_count": 1, "word_count": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corrections")


@pytest.fixture
def everyone(database: Database, folder: Path) -> Interactions:
    return Interactions(database, open_store(f"file:{folder}/objects"))


@pytest.fixture
def mine(everyone: Interactions, principal: Principal) -> OrganizationInteractions:
    return everyone.for_(principal)


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


def told(books: Books) -> list[tuple[str, Any]]:
    rows = sorted(books.all(tables.event), key=lambda row: row.sequence)
    return [(row.kind.removeprefix("interaction."), row.detail) for row in rows]


def recorded(books: Books) -> list[tuple[str, str, Any]]:
    rows = sorted(books.all(tables.audit), key=lambda row: row.sequence)
    return [(row.actor, row.action, row.detail) for row in rows]


def processed(books: Books, status: Status) -> UUID:
    """A recording that was listened to and transcribed in English."""
    id_ = books.receive(status=status)
    books.change(
        id_,
        transcript=TRANSCRIPT,
        warnings=[
            {"code": code, "message": "It is so."} for code in ("silent", "language_mismatch")
        ],
    )
    books.step(id_, "listen", StepStatus.DONE, 0)
    books.step(id_, "transcribe", StepStatus.DONE, 1)
    return id_


def test_what_is_given_changes_and_all_else_stays(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(
        at=NOON,
        customer=Customer("Ana", "1", "a@example.org"),
        client_call_id="call-1",
        extended={"a": 1, "b": {"c": 2}},
    )
    before = mine.get(id_)
    date = InteractionDate(NOON.replace(hour=9), -240, "2022-03-18T05:00:00-04:00")
    after = mine.correct(
        id_,
        Correction(
            interaction_date=date,
            direction=Direction.OUTBOUND,
            phone="2",
            client_call_id="call-2",
            extended={"b": [3], "d": None},
            meta={"meta1": "0", "meta5": ""},
        ),
    )
    assert after == mine.get(id_)
    assert after.interaction_date == date
    assert (after.direction, after.client_call_id) == (Direction.OUTBOUND, "call-2")
    assert after.customer == Customer("Ana", "2", "a@example.org")
    assert after.extended == {"a": 1, "b": [3], "d": None}
    assert after.meta == {"meta1": "0", "meta5": ""}
    assert (after.file_name, after.metadata_sent) == (before.file_name, before.metadata_sent)
    (row,) = books.all(tables.interaction)
    assert row.occurred_at == date.instant
    fields = [
        "client_call_id",
        "direction",
        "extended",
        "interaction_date",
        "meta",
        "phone",
    ]
    assert told(books) == [("corrected", {"fields": fields})]
    assert recorded(books) == [("client:first-client", "interaction.correct", {"fields": fields})]
    assert after.status is Status.RECEIVED


def test_corrections_add_up(mine: OrganizationInteractions, books: Books) -> None:
    id_ = books.receive()
    mine.correct(id_, Correction(extended={"a": 1}, meta={"meta1": "x"}))
    after = mine.correct(id_, Correction(extended={"b": 2}, meta={"meta2": "y"}))
    assert after.extended == {"a": 1, "b": 2}
    assert after.meta == {"meta1": "x", "meta2": "y"}


def test_empty_text_removes_phone_and_call_id(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive(customer=Customer(phone="1"), client_call_id="c")
    after = mine.correct(id_, Correction(phone="", client_call_id=""))
    assert (after.customer.phone, after.client_call_id) == (None, None)


@pytest.mark.parametrize("correction", [Correction(), Correction(phone="1", locale="en-US")])
def test_what_changes_nothing_is_not_told(
    mine: OrganizationInteractions, books: Books, correction: Correction
) -> None:
    id_ = books.receive(customer=Customer(phone="1"), status=Status.READY)
    before = mine.get(id_)
    assert mine.correct(id_, correction) == before
    assert told(books) == []
    assert recorded(books) == []


def test_every_wrong_value_is_told_and_nothing_is_written(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive()
    before = mine.get(id_)
    wrong = Correction(
        phone="\0",
        client_call_id="x" * 513,
        locale="de-DE",
        extended={"a": ["\ud800"]},
        meta={"meta6": "x", "meta1": "x" * 65537},
    )
    with pytest.raises(InvalidError) as caught:
        mine.correct(id_, wrong)
    assert [fault.field for fault in caught.value.faults] == [
        "locale",
        "phone",
        "client_call_id",
        "meta1",
        "meta",
        "extended",
    ]
    for extended in ({"\0": 1}, {"a": {"b": "\0"}}):
        with pytest.raises(InvalidError):
            mine.correct(id_, Correction(extended=extended))
    assert mine.get(id_) == before


def test_extended_metadata_do_not_grow_for_ever(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = books.receive()
    half = "x" * (128 * 1024)
    mine.correct(id_, Correction(extended={"a": half}))
    with pytest.raises(InvalidError) as caught:
        mine.correct(id_, Correction(extended={"b": half}))
    assert [fault.field for fault in caught.value.faults] == ["extended"]
    assert list(mine.get(id_).extended) == ["a"]


def test_only_ones_own_can_be_corrected_and_with_the_grant(
    everyone: Interactions,
    mine: OrganizationInteractions,
    books: Books,
    other_principal: Principal,
) -> None:
    id_ = books.receive()
    for bound, unknown in ((everyone.for_(other_principal), id_), (mine, uuid4())):
        with pytest.raises(NotFoundError):
            bound.correct(unknown, Correction(phone="1"))
    reader = Principal(books.organization_id, "reader", frozenset({Grant.READ}))
    with pytest.raises(ForbiddenError):
        everyone.for_(reader).correct(id_, Correction(phone="1"))
    assert mine.get(id_).customer.phone is None


@pytest.mark.parametrize("status", [Status.READY, Status.FAILED])
def test_another_locale_has_what_is_over_processed_once_more(
    mine: OrganizationInteractions, books: Books, status: Status
) -> None:
    id_ = processed(books, status)
    after = mine.correct(id_, SPANISH)
    assert (after.status, after.round, after.locale) == (Status.RECEIVED, 2, "es-MX")
    assert after.transcript is None
    assert [step.name for step in after.steps] == ["listen"]
    assert after.warnings == (Warn("silent", "It is so."),)
    assert told(books) == [("corrected", {"fields": ["locale"]}), ("retried", {"round": 2})]


def test_another_locale_is_there_in_time_for_what_has_not_begun(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = processed(books, Status.RECEIVED)
    after = mine.correct(id_, SPANISH)
    assert (after.status, after.round, after.locale) == (Status.RECEIVED, 1, "es-MX")
    assert [step.name for step in after.steps] == ["listen"]
    assert told(books) == [("corrected", {"fields": ["locale"]})]


def test_another_locale_waits_for_the_round_that_is_under_way(
    mine: OrganizationInteractions, books: Books, database: Database
) -> None:
    id_ = processed(books, Status.PROCESSING)
    after = mine.correct(id_, SPANISH)
    assert (after.status, after.round, len(after.steps)) == (Status.PROCESSING, 1, 2)
    job = processing_job(database, id_, 1)
    with database.write(books.organization_id) as scope:
        assert processing.finish(scope, job, status=Status.READY)
        assert not processing.finish(scope, job, status=Status.READY)
    after = mine.get(id_)
    assert (after.status, after.round, after.transcript) == (Status.RECEIVED, 2, None)
    assert [step.name for step in after.steps] == ["listen"]
    assert told(books) == [("corrected", {"fields": ["locale"]}), ("retried", {"round": 2})]
    job = processing_job(database, id_, 2)
    with database.write(books.organization_id) as scope:
        assert processing.finish(scope, job, status=Status.READY)
    assert mine.get(id_).status is Status.READY


@pytest.mark.parametrize("status", [Status.READY, Status.PROCESSING])
def test_another_locale_ends_that_the_old_words_are_found(
    mine: OrganizationInteractions, books: Books, database: Database, status: Status
) -> None:
    id_ = processed(books, status)

    def say(words: str) -> None:
        with database.write(books.organization_id) as scope:
            said = Transcript((Segment(words),), language="en")
            search_index.put(scope, id_, said)

    def found(word: str) -> list[UUID]:
        return [item.id for item in mine.find(Query(q=word)).items]

    say("nonsense")
    assert found("nonsense") == [id_]
    mine.correct(id_, SPANISH)
    assert found("nonsense") == []
    if status is Status.PROCESSING:  # the round under way ends with what it still heard
        say("rubbish")
        assert found("rubbish") == [id_]
        job = processing_job(database, id_, 1)
        with database.write(books.organization_id) as scope:
            processing.finish(scope, job, status=Status.READY)
        assert found("rubbish") == []


def test_a_lost_round_that_is_outdated_does_not_fail(
    mine: OrganizationInteractions, books: Books, database: Database
) -> None:
    id_ = processed(books, Status.PROCESSING)
    mine.correct(id_, SPANISH)
    cause = Cause("worker_lost", "It is lost.")
    job = processing_job(database, id_, 1)
    with database.write(books.organization_id) as scope:
        assert processing.give_up(scope, job, cause, name="transcribe", position=1)
    after = mine.get(id_)
    assert (after.status, after.round) == (Status.RECEIVED, 2)
    assert [step.name for step in after.steps] == ["listen"]


def test_another_locale_in_the_middle_of_a_round_is_that_of_the_next(
    mine: OrganizationInteractions, books: Books, database: Database
) -> None:
    """Through the pipeline itself: the recording is listened to once, and transcribed twice."""
    id_ = books.receive()

    def transcribe(item: Item) -> Done:
        if len(hearing.runs) == 1:
            mine.correct(id_, SPANISH)
        return Done()

    listening, hearing = Scripted(name="listen"), Scripted(transcribe, name="transcribe")
    pipeline = Pipeline(database, [listening, hearing], stopping=threading.Event())
    for number in ("1", "2"):
        assert mine.get(id_).status is Status.RECEIVED
        pipeline.process(str(books.organization_id), str(id_), number)
    assert [item.locale for item in hearing.runs] == ["en-US", "es-MX"]
    assert len(listening.runs) == 1
    after = mine.get(id_)
    assert (after.status, after.round) == (Status.READY, 2)
    assert [kind for kind, _ in told(books)] == ["corrected", "retried", "ready"]


def test_corrections_of_anything_else_start_nothing(
    mine: OrganizationInteractions, books: Books
) -> None:
    id_ = processed(books, Status.READY)
    after = mine.correct(id_, Correction(phone="1"))
    assert (after.status, after.round, len(after.steps)) == (Status.READY, 1, 2)
    assert after.transcript is not None


def processing_job(database: Database, id_: UUID, number: int) -> processing.Job:
    with database.read(None) as scope:
        return processing.load_job(scope, id_, number)
