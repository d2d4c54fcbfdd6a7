"""Searching on the wire: `q` and `stem`, what is found and where, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from books import NOON, Books
from earmark.model import MediaType, Status
from earmark.model.transcript import Segment, Speaker, Transcript
from saying import say, transcript

if TYPE_CHECKING:
    from uuid import UUID

    from contract.serving import Answer, Caller, Service
    from earmark.database import Database

pytestmark = pytest.mark.origin("ours")


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture
def books(database: Database, caller: Caller) -> Books:
    return Books(database, caller.principal.organization_id)


def ask(caller: Caller, q: str, more: str = "") -> Answer:
    return caller.send("GET", f"/v1/interactions?q={quote(q)}{more}")


def call(books: Books, *lines: str, **about: Any) -> UUID:
    id_ = books.receive(status=Status.READY, **about)
    say(books.database, books.organization_id, id_, transcript(*lines))
    return id_


def test_what_was_said_is_found_with_line_ranges_speaker_and_time(
    caller: Caller, books: Books
) -> None:
    id_ = call(books, "Hello.", "I was charged twice, señor: twice!", locale="es-MX")
    call(books, "charged once")
    answer = ask(caller, 'senor "charged twice"', "&locale=es-MX&status=ready")
    assert answer.status == 200
    (item,) = answer.json["items"]
    assert (item["id"], answer.json["next"]) == (str(id_), None)
    assert item["matches"] == [
        {
            "text": "I was charged twice, señor: twice!",
            "ranges": [[6, 13], [14, 19], [21, 26]],
            "speaker": "customer",
            "start_seconds": 2.0,
            "at": None,
        }
    ]


def test_a_message_of_a_chat_tells_when_it_was_sent(caller: Caller, books: Books) -> None:
    id_ = books.receive("a.zip", media_type=MediaType.CHAT, status=Status.READY)
    said = Transcript((Segment("My parcel 😀", Speaker.BOT, at=NOON, name="Bot"),), "en")
    say(books.database, books.organization_id, id_, said)
    (item,) = ask(caller, "parcel").json["items"]
    (match,) = item["matches"]
    assert (match["speaker"], match["start_seconds"], match["at"]) == (
        "bot",
        None,
        "2022-03-18T12:00:00Z",
    )


def test_without_a_search_there_are_no_matches(caller: Caller, books: Books) -> None:
    id_ = call(books, "word")
    assert caller.send("GET", "/v1/interactions").json["items"][0]["matches"] is None
    assert caller.send("GET", f"/v1/interactions/{id_}").json["matches"] is None


def test_pages_of_a_search_are_followed_by_cursor(caller: Caller, books: Books) -> None:
    ids = [str(call(books, "word")) for _ in range(3)]
    first = ask(caller, "word", "&limit=2").json
    second = ask(caller, "word", f"&limit=2&cursor={first['next']}").json
    found = [item["id"] for page in (first, second) for item in page["items"]]
    assert (sorted(found), second["next"]) == (sorted(ids), None)


@pytest.mark.parametrize("q", ["", "*", "...", '"', "-no", "x" * 501, "\0", '" OR 1=1 --', "a* *"])
def test_what_cannot_be_asked_names_the_field_and_the_mend(caller: Caller, q: str) -> None:
    answer = ask(caller, q)
    assert (answer.status, answer.json["code"]) == (400, "invalid_value")
    (error,) = answer.json["errors"]
    assert error["field"] == "q"
    assert error["message"].endswith(".")


def test_stems_are_a_matter_of_postgresql(
    caller: Caller, books: Books, database_kind: str
) -> None:
    id_ = call(books, "she was calling")
    answer = ask(caller, "calls", "&stem=true")
    if database_kind == "sqlite":
        assert answer.status == 400
        assert [error["field"] for error in answer.json["errors"]] == ["stem"]
    else:
        assert [item["id"] for item in answer.json["items"]] == [str(id_)]
    assert ask(caller, "calls").json["items"] == []


def test_another_organization_finds_nothing_and_after_a_deletion_nobody_does(
    service: Service, caller: Caller, books: Books
) -> None:
    id_ = call(books, "confidential")
    assert ask(service.caller("Second"), "confidential").json["items"] == []
    assert ask(caller, "confidential").json["items"] != []
    assert caller.send("DELETE", f"/v1/interactions/{id_}").status == 204
    for q in ("confidential", "con*"):
        assert ask(caller, q).json == {"items": [], "next": None}
