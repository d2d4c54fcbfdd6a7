"""`/Conversations/Transcriptions` on the wire: request in; status, headers, body out."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from books import NOON, Books
from earmark.interactions import OrganizationInteractions, transcript_key
from earmark.model import Grant, MediaType, Status, StepStatus
from earmark.model.transcript import Recognition, Segment, Speaker, Transcript
from earmark.render.json import Json

if TYPE_CHECKING:
    from contract.serving import Answer, Caller, Service
    from earmark.model import Interaction

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

CALL = Transcript(
    segments=(
        Segment("Good day.", Speaker.AGENT, 0.5, 1.5),
        Segment("Hello,\nI have a question.", Speaker.CUSTOMER, 3661.2, 3663.0),
    ),
    language="en",
    duration_seconds=3663.0,
    recognition=Recognition("local", "base", None),
)
CHAT = Transcript(
    segments=(
        Segment("¿Hay alguien?", Speaker.CUSTOMER, at=NOON, name="Eva"),
        Segment("Sí.", Speaker.AGENT, at=NOON + timedelta(seconds=65)),
    ),
    language="es",
    chat_format="plain",
)
FACTS = {"language": "en", "segment_count": 2, "word_count": 3}
BEFORE = "The conversation has not finished processing. Ask again later."
WITHOUT = "The conversation was processed without a transcription."


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture
def books(caller: Caller) -> Books:
    return Books(caller.service.database, caller.principal.organization_id)


def told(caller: Caller, books: Books, transcript: Transcript, **fields: Any) -> UUID:
    """A processed interaction with this transcript."""
    id_ = books.receive(status=Status.READY, **fields)
    books.change(id_, transcript=FACTS)
    caller.service.store.put(transcript_key(id_), Json().render(transcript))
    return id_


def failed(books: Books) -> UUID:
    id_ = books.receive(status=Status.FAILED)
    books.step(id_, "listen", StepStatus.FAILED)
    return id_


def one(caller: Caller, id_: object, **headers: str) -> Answer:
    return caller.send("GET", f"/Conversations/Transcriptions/{id_}", **headers)


def several(caller: Caller, *ids: object, **headers: str) -> Answer:
    body = {"conversationIds": [str(id_) for id_ in ids]}
    return caller.ask("POST", "/Conversations/Transcriptions", body, **headers)


@published
def test_a_call_is_told_line_by_line(caller: Caller, books: Books) -> None:
    id_ = told(caller, books, CALL)
    answer = one(caller, id_)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    lines = ["00:00:00 Agent: Good day.", "01:01:01 Customer: Hello, I have a question."]
    assert answer.json == {
        "conversationId": str(id_),
        "transcriptions": [{"languageCode": "en", "transcription": lines}],
    }


@published
def test_a_chat_is_told_line_by_line(caller: Caller, books: Books) -> None:
    id_ = told(caller, books, CHAT, name="c.zip", media_type=MediaType.CHAT)
    assert one(caller, id_).json == {
        "conversationId": str(id_),
        "transcriptions": [
            {
                "languageCode": "es",
                "transcription": ["00:00:00 Eva: ¿Hay alguien?", "00:01:05 Agent: Sí."],
            }
        ],
    }


@published
@pytest.mark.parametrize("status", [Status.RECEIVED, Status.PROCESSING])
def test_until_it_is_processed_there_is_a_message(
    caller: Caller, books: Books, status: Status
) -> None:
    id_ = told(caller, books, CALL)
    books.change(id_, status=status)  # it is retried: what it has will be another
    answer = one(caller, id_)
    assert answer.status == 200
    assert answer.json == {"conversationId": str(id_), "transcriptions": [], "message": BEFORE}


@ours
@on_sqlite
def test_one_that_is_processed_once_more_since_a_moment_ago_has_a_message(
    caller: Caller, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = books.receive(status=Status.READY)
    get, seen = OrganizationInteractions.get, []

    def then_retried(bound: OrganizationInteractions, asked: UUID) -> Interaction:
        found = get(bound, asked)
        if not seen:
            books.change(id_, status=Status.RECEIVED)
        seen.append(found)
        return found

    monkeypatch.setattr(OrganizationInteractions, "get", then_retried)
    assert one(caller, id_).json["message"] == BEFORE


@published
def test_a_conversation_without_a_transcription_has_a_message(
    caller: Caller, books: Books
) -> None:
    id_ = books.receive(status=Status.READY)
    answer = one(caller, id_)
    assert answer.status == 200
    assert answer.json == {"conversationId": str(id_), "transcriptions": [], "message": WITHOUT}


@published
def test_a_failed_conversation_is_400_and_says_why(caller: Caller, books: Books) -> None:
    answer = one(caller, failed(books))
    assert (answer.status, answer.text) == (
        400,
        "The conversation failed to process. It is broken.",
    )
    problem = one(caller, failed(books), accept="application/problem+json")
    assert (problem.status, problem.json["code"]) == (400, "processing_failed")


@published
def test_an_unknown_conversation_is_404(caller: Caller, service: Service, books: Books) -> None:
    stranger = service.caller("Second")
    theirs, unknown = one(stranger, told(caller, books, CALL)), one(stranger, uuid4())
    assert (theirs.status, theirs.text) == (unknown.status, unknown.text)
    assert theirs.status == 404
    assert one(caller, "7").status == 404


@published
def test_a_batch_tells_what_is_there_and_why_the_rest_is_not(caller: Caller, books: Books) -> None:
    call = told(caller, books, CALL)
    chat = told(caller, books, CHAT, name="c.zip", media_type=MediaType.CHAT)
    lost, without, waits, unknown = (
        failed(books),
        books.receive(status=Status.READY),
        books.receive(),
        uuid4(),
    )
    answer = several(caller, unknown, call, waits, call, without, lost, chat)
    assert answer.status == 200
    assert answer.json == {
        "transcriptions": [one(caller, call).json, one(caller, chat).json],
        "errors": [
            {
                "conversationId": str(unknown),
                "statusCode": 404,
                "error": "Conversation not found",
            },
            {"conversationId": str(waits), "statusCode": 200, "error": BEFORE},
            {"conversationId": str(without), "statusCode": 200, "error": WITHOUT},
            {
                "conversationId": str(lost),
                "statusCode": 400,
                "error": "The conversation failed to process. It is broken.",
            },
        ],
    }


@published
@on_sqlite
def test_errors_are_null_if_there_are_none(caller: Caller, books: Books) -> None:
    answer = several(caller, told(caller, books, CALL))
    assert answer.json["errors"] is None
    assert several(caller).json == {"transcriptions": [], "errors": None}


@published
def test_a_batch_has_100_conversations_at_most(caller: Caller) -> None:
    ids = [uuid4() for _ in range(100)]
    assert len(several(caller, *ids, *ids).json["errors"]) == 100
    refused = several(caller, *ids, uuid4())
    assert (refused.status, refused.text) == (
        400,
        "conversationIds: Send at most 100 conversation ids.",
    )


@published
@on_sqlite
@pytest.mark.parametrize(
    "body", [{}, {"conversationIds": None}, {"conversationIds": ["x"]}, [], {"conversationIds": 7}]
)
def test_a_wrong_batch_is_refused(caller: Caller, body: Any) -> None:
    assert caller.ask("POST", "/Conversations/Transcriptions", body).status == 400


@published
def test_a_batch_of_another_organization_finds_nothing(
    caller: Caller, service: Service, books: Books
) -> None:
    stranger = service.caller("Second")
    (error,) = several(stranger, told(caller, books, CALL)).json["errors"]
    assert error["statusCode"] == 404


@published
@on_sqlite
def test_transcriptions_are_found_by_any_case(caller: Caller, books: Books) -> None:
    id_ = told(caller, books, CALL)
    path = f"/conversations/transcriptions/{str(id_).upper()}"
    assert caller.send("GET", path).json == one(caller, id_).json
    body = {"CONVERSATIONIDS": [str(id_)]}
    assert caller.ask("POST", "/CONVERSATIONS/transcriptions", body).status == 200


@ours
@on_sqlite
def test_transcriptions_need_the_grant_to_read(service: Service) -> None:
    uploader = service.caller("Third", [Grant.INGEST, Grant.MANAGE])
    assert one(uploader, uuid4()).status == 403
    assert several(uploader, uuid4()).status == 403
    assert one(uploader, uuid4(), authorization="").status == 401
