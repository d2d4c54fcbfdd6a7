"""Transcripts on the wire: which form an answer has, and what is said where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from books import Books
from earmark.interactions import transcript_key
from earmark.model import Status
from earmark.model.transcript import Recognition, Segment, Speaker, Transcript
from earmark.render import FORMATS, format_named
from earmark.web.negotiation import preferred

if TYPE_CHECKING:
    from uuid import UUID

    from contract.serving import Caller, Service
    from earmark.database import Database

pytestmark = pytest.mark.origin("ours")

SAID = Transcript(
    (
        Segment("Good morning.", Speaker.AGENT, 0.0, 1.5, channel=0),
        Segment("Hello.", Speaker.CUSTOMER, 2.0, 2.5, channel=1),
    ),
    "en",
    duration_seconds=3.0,
    recognition=Recognition("local", "base", "0" * 64),
)
FACTS = {
    "language": "en",
    "segment_count": 2,
    "word_count": 3,
    "engine": "local",
    "model": "base",
    "detected_language": "en",
}
TYPES = {
    "json": "application/json",
    "vtt": "text/vtt; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture
def books(database: Database, caller: Caller) -> Books:
    return Books(database, caller.principal.organization_id)


@pytest.fixture
def transcribed(books: Books, service: Service) -> UUID:
    id_ = books.receive(status=Status.READY)
    books.change(id_, transcript=FACTS)
    service.store.put(transcript_key(id_), format_named("json").render(SAID))
    return id_


def path(id_: object, ending: str = "") -> str:
    return f"/v1/interactions/{id_}/transcript{ending}"


@pytest.mark.parametrize("extension", FORMATS)
def test_a_transcript_is_had_in_each_form_by_extension(
    caller: Caller, transcribed: UUID, extension: str
) -> None:
    answer = caller.send("GET", path(transcribed, f".{extension}"))
    assert (answer.status, answer.headers["content-type"]) == (200, TYPES[extension])
    assert answer.body == format_named(extension).render(SAID)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "vary" not in answer.headers


@pytest.mark.parametrize(
    ("accept", "extension"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/*", "json"),
        ("text/*", "vtt"),
        ("text/plain", "txt"),
        ("text/vtt;q=0.5, application/x-subrip", "srt"),
        ("text/html, text/plain;q=0.1", "txt"),
        ("application/json;q=0, */*", "vtt"),
    ],
)
def test_a_transcript_is_had_in_the_form_that_accept_prefers(
    caller: Caller, transcribed: UUID, accept: str, extension: str
) -> None:
    answer = caller.send("GET", path(transcribed), accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, TYPES[extension])
    assert answer.headers["vary"] == "Accept"


def test_a_form_that_there_is_not_is_refused_with_those_that_there_are(
    caller: Caller, transcribed: UUID
) -> None:
    answer = caller.send("GET", path(transcribed), accept="text/html")
    assert (answer.status, answer.json["code"]) == (406, "not_acceptable")
    assert "text/vtt" in answer.json["detail"]
    answer = caller.send("GET", path(transcribed, ".docx"))
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert "vtt" in answer.json["detail"]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.RECEIVED, (409, "processing")),
        (Status.PROCESSING, (409, "processing")),
        (Status.READY, (404, "not_found")),
        (Status.FAILED, (404, "not_found")),
    ],
)
def test_without_a_transcript_the_answer_tells_whether_to_ask_again(
    caller: Caller, books: Books, status: Status, expected: tuple[int, str]
) -> None:
    answer = caller.send("GET", path(books.receive(status=status), ".txt"))
    assert (answer.status, answer.json["code"]) == expected


def test_another_organizations_transcript_is_answered_as_an_unknown_one(
    service: Service, transcribed: UUID
) -> None:
    stranger = service.caller("Second")
    for ending in ("", ".vtt"):
        answer = stranger.send("GET", path(transcribed, ending))
        assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert stranger.send("GET", path("nonsense", ".vtt")).status == 404


def test_the_record_tells_of_the_transcript(caller: Caller, transcribed: UUID) -> None:
    record: dict[str, Any] = caller.send("GET", f"/v1/interactions/{transcribed}").json
    assert record["transcript"] == FACTS


def test_a_deleted_interaction_takes_its_transcript_with_it(
    service: Service, caller: Caller, transcribed: UUID
) -> None:
    assert caller.send("DELETE", f"/v1/interactions/{transcribed}").status == 204
    assert list(service.store.keys(older_than_seconds=-1)) == []


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "a/x"),
        ("a/y", "a/y"),
        ("A/Y", "a/y"),
        ("a/*", "a/x"),
        ("b/*", "b/z"),
        ("a/x;q=0.2, a/y;q=0.3", "a/y"),
        ("a/y, a/x", "a/y"),
        ("a/x;q=0, a/*", "a/y"),
        ("a/x;q=2", None),
        ("a/x;q=nan", None),
        ("a/x;q=much", None),
        ("c/c", None),
        ("*/*;q=0.1, b/z;level=1;q=0.5", "b/z"),
    ],
)
def test_accept_chooses_among_what_is_offered(accept: str, expected: str | None) -> None:
    assert preferred(accept, ["a/x", "a/y", "b/z"]) == expected
