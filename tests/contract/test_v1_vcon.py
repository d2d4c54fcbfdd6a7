"""vCons on the wire: by address or with the media within, and who gets one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

import vcons
from books import Books
from contract.forms import WAV, form
from earmark.errors import UnavailableError
from earmark.interactions import media_key, sha512_key, transcript_key
from earmark.model import Grant, MediaType, Status, now
from earmark.model.transcript import Recognition, Segment, Speaker, Transcript
from earmark.render import format_named

if TYPE_CHECKING:
    from uuid import UUID

    from contract.serving import Answer, Caller, Service
    from earmark.database import Database

pytestmark = pytest.mark.origin("ours")

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""Where the database has no part in what is shown."""

RECORDING = bytes(range(256)) * 3000 + b"\xff"
SAID = Transcript(
    (Segment("Good morning.", Speaker.AGENT, 0.0, 1.5, channel=0),),
    "en",
    duration_seconds=3.0,
    recognition=Recognition("local", "base", "0" * 64),
)
WROTE = Transcript(
    (
        Segment("¿Hola?", Speaker.CUSTOMER, name="Ana"),
        Segment("Hola.", Speaker.AGENT, at=now(), name="Luis"),
    ),
    "es",
    chat_format="plain",
)
FACTS = {"language": "en", "segment_count": 1, "word_count": 2}


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture
def books(database: Database, caller: Caller) -> Books:
    return Books(database, caller.principal.organization_id)


def keep(
    service: Service, books: Books, transcript: Transcript | None = None, **fields: Any
) -> UUID:
    """An interaction with its media, in the end with this transcript."""
    id_ = books.receive(**{"status": Status.READY, **fields})
    books.change(id_, size_bytes=len(RECORDING), sha256=hashlib.sha256(RECORDING).digest())
    service.store.put(media_key(id_), RECORDING)
    if transcript:
        books.change(id_, transcript=FACTS)
        service.store.put(transcript_key(id_), format_named("json").render(transcript))
    return id_


@pytest.fixture
def call(service: Service, books: Books) -> UUID:
    return keep(service, books, SAID, name='2026/é "1".wav')


def take(caller: Caller, id_: object, query: str = "", **headers: str) -> Answer:
    return caller.send("GET", f"/v1/interactions/{id_}/vcon{query}", **headers)


def test_a_call_is_taken_away_with_the_address_and_sha512_of_its_recording(
    caller: Caller, call: UUID
) -> None:
    answer = take(caller, call)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/vcon")
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"_ _1_.vcon\"; filename*=UTF-8''%C3%A9%20%221%22.vcon"
    )
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    vcon = vcons.checked(answer.body)
    (recording,) = vcon["dialog"]
    assert (vcon["uuid"], vcon["subject"]) == (str(call), '2026/é "1".wav')
    assert vcon["parties"][2]["name"] == "First"
    assert vcon["analysis"][0]["body"]["segments"][0]["text"] == "Good morning."
    assert recording["url"] == f"https://earmark.example/v1/interactions/{call}/media"
    algorithm, _, digest = recording["content_hash"].partition("-")
    assert (algorithm, vcons.decoded(digest)) == ("sha512", hashlib.sha512(RECORDING).digest())
    path = recording["url"].removeprefix("https://earmark.example")
    assert caller.send("GET", path).body == RECORDING


@on_sqlite
def test_the_recording_may_be_within(caller: Caller, call: UUID) -> None:
    answer = take(caller, call, "?inline=true")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/vcon")
    assert int(answer.headers["content-length"]) == len(answer.body)
    (recording,) = vcons.checked(answer.body)["dialog"]
    assert vcons.decoded(recording["body"]) == RECORDING
    assert "url" not in recording


@on_sqlite
@pytest.mark.parametrize("status", [Status.READY, Status.FAILED])
@pytest.mark.parametrize("query", ["", "?inline=true"])
def test_what_has_no_transcript_is_taken_away_without_one(
    service: Service, caller: Caller, books: Books, status: Status, query: str
) -> None:
    vcon = vcons.checked(take(caller, keep(service, books, status=status), query).body)
    assert vcon["analysis"] == []
    assert [one["type"] for one in vcon["dialog"]] == ["recording"]


@pytest.mark.parametrize("status", [Status.RECEIVED, Status.PROCESSING])
def test_while_it_is_processed_there_is_none_yet(
    service: Service, caller: Caller, books: Books, status: Status
) -> None:
    answer = take(caller, keep(service, books, status=status))
    assert (answer.status, answer.json["code"]) == (409, "processing")
    # A retry takes nothing away that was there before it.
    assert take(caller, keep(service, books, SAID, status=status)).status == 200


@pytest.mark.parametrize("query", ["", "?inline=true"])
def test_a_chat_is_taken_away_message_by_message_with_its_archive(
    service: Service, caller: Caller, books: Books, query: str
) -> None:
    chat = keep(service, books, WROTE, name="a.zip", media_type=MediaType.CHAT)
    vcon = vcons.checked(take(caller, chat, query).body)
    assert [(one["body"], one["parties"]) for one in vcon["dialog"]] == [
        ("¿Hola?", [1]),
        ("Hola.", [0]),
    ]
    archive = vcon["attachments"][-1]
    assert archive["mediatype"] == "application/zip"
    if query:
        assert vcons.decoded(archive["body"]) == RECORDING
    else:
        assert archive["url"].endswith(f"/v1/interactions/{chat}/media")


def test_each_organization_is_named_in_its_own(
    service: Service, books: Books, database: Database, call: UUID, caller: Caller
) -> None:
    second = service.caller("Another")
    theirs = keep(service, Books(database, second.principal.organization_id))
    for who, id_, name in ((caller, call, "First"), (second, theirs, "Another")):
        assert vcons.checked(take(who, id_).body)["parties"][2]["name"] == name


def test_which_channel_is_the_agents_is_that_of_the_organization(
    service: Service, caller: Caller, books: Books
) -> None:
    service.access.set_agent_channel("First", 1)
    id_ = keep(service, books)
    audio = {"container": "wav", "codec": "pcm", "sample_rate_hz": 8000, "channels": 2}
    books.change(id_, audio=audio | {"duration_seconds": 3.0, "header_duration_seconds": None})
    assert vcons.checked(take(caller, id_).body)["dialog"][0]["parties"] == [1, 0]


@on_sqlite
def test_a_caller_who_has_it_is_not_sent_it_again(
    caller: Caller, call: UUID, books: Books
) -> None:
    tags = []
    for query in ("", "?inline=true"):
        first = take(caller, call, query)
        tags.append(first.headers["etag"])
        again = take(caller, call, query, if_none_match=tags[-1])
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tags[-1])
    assert tags[0] != tags[1]
    books.change(call, client_call_id="c-1")
    for query, tag in zip(("", "?inline=true"), tags, strict=True):
        assert take(caller, call, query, if_none_match=tag).status == 200
    before = take(caller, call, "?inline=true").headers["etag"]
    books.change(call, sha256=b"x" * 32)
    assert take(caller, call, "?inline=true").headers["etag"] != before


@on_sqlite
def test_the_sha512_is_computed_once_and_goes_with_the_interaction(
    service: Service, caller: Caller, call: UUID
) -> None:
    first = take(caller, call)
    stored = b"".join(service.store.read(sha512_key(call)))
    assert stored == hashlib.sha512(RECORDING).digest()
    service.store.delete(media_key(call))
    assert take(caller, call).body == first.body
    assert caller.send("DELETE", f"/v1/interactions/{call}").status == 204
    assert list(service.store.keys(older_than_seconds=-1)) == []


@on_sqlite
def test_a_full_disk_is_no_reason_to_withhold_a_vcon(
    service: Service, caller: Caller, call: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_key: str, _data: bytes) -> None:
        raise UnavailableError("the storage cannot take a new file")

    monkeypatch.setattr(service.store, "put", full)
    assert take(caller, call).status == 200


@on_sqlite
@pytest.mark.parametrize("query", ["", "?inline=true"])
def test_media_that_the_storage_lost_is_503(
    service: Service, caller: Caller, call: UUID, query: str
) -> None:
    service.store.delete(media_key(call))
    answer = take(caller, call, query)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")


@on_sqlite
def test_inline_is_a_boolean(caller: Caller, call: UUID) -> None:
    answer = take(caller, call, "?inline=maybe")
    assert (answer.status, answer.json["code"]) == (400, "invalid_value")
    assert [fault["field"] for fault in answer.json["errors"]] == ["inline"]
    assert take(caller, call, "?inline=false").body == take(caller, call).body


def test_another_organizations_is_answered_as_an_unknown_one(service: Service, call: UUID) -> None:
    stranger = service.caller("Second")
    for id_ in (call, "nonsense", "019f15a6-a752-726f-b9a2-279e0d16bc46"):
        for query in ("", "?inline=true"):
            answer = take(stranger, id_, query)
            assert (answer.status, answer.json["code"]) == (404, "not_found")


@on_sqlite
def test_it_takes_the_grant_read(service: Service, call: UUID) -> None:
    others = [grant for grant in Grant if grant is not Grant.READ]
    assert take(service.caller(grants=others), call).status == 403
    assert take(service.caller(grants=[Grant.READ]), call).status == 200


def test_what_was_uploaded_is_in_it_to_the_letter(
    service: Service, caller: Caller, books: Books
) -> None:
    metadata = '{"FileName": "b.wav",  "UploadType": "Audio", "Name": "Zoë", "Phone": "+1 555"}'
    answer = caller.upload(form(metadata.encode(), WAV))
    id_ = caller.interaction(answer).id
    books.change(id_, status=Status.FAILED)
    vcon = vcons.checked(take(caller, id_).body)
    assert vcon["attachments"][0]["body"] == metadata
    assert vcon["parties"][1]["name"] == "Zoë"
    digest = vcon["dialog"][0]["content_hash"].removeprefix("sha512-")
    assert vcons.decoded(digest) == hashlib.sha512(WAV).digest()
