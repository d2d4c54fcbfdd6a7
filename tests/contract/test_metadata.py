"""`/Metadata` on the wire: request in; status, headers, body out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from books import NOON, Books
from contract import forms
from earmark.database import Database, tables
from earmark.model import (
    AgentSent,
    Customer,
    Direction,
    Grant,
    MediaType,
    Status,
    StepStatus,
)
from earmark.web.acxapi import metadata as module
from earmark.web.acxapi.body import MAX_BODY_BYTES

if TYPE_CHECKING:
    from contract.serving import Answer, Caller, Service

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

KEYS = [
    "id",
    "acxIdentifier",
    "organizationId",
    "organizationStructureMemberId",
    "fileName",
    "origFileName",
    "uploadedFileName",
    "fileSizeKiloBytes",
    "mediaType",
    "status",
    "timestamp",
    "arrivedOn",
    "agentId",
    "agentName",
    "phone",
    "clientCallId",
    "callDirection",
    "callDurationMillis",
    "chatMessageCount",
    "localeId",
    "extendedMetadataValues",
    "extendedMetadata",
    "meta1",
    "meta2",
    "meta3",
    "meta4",
    "meta5",
    "processFailures",
]
SECOND = timedelta(seconds=1)


@pytest.fixture
def caller(service: Service) -> Caller:
    """A client of an organization of its own, on each database."""
    return service.caller()


@pytest.fixture
def stranger(service: Service) -> Caller:
    return service.caller("Second")


@pytest.fixture
def books(caller: Caller) -> Books:
    return Books(caller.service.database, caller.principal.organization_id)


def asked(caller: Caller, **query: Any) -> Answer:
    return caller.send("GET", f"/Metadata?{urlencode(query)}")


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.text
    return [item["id"] for item in answer.json]


def period(**more: Any) -> dict[str, Any]:
    """The smallest body of a POST that finds all."""
    return {
        "startDate": "2020-01-01T00:00:00Z",
        "endDate": "2099-01-01T00:00:00Z",
        "pageSize": 100,
        **more,
    }


# What is answered


@published
def test_metadata_of_an_upload_is_answered_whole(caller: Caller) -> None:
    sent = {
        "FileName": "north/call.wav",
        "UploadType": "Audio",
        "CallDirection": "inbound",
        "Phone": "800-555-5555",
        "AgentFirstName": "James",
        "AgentLastName": "Bond",
        "InteractionDate": "2022-03-18T17:56:09.5-04:00",
        "ExtendedMetadataValues": {
            "queue": "general",
            "n": 7,
            "b": True,
            "o": {"x": 1},
            "z": None,
        },
        "LocaleId": 2058,
        "ClientCallId": "5CD1S",
    }
    form = forms.form(sent)
    taken = caller.upload(form)
    answer = caller.send("GET", "/Metadata")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    (item,) = answer.json
    assert list(item) == KEYS
    values = {"queue": "general", "n": "7", "b": "true", "o": '{"x": 1}', "z": ""}
    received = caller.interaction(taken).received_at
    assert item == {
        **dict.fromkeys(KEYS),
        "id": taken.json["id"],
        "organizationId": str(caller.principal.organization_id),
        "fileName": "north/call.wav",
        "origFileName": "north/call.wav",
        "fileSizeKiloBytes": 1,
        "mediaType": "Audio",
        "status": "Processing",
        "timestamp": "2022-03-18T21:56:09.500000Z",
        "arrivedOn": received.isoformat().replace("+00:00", "Z"),
        "agentName": "James Bond",
        "phone": "800-555-5555",
        "clientCallId": "5CD1S",
        "callDirection": "Inbound",
        "callDurationMillis": 0,
        "chatMessageCount": 0,
        "localeId": 2058,
        "extendedMetadataValues": values,
        "extendedMetadata": [values],
        "processFailures": [],
    }


@published
def test_metadata_say_what_processing_found(caller: Caller, books: Books) -> None:
    node, agent = books.node("north"), books.agent("7")
    call = books.arrive(
        node_id=node, agent_id=agent, status=Status.READY, direction=Direction.OUTBOUND
    )
    audio = {
        "container": "wav",
        "codec": "pcm",
        "sample_rate_hz": 8000,
        "channels": 1,
        "duration_seconds": 18.8404,
        "header_duration_seconds": None,
    }
    books.change(call, audio=audio)
    chat = books.arrive("c.zip", media_type=MediaType.CHAT, agent=AgentSent(last_name="Bond"))
    books.change(chat, chat_message_count=13)
    one, other = asked(caller).json
    assert (one["mediaType"], one["status"]) == ("Audio", "ReadyToSample")
    assert (one["organizationStructureMemberId"], one["agentId"]) == (str(node), str(agent))
    assert (one["agentName"], one["callDirection"]) == ("Joined Agent", "Outbound")
    assert (one["callDurationMillis"], one["chatMessageCount"]) == (18840, 0)
    assert (one["timestamp"], one["extendedMetadata"]) == (None, [])
    assert (other["mediaType"], other["status"]) == ("Chat", "Processing")
    assert (other["callDurationMillis"], other["chatMessageCount"]) == (0, 13)
    assert other["agentName"] == "Bond"


@published
@pytest.mark.parametrize(
    ("status", "word"),
    [
        (Status.RECEIVED, "Processing"),
        (Status.PROCESSING, "Processing"),
        (Status.READY, "ReadyToSample"),
        (Status.FAILED, "FailedToProcess"),
    ],
)
@on_sqlite
def test_each_status_has_its_word(caller: Caller, books: Books, status: Status, word: str) -> None:
    books.arrive(status=status)
    assert asked(caller).json[0]["status"] == word


@published
def test_a_failure_says_why(caller: Caller, books: Books) -> None:
    id_ = books.arrive(status=Status.FAILED)
    books.step(id_, "listen", StepStatus.DONE)
    books.step(id_, "transcribe", StepStatus.FAILED, 1)
    books.step(id_, "unpack", StepStatus.SKIPPED, 2)
    ((failure,),) = [item["processFailures"] for item in asked(caller).json]
    assert UUID(failure["id"])
    assert failure == {
        "id": failure["id"],
        "message": "It is broken.",
        "createdOn": "2022-03-19T12:00:00Z",
    }
    assert asked(caller).json[0]["processFailures"] == [failure]


# GET


@published
def test_pages_follow_each_other_in_the_order_of_arrival(caller: Caller, books: Books) -> None:
    made = [str(books.arrive(at=NOON - number * SECOND)) for number in range(5)]
    assert ids(asked(caller)) == made
    assert ids(asked(caller, PageSize=2)) == made[:2]
    assert ids(asked(caller, PageSize=2, LastId=made[1])) == made[2:4]
    assert ids(asked(caller, PageSize=2, LastId=made[3])) == made[4:]
    assert ids(asked(caller, LastId=made[4])) == []
    new = str(books.arrive())
    assert ids(asked(caller, LastId=made[4])) == [new]


@published
def test_there_is_nothing_at_first(caller: Caller) -> None:
    answer = asked(caller)
    assert (answer.status, answer.body) == (200, b"[]")
    assert answer.headers["content-type"] == "application/json"


@ours
@on_sqlite
def test_a_page_has_100_by_default_and_1000_at_most(caller: Caller, books: Books) -> None:
    for _ in range(101):
        books.arrive()
    assert len(ids(asked(caller))) == 100
    assert len(ids(asked(caller, PageSize=1000))) == 101
    for size in ("0", "1001", "-1", "x", "1.5", "99999999999999999999"):
        refused = asked(caller, PageSize=size)
        assert refused.status == 400
        assert refused.text.startswith("pageSize: Send a "), refused.text


@ours
@on_sqlite
def test_a_large_page_is_sent_in_pieces(
    caller: Caller, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 1)
    made = [str(books.arrive()) for _ in range(3)]
    assert ids(asked(caller)) == made


@published
def test_dates_are_of_the_arrival(caller: Caller, books: Books) -> None:
    made = [books.arrive(at=NOON) for _ in range(3)]
    for number, id_ in enumerate(made):
        books.change(id_, received_at=datetime(2022, 5, 1 + number, tzinfo=UTC))
    first, second, third = map(str, made)
    assert ids(asked(caller, StartDate="2022-05-02")) == [second, third]
    assert ids(asked(caller, EndDate="2022-05-02")) == [first, second]
    assert ids(asked(caller, StartDate="2022-05-02", EndDate="2022-05-02")) == [second]
    assert ids(asked(caller, StartDate="2022-05-01T20:00:01-04:00")) == [third]
    unquoted = "/Metadata?StartDate=2022-05-02T04:00:00.0000000+04:00"
    assert ids(caller.send("GET", unquoted)) == [second, third]
    assert ids(asked(caller, StartDate="", EndDate="", LastId="", PageSize="")) == [
        first,
        second,
        third,
    ]


@published
def test_kinds_of_media_are_found(caller: Caller, books: Books) -> None:
    call = str(books.arrive())
    chat = str(books.arrive("c.zip", media_type=MediaType.CHAT))
    assert ids(asked(caller, MediaType="Audio")) == [call]
    assert ids(asked(caller, mediatype="chat")) == [chat]
    for never in ("Email", "Video", "Live", "Metadata", "ProcessedChat", "MetadataExtended"):
        assert ids(asked(caller, MediaType=never)) == []
    assert asked(caller, MediaType="Fax").status == 400


@published
def test_call_ids_are_found_by_commas(caller: Caller, books: Books) -> None:
    one, two, three = (str(books.arrive(client_call_id=call)) for call in ("a", "b", "a"))
    books.arrive()
    assert ids(asked(caller, ClientCallId="a")) == [one, three]
    assert ids(asked(caller, ClientCallId="a, b,")) == [one, two, three]
    assert ids(caller.send("GET", "/Metadata?ClientCallId=b&clientCallId=a")) == [one, two, three]
    assert ids(asked(caller, ClientCallId="c")) == []
    hundred = ",".join(map(str, range(100)))
    assert ids(asked(caller, ClientCallId=hundred)) == []
    assert asked(caller, ClientCallId=f"{hundred},100").status == 400


@published
def test_hierarchies_are_found_with_their_subtrees(caller: Caller, books: Books) -> None:
    top = books.node("top")
    below = books.node("below", top)
    other = books.node("other")
    one, two, three = (str(books.arrive(node_id=node)) for node in (below, top, other))
    books.arrive()
    assert ids(asked(caller, HierarchyIds=top)) == [one, two]
    assert ids(asked(caller, HierarchyIds=f"{below},{other}")) == [one, three]
    assert ids(asked(caller, HierarchyIds=top, MediaType="Chat")) == []
    assert ids(asked(caller, HierarchyIds=uuid4())) == []
    assert asked(caller, HierarchyIds="top").status == 400


@ours
@on_sqlite
def test_every_wrong_value_of_a_list_is_told(caller: Caller) -> None:
    query = "StartDate=yesterday&EndDate=2022-13-01&MediaType=Fax&LastId=1&HierarchyIds=x,y"
    answer = caller.send("GET", f"/Metadata?{query}", accept="application/problem+json")
    assert (answer.status, answer.json["code"]) == (400, "invalid_value")
    assert [fault["field"] for fault in answer.json["errors"]] == [
        "mediaType",
        "startDate",
        "endDate",
        "hierarchyIds",
        "lastId",
    ]
    later = asked(caller, StartDate="2022-01-02", EndDate="2022-01-01")
    assert (later.status, later.text) == (
        400,
        "endDate: Send an instant that is not before the beginning.",
    )


@ours
def test_a_last_id_may_be_deleted_but_not_unknown(
    caller: Caller, stranger: Caller, books: Books
) -> None:
    gone, kept = books.arrive(), books.arrive()
    assert ids(asked(caller)) == [str(gone), str(kept)]
    assert caller.send("DELETE", f"/v1/interactions/{gone}").status == 204
    assert ids(asked(caller, LastId=gone)) == [str(kept)]
    theirs = asked(stranger, LastId=kept)
    unknown = asked(stranger, LastId=uuid4())
    assert (theirs.status, theirs.text) == (unknown.status, unknown.text)
    assert theirs.status == 400


@published
@on_sqlite
def test_path_and_query_names_are_matched_without_regard_to_case(
    caller: Caller, books: Books
) -> None:
    first, second = (str(books.arrive()) for _ in range(2))
    assert ids(caller.send("GET", f"/metadata?lastid={first}")) == [second]
    assert ids(caller.send("GET", "/METADATA?PAGESIZE=1")) == [first]


@ours
@on_sqlite
def test_a_database_that_goes_away_is_told_before_the_answer_begins(
    caller: Caller, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.arrive()
    assert len(ids(asked(caller))) == 1

    def away(*_: object) -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("away"))

    monkeypatch.setattr("earmark.database.interactions.load", away)
    assert asked(caller).status == 503


# POST


@published
def test_a_posted_query_lists_as_a_get_does(caller: Caller, books: Books) -> None:
    node = books.node("top")
    one = str(books.arrive(node_id=node, client_call_id="a,b"))
    two = str(books.arrive(client_call_id="c"))
    chat = str(books.arrive("c.zip", media_type=MediaType.CHAT))

    def found(**more: Any) -> list[str]:
        return ids(caller.ask("POST", "/Metadata", period(**more)))

    assert found() == [one, two, chat]
    assert caller.ask("POST", "/Metadata", period()).json == asked(caller).json
    assert found(pageSize=1, lastId=one) == [two]
    assert found(clientCallIds=["a,b"]) == [one]
    assert found(clientCallIds=["a,b", "c"]) == [one, two]
    assert found(hierarchyIds=[str(node)], mediaType="Audio") == [one]
    assert found(mediaType="chat", hierarchyIds=[], clientCallIds=None, lastId=None) == [chat]
    assert found(endDate="2020-01-01T00:00:00Z") == []


@published
@on_sqlite
@pytest.mark.parametrize("missing", ["startDate", "endDate", "pageSize"])
def test_a_posted_query_has_dates_and_a_page_size(caller: Caller, missing: str) -> None:
    for absent in ({}, {missing: None}, {missing: ""}):
        body = {key: value for key, value in period().items() if key != missing} | absent
        answer = caller.ask("POST", "/metadata", body)
        assert (answer.status, answer.text) == (400, f"{missing}: This is required.")


@ours
@on_sqlite
@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"pageSize": 1001}, "pageSize"),
        ({"pageSize": True}, "pageSize"),
        ({"pageSize": [1]}, "pageSize"),
        ({"pageSize": 1.5}, "pageSize"),
        ({"startDate": 1}, "startDate"),
        ({"clientCallIds": [1, None]}, "clientCallIds"),
        ({"clientCallIds": {"a": 1}}, "clientCallIds"),
        ({"clientCallIds": [str(number) for number in range(101)]}, "clientCallIds"),
        ({"hierarchyIds": ["x"]}, "hierarchyIds"),
        ({"lastId": "x"}, "lastId"),
        ({"lastId": str(uuid4())}, "lastId"),
        ({"mediaType": 7}, "mediaType"),
    ],
)
def test_a_wrong_value_of_a_posted_query_is_told(
    caller: Caller, wrong: dict[str, Any], field: str
) -> None:
    answer = caller.ask("POST", "/Metadata", period(**wrong))
    assert answer.status == 400
    assert answer.text.startswith(f"{field}: "), answer.text


@ours
@on_sqlite
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": 1, "A": 2}', b"\xff", b"[" * 99])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_that_is_no_object_is_refused(caller: Caller, method: str, body: bytes) -> None:
    path = "/Metadata" if method == "POST" else f"/Metadata/{uuid4()}"
    answer = caller.ask(method, path, body)
    assert answer.status == 400
    assert answer.text.startswith("body: The body "), answer.text


@ours
@on_sqlite
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_has_256_kib_at_most(caller: Caller, method: str) -> None:
    path = "/Metadata" if method == "POST" else f"/Metadata/{uuid4()}"
    assert caller.ask(method, path, b" " * (MAX_BODY_BYTES + 1)).status == 413


# PATCH


@published
def test_a_patch_changes_what_is_given_and_answers_the_whole(caller: Caller, books: Books) -> None:
    id_ = books.arrive(
        at=NOON, customer=Customer(phone="1"), client_call_id="a", extended={"k": 1, "Kept": 2}
    )
    before = asked(caller).json[0]
    sent = {
        "timestamp": "2021-06-08T19:39:08.561",
        "phone": "8444025347",
        "callDirection": "Outbound",
        "clientCallId": "b",
        "meta1": 0,
        "meta2": None,
        "meta3": "text",
        "meta4": True,
        "meta5": {"a": [1.50, None]},
        "extendedMetadata": {"k": "new", "More": {"Deep": 1}},
    }
    answer = caller.ask("PATCH", f"/Metadata/{id_}", sent)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    values = {"k": "new", "Kept": "2", "More": '{"Deep": 1}'}
    assert answer.json == {
        **before,
        "timestamp": "2021-06-08T19:39:08.561000Z",
        "phone": "8444025347",
        "callDirection": "Outbound",
        "clientCallId": "b",
        "extendedMetadataValues": values,
        "extendedMetadata": [values],
        "meta1": "0",
        "meta3": "text",
        "meta4": "true",
        "meta5": '{"a": [1.5, null]}',
    }
    assert asked(caller).json == [answer.json]
    told = [row.detail for row in books.all(tables.event) if row.kind.endswith(".corrected")]
    assert [len(one["fields"]) for one in told] == [6]


@published
@on_sqlite
def test_absent_and_null_stay_and_keys_have_any_case(caller: Caller, books: Books) -> None:
    id_ = books.arrive(customer=Customer(phone="1"), client_call_id="a")
    nothing = {"phone": None, "clientCallId": None, "localeId": None, "meta1": None, "x": 1}
    before = asked(caller).json[0]
    assert caller.ask("PATCH", f"/Metadata/{id_}", nothing).json == before
    changed = caller.ask("PATCH", f"/METADATA/{id_}", {"PHONE": "2", "MetA1": "x"}).json
    assert (changed["phone"], changed["meta1"], changed["clientCallId"]) == ("2", "x", "a")


@ours
@on_sqlite
def test_empty_text_removes_what_is_text(caller: Caller, books: Books) -> None:
    id_ = books.arrive(customer=Customer(phone="1"), client_call_id="a")
    path = f"/Metadata/{id_}"
    caller.ask("PATCH", path, {"meta1": "x"})
    answer = caller.ask("PATCH", path, {"phone": "", "clientCallId": "", "meta1": ""})
    assert (answer.json["phone"], answer.json["clientCallId"]) == (None, None)
    assert answer.json["meta1"] == ""


@ours
@on_sqlite
def test_every_wrong_value_of_a_patch_is_told(caller: Caller, books: Books) -> None:
    id_ = books.arrive()
    before = asked(caller).json
    wrong = {
        "timestamp": "",
        "phone": ["1"],
        "callDirection": "Sideways",
        "clientCallId": "x" * 513,
        "localeId": 1034,
        "meta1": "\0",
        "extendedMetadata": [{"a": 1}],
    }
    answer = caller.ask("PATCH", f"/Metadata/{id_}", wrong, accept="application/problem+json")
    assert answer.status == 400
    assert {fault["field"] for fault in answer.json["errors"]} == set(wrong)
    told = {fault["field"]: fault["message"] for fault in answer.json["errors"]}
    assert told["localeId"] == (
        "Unsupported locale id provided. Supported locale ids include: 1033, 2058."
    )
    large = {"extendedMetadata": {"a": "x" * 200_000}}
    assert caller.ask("PATCH", f"/Metadata/{id_}", large).status == 200
    more = caller.ask("PATCH", f"/Metadata/{id_}", {"extendedMetadata": {"b": "x" * 100_000}})
    assert (more.status, more.text[:18]) == (400, "extendedMetadata: ")
    long = caller.ask("PATCH", f"/Metadata/{id_}", {"phone": "1" * 65537})
    assert (long.status, long.text[:7]) == (400, "phone: ")
    after = asked(caller).json
    assert [*after[0]["extendedMetadataValues"]] == ["a"]
    assert {**after[0], "extendedMetadataValues": {}, "extendedMetadata": []} == before[0]


@ours
def test_another_locale_has_an_interaction_recognized_once_more(
    caller: Caller, books: Books
) -> None:
    id_ = books.arrive(status=Status.READY)
    books.step(id_, "listen", StepStatus.DONE)
    books.step(id_, "transcribe", StepStatus.DONE, 1)
    answer = caller.ask("PATCH", f"/Metadata/{id_}", {"localeId": 2058})
    assert (answer.json["localeId"], answer.json["status"]) == (2058, "Processing")
    again = caller.ask("PATCH", f"/Metadata/{id_}", {"localeId": "2058"})
    assert again.json == answer.json
    steps = caller.send("GET", f"/v1/interactions/{id_}").json["steps"]
    assert [step["name"] for step in steps] == ["listen"]


@published
def test_nobody_patches_or_lists_what_is_not_theirs(
    caller: Caller, stranger: Caller, books: Books
) -> None:
    id_ = books.arrive()
    assert ids(asked(stranger)) == []
    assert ids(stranger.ask("POST", "/Metadata", period())) == []
    theirs = stranger.ask("PATCH", f"/Metadata/{id_}", {"phone": "1"})
    unknown = stranger.ask("PATCH", f"/Metadata/{uuid4()}", {"phone": "1"})
    assert (theirs.status, theirs.text) == (unknown.status, unknown.text)
    assert theirs.status == 404
    assert stranger.ask("PATCH", "/Metadata/7", {}).status == 404
    assert asked(caller).json[0]["phone"] is None


@ours
@on_sqlite
def test_metadata_need_their_grants(service: Service, database: Database) -> None:
    writer = service.caller("Third", [Grant.INGEST, Grant.MANAGE])
    reader = service.caller("Third", [Grant.READ])
    assert asked(reader).status == 200
    assert reader.ask("PATCH", f"/Metadata/{uuid4()}", {}).status == 403
    assert asked(writer).status == 403
    assert writer.ask("POST", "/Metadata", period()).status == 403
    assert writer.send("GET", "/Metadata", authorization="").status == 401


@published
@on_sqlite
def test_text_media_are_not_taken(caller: Caller) -> None:
    assert caller.ask("POST", "/TextMedia/Upload", {}).status == 404
