"""`/v1` on the wire: request in; status, headers, body out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from books import NOON, Books
from earmark.access import Access
from earmark.database import Database
from earmark.directory import Directory
from earmark.intake import Intake, Limits
from earmark.interactions import Interactions, media_key, waveform_key
from earmark.model import (
    EXTENSIONS,
    AgentSent,
    Customer,
    Direction,
    Grant,
    InteractionDate,
    MediaType,
    Status,
    StepStatus,
)
from earmark.storage.local import LocalStore
from earmark.web import Heart
from earmark.web.api import media as wire_media
from earmark.web.api import records
from shared_app import App

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.origin("ours")

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""For what the database has no part in."""

DATA = random.Random(7).randbytes(1_500_001)
DIGEST = hashlib.sha256(DATA).digest()
ETAG = f'"{DIGEST.hex()}"'
REPR_DIGEST = f"sha-256=:{base64.b64encode(DIGEST).decode()}:"

Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("objects"))


@pytest.fixture
def access(database: Database) -> Access:
    return access_to(database)


def access_to(database: Database) -> Access:
    return Access(database, secret_key=b"k" * 32, issuer="https://earmark.example")


@pytest.fixture
def app(database: Database, store: LocalStore, access: Access) -> App:
    return app_of(database, store, access)


def app_of(database: Database, store: LocalStore, access: Access) -> App:
    limits = Limits(upload_bytes=1, reserve_bytes=0, buffer_bytes=1)
    return App(
        Heart(
            access=access,
            intake=Intake(database, store, limits=limits, pool=ThreadPoolExecutor(1)),
            interactions=Interactions(database, store),
            directory=Directory(database),
            readiness=dict,
            upload_idle_seconds=1,
        )
    )


class Caller:
    """A client of an organization, with a token."""

    def __init__(self, app: App, access: Access, organization: str, **more: Any) -> None:
        made = access.create_client(
            organization=organization, create_organization=True, name="Reader", **more
        )
        self.app = app
        self.organization_id = made.client.organization_id
        self.token = access.grant_token(made.client.id, made.secret).access_token
        self.headers = {"Authorization": f"Bearer {self.token}"}

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        return send(self.app, method, path, headers={**self.headers, **(headers or {})}, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.send("GET", path, **options)


def send(app: App, method: str, path: str, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, f"/v1/interactions{path}", **options)

    return asyncio.run(go())


@pytest.fixture
def caller(app: App, access: Access) -> Caller:
    return Caller(app, access, "First", grants=list(Grant))


@pytest.fixture
def stranger(app: App, access: Access) -> Caller:
    return Caller(app, access, "Second", grants=list(Grant))


@pytest.fixture
def books(database: Database, caller: Caller) -> Books:
    return Books(database, caller.organization_id)


@pytest.fixture
def stored(books: Books, store: LocalStore) -> UUID:
    """A processed recording of 1.5 MB."""
    return store_one(books, store)


def store_one(books: Books, store: LocalStore) -> UUID:
    id_ = books.receive('calls/é "1".wav', status=Status.READY)
    books.change(id_, size_bytes=len(DATA), sha256=DIGEST)
    store.put(media_key(id_), DATA)
    store.put(waveform_key(id_), b'{"version":2,"data":[]}')
    return id_


@pytest.fixture(scope="module")
def library(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The database of `reader` and `recording`: nobody changes it."""
    path = tmp_path_factory.mktemp("library") / "earmark.sqlite3"
    shutil.copyfile(sqlite_template, path)
    with contextlib.closing(Database(f"sqlite:///{path}")) as database:
        yield database


@pytest.fixture(scope="module")
def reader(library: Database, store: LocalStore) -> Caller:
    """A client that may only read; all tests share it that ask for no more."""
    access = access_to(library)
    return Caller(app_of(library, store, access), access, "First", grants=[Grant.READ])


@pytest.fixture(scope="module")
def recording(library: Database, reader: Caller, store: LocalStore) -> UUID:
    """What is stored for the reader, as by `stored`."""
    return store_one(Books(library, reader.organization_id), store)


def bare(answer: httpx.Response) -> dict[str, str]:
    """The headers, less those that tell of the request."""
    told = {"x-request-id", "ratelimit", "ratelimit-policy"}
    return {name: value for name, value in answer.headers.items() if name not in told}


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    body = answer.json()
    assert (answer.status_code, body["code"], body["status"]) == (status, code, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(body) >= {"type", "title", "detail"}


# The record


def test_the_record_has_every_key_and_says_it_in_the_words_of_v1(
    caller: Caller, books: Books
) -> None:
    node, agent = books.node("north"), books.agent("7")
    instant = datetime(2022, 3, 18, 21, 56, 9, 500000, UTC)
    id_ = books.receive(
        "calls/1.wav",
        agent_id=agent,
        node_id=node,
        status=Status.PROCESSING,
        interaction_date=InteractionDate(instant, -240, "2022-03-18T17:56:09.5-04:00"),
        direction=Direction.OUTBOUND,
        customer=Customer("Ana", "+1", "ana@example.org"),
        agent=AgentSent("7"),
        extended={"a": [1]},
        client_call_id="call-1",
        metadata_sent='{"FileName":"calls/1.wav"}',
    )
    audio = {
        "container": "wav",
        "codec": "pcm_mulaw",
        "sample_rate_hz": 8000,
        "channels": 2,
        "duration_seconds": 33.5,
        "header_duration_seconds": None,
    }
    books.change(id_, audio=audio, received_at=NOON)
    books.step(id_, "listen", StepStatus.FAILED)
    answer = caller.get(f"/{id_}")
    record = {
        "id": str(id_),
        "file_name": "calls/1.wav",
        "upload_type": "audio",
        "status": "processing",
        "received_at": "2022-03-18T12:00:00Z",
        "interaction_at": "2022-03-18T21:56:09.500000Z",
        "interaction_offset": "-04:00",
        "interaction_date_sent": "2022-03-18T17:56:09.5-04:00",
        "direction": "outbound",
        "customer": {"name": "Ana", "phone": "+1", "email": "ana@example.org"},
        "agent": {
            "id": str(agent),
            "code": "7",
            "first_name": "Joined",
            "last_name": "Agent",
        },
        "hierarchy": {"id": str(node), "code": "north", "name": "north"},
        "locale": "en-US",
        "client_call_id": "call-1",
        "extended": {"a": [1]},
        "metadata_sent": '{"FileName":"calls/1.wav"}',
        "size_bytes": 3,
        "sha256": "ab" * 32,
        "audio": audio,
        "transcript": None,
        "chat_message_count": None,
        "chat_first_at": None,
        "chat_last_at": None,
        "warnings": [{"code": "container_differs", "message": "It is a WAV."}],
        "steps": [
            {
                "name": "listen",
                "status": "failed",
                "attempts": 3,
                "started_at": "2022-03-18T12:00:00Z",
                "finished_at": "2022-03-19T12:00:00Z",
                "error": {"code": "broken", "message": "It is broken."},
                "next_attempt_at": None,
                "progress": None,
            }
        ],
        "matches": None,
    }
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == record
    assert list(answer.json()) == list(record)
    assert caller.get("").json() == {"items": [record], "next": None}


def test_what_is_not_known_is_null_and_no_key_is_missing(caller: Caller, books: Books) -> None:
    id_ = books.receive("a.zip", media_type=MediaType.CHAT)
    record = caller.get(f"/{id_}").json()
    absent = (
        *("interaction_at", "interaction_offset", "interaction_date_sent", "direction"),
        *("hierarchy", "client_call_id", "audio"),
    )
    assert [record[name] for name in absent] == [None] * len(absent)
    assert record["customer"] == {"name": None, "phone": None, "email": None}
    assert record["agent"] == dict.fromkeys(["id", "code", "first_name", "last_name"])
    assert (record["upload_type"], record["extended"], record["steps"]) == ("chat", {}, [])


@pytest.mark.parametrize(
    ("minutes", "text"),
    [(None, None), (0, "+00:00"), (-240, "-04:00"), (345, "+05:45"), (-30, "-00:30")],
)
def test_an_offset_is_said_as_in_rfc_3339(minutes: int | None, text: str | None) -> None:
    assert records.offset(minutes) == text


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (Status.RECEIVED, "processing"),
        (Status.PROCESSING, "processing"),
        (Status.READY, "ready"),
        (Status.FAILED, "failed"),
    ],
)
def test_each_status_has_its_word_and_is_found_by_it(
    caller: Caller, books: Books, status: Status, word: str
) -> None:
    id_ = books.receive(status=status)
    assert caller.get(f"/{id_}").json()["status"] == word
    assert listed(caller, status=word) == [str(id_)]
    for other in {"processing", "ready", "failed"} - {word}:
        assert listed(caller, status=other) == []


# The list


def listed(caller: Caller, **params: Any) -> list[str]:
    answer = caller.get("", params=params)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_each_filter_is_named_as_documented(caller: Caller, books: Books) -> None:
    node, agent = books.node("north"), books.agent("7")
    id_ = str(
        books.receive(
            "calls/1.wav",
            NOON,
            agent_id=agent,
            node_id=node,
            agent=AgentSent("7"),
            direction=Direction.INBOUND,
            locale="es-MX",
            client_call_id="call-1",
        )
    )
    books.receive("other.wav", NOON - timedelta(days=7))
    filters = {
        "from": "2022-03-18",
        "agent": str(agent),
        "hierarchy": str(node),
        "agent_code": "7",
        "locale": "es-MX",
        "direction": "inbound",
        "client_call_id": "call-1",
        "prefix": "calls/",
    }
    for name, value in filters.items():
        assert listed(caller, **{name: value}) == [id_], name
    assert listed(caller, **filters) == [id_]
    assert listed(caller, hierarchy=[str(uuid4()), str(node)]) == [id_]
    assert listed(caller, to="2022-03-18") != [id_]


@pytest.mark.parametrize(
    ("since", "is_found"),
    [
        ("2022-03-18", True),
        ("2022-03-18T12:00:00", True),
        ("2022-03-18T12:00:00Z", True),
        ("2022-03-18T08:00:00-04:00", True),
        ("2022-03-18T12:00:00.000001Z", False),
        ("2022-03-18T08:00:01-04:00", False),
        ("2022-03-19", False),
    ],
)
def test_times_are_dates_or_rfc_3339_and_utc_where_they_do_not_say(
    caller: Caller, books: Books, since: str, *, is_found: bool
) -> None:
    books.receive(at=NOON)
    assert bool(listed(caller, **{"from": since})) == is_found
    assert bool(listed(caller, to=since)) != is_found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "received"),
        ("status", "READY"),
        ("from", "yesterday"),
        ("from", "1647604800"),
        ("to", "2022-02-30"),
        ("agent", "7"),
        ("hierarchy", "north"),
        ("locale", "fr-FR"),
        ("direction", "Inbound"),
        ("prefix", "a\0"),
        ("client_call_id", "\0"),
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "many"),
        ("cursor", "x"),
        ("form", "2022-03-18"),
    ],
)
def test_a_wrong_value_is_a_problem_that_names_it(reader: Caller, name: str, value: str) -> None:
    answer = reader.get("", params={name: value})
    assert_problem(answer, 400, "invalid_value")
    (fault,) = answer.json()["errors"]
    assert fault["field"].split(".")[0] == name
    assert fault["message"]


def test_pages_follow_by_next_until_it_is_null(caller: Caller, books: Books) -> None:
    wanted = [str(books.receive(at=NOON - timedelta(days=day))) for day in range(5)]
    seen, cursor = [], None
    while True:
        page = caller.get("", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        assert set(page) == {"items", "next"}
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == wanted


@on_sqlite
def test_a_page_has_fifty_unless_told(caller: Caller, books: Books) -> None:
    for _ in range(51):
        books.receive()
    assert len(listed(caller)) == 50
    assert len(listed(caller, limit=1000)) == 51


# Two organizations, grants, ids

ROUTES = (
    ("GET", ""),
    ("GET", "/media"),
    ("HEAD", "/media"),
    ("GET", "/waveform"),
    ("GET", "/vcon"),
    ("GET", "/vcon?inline=true"),
    ("POST", "/retry"),
    ("DELETE", ""),
)


@pytest.mark.parametrize(("method", "rest"), ROUTES)
def test_another_organizations_id_answers_exactly_as_an_unknown_one(
    stranger: Caller, caller: Caller, stored: UUID, method: str, rest: str
) -> None:
    theirs = stranger.send(method, f"/{stored}{rest}")
    unknown = stranger.send(method, f"/{uuid4()}{rest}")
    no_uuid = stranger.send(method, f"/nonsense{rest}")
    assert theirs.status_code == 404
    for answer in (theirs, unknown, no_uuid):
        assert answer.status_code == 404
        assert answer.content == theirs.content
        assert bare(answer) == bare(theirs)
    if method != "HEAD":
        assert_problem(theirs, 404, "not_found")
    assert listed(stranger) == []
    assert listed(caller) == [str(stored)]
    assert caller.get(f"/{stored}/media").content == DATA


@pytest.mark.parametrize(("method", "rest"), [*ROUTES, ("GET", None)])
def test_every_route_needs_a_token_and_its_grant(
    app: App, access: Access, stored: UUID, method: str, rest: str | None
) -> None:
    path = "" if rest is None else f"/{stored}{rest}"
    assert send(app, method, path).status_code == 401
    # Judged before the id is looked at, so that nothing is learnt from it.
    assert rest is None or send(app, method, f"/nonsense{rest}").status_code == 401
    needed = {"POST": Grant.MANAGE, "DELETE": Grant.DELETE}.get(method, Grant.READ)
    others = Caller(app, access, "First", grants=[grant for grant in Grant if grant != needed])
    answer = others.send(method, path)
    assert answer.status_code == 403
    if method != "HEAD":
        assert_problem(answer, 403, "insufficient_scope")


@pytest.mark.parametrize("spelling", ["{}", "urn:uuid:{}", "{{{}}}"])
def test_an_id_is_one_in_its_usual_spelling_only(
    reader: Caller, recording: UUID, spelling: str
) -> None:
    assert reader.get(f"/{str(recording).upper()}").status_code == 200
    expected = 200 if spelling == "{}" else 404
    assert reader.get(f"/{spelling.format(recording)}").status_code == expected
    assert reader.get(f"/{recording.hex}").status_code == 404


# Media


def test_media_comes_whole_with_its_digest_to_be_saved_and_never_sniffed(
    reader: Caller, recording: UUID
) -> None:
    answer = reader.get(f"/{recording}/media")
    assert (answer.status_code, answer.content) == (200, DATA)
    named = "attachment; filename=\"_ _1_.wav\"; filename*=UTF-8''%C3%A9%20%221%22.wav"
    assert bare(answer) == {
        "etag": ETAG,
        "repr-digest": REPR_DIGEST,
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-type": "audio/wav",
        "content-disposition": named,
        "x-content-type-options": "nosniff",
        "content-length": str(len(DATA)),
    }


def test_head_says_the_same_without_the_bytes(reader: Caller, recording: UUID) -> None:
    whole = reader.get(f"/{recording}/media")
    answer = reader.send("HEAD", f"/{recording}/media", headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert bare(answer) == bare(whole)


LAST = len(DATA) - 1


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1-262145", 1, 262145),
        ("bytes=262143-524289", 262143, 524289),
        ("bytes=1500000-", LAST, LAST),
        ("bytes=-1", LAST, LAST),
        ("bytes=-700001", len(DATA) - 700001, LAST),
        ("bytes=-99999999", 0, LAST),
        ("bytes=0-", 0, LAST),
        ("bytes=5-99999999", 5, LAST),
        ("Bytes= 7-9", 7, 9),
    ],
)
def test_one_range_is_answered_with_it(
    reader: Caller, recording: UUID, asked: str, first: int, last: int
) -> None:
    answer = reader.get(f"/{recording}/media", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(DATA)}"
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.content == DATA[first : last + 1]
    assert answer.headers["repr-digest"] == REPR_DIGEST
    assert answer.headers["etag"] == ETAG


@pytest.mark.parametrize("asked", ["bytes=1500001-", "bytes=1500001-1500002", "bytes=-0"])
def test_a_range_outside_says_how_large_the_media_is(
    reader: Caller, recording: UUID, asked: str
) -> None:
    answer = reader.get(f"/{recording}/media", headers={"Range": asked})
    assert_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "asked", ["bytes=5-4", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "bytes=1--2", ""]
)
def test_what_is_no_single_range_is_ignored(reader: Caller, recording: UUID, asked: str) -> None:
    answer = reader.get(f"/{recording}/media", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, DATA)


@given(size=st.integers(1, 50), first=st.integers(0, 60), last=st.integers(0, 60))
def test_every_range_gives_what_it_names(size: int, first: int, last: int) -> None:
    everything = range(size)
    for sent, wanted in (
        (f"bytes={first}-{last}", everything[first : last + 1]),
        (f"bytes={first}-", everything[first:]),
        (f"bytes=-{last}", everything[max(0, size - last) :]),
    ):
        try:
            part = wire_media.parse_range(sent, size)
        except wire_media.UnsatisfiableError:
            assert not wanted
        else:
            assert (part is None) == (sent.count("-") == 1 and not wanted)
            assert part is None or range(*part) == wanted


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (ETAG, 206),
        ('"other"', 200),
        (f"W/{ETAG}", 200),
        ("Fri, 18 Mar 2022 12:00:00 GMT", 200),
    ],
)
def test_a_range_holds_only_for_the_bytes_that_the_caller_knows(
    reader: Caller, recording: UUID, condition: str, status: int
) -> None:
    headers = {"Range": "bytes=3-4", "If-Range": condition}
    answer = reader.get(f"/{recording}/media", headers=headers)
    assert answer.status_code == status
    assert answer.content == (DATA[3:5] if status == 206 else DATA)


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        (ETAG, 304),
        (f"W/{ETAG}", 304),
        (f'"other", {ETAG}', 304),
        ("*", 304),
        ('"other"', 200),
        (DIGEST.hex(), 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_bytes_that_the_caller_has_are_not_sent_again(
    reader: Caller, recording: UUID, method: str, tags: str, status: int
) -> None:
    headers = {"If-None-Match": tags, "Range": "bytes=9999999-"}
    if status == 200:
        del headers["Range"]
    answer = reader.send(method, f"/{recording}/media", headers=headers)
    assert answer.status_code == status
    assert (answer.headers["etag"], answer.headers["repr-digest"]) == (ETAG, REPR_DIGEST)
    if status == 304:
        assert (answer.content, answer.headers.get("content-type")) == (b"", None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.wav", 'attachment; filename="a.wav"'),
        ("x/2022-03-18T21:52:26.wav", 'attachment; filename="2022-03-18T21:52:26.wav"'),
        ("a b.wav", 'attachment; filename="a b.wav"'),
        ("100%.wav", "attachment; filename=\"100_.wav\"; filename*=UTF-8''100%25.wav"),
        ("日.wav", "attachment; filename=\"_.wav\"; filename*=UTF-8''%E6%97%A5.wav"),
        ("a';b.wav", "attachment; filename=\"a_;b.wav\"; filename*=UTF-8''a%27%3Bb.wav"),
    ],
)
def test_media_is_saved_under_the_last_segment_of_its_name(name: str, says: str) -> None:
    assert wire_media.disposition(name) == says


def test_every_extension_has_its_content_type() -> None:
    assert set(wire_media.CONTENT_TYPES) == frozenset().union(*EXTENSIONS.values())


@on_sqlite
def test_media_that_the_storage_lost_is_503(
    caller: Caller, stored: UUID, store: LocalStore
) -> None:
    store.delete(media_key(stored))
    answer = caller.get(f"/{stored}/media")
    assert_problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


# Waveform, deletion, retry


def test_a_waveform_is_json(reader: Caller, recording: UUID) -> None:
    answer = reader.get(f"/{recording}/waveform")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"version": 2, "data": []}


def test_a_waveform_is_409_while_processing_and_404_for_a_chat(
    caller: Caller, books: Books
) -> None:
    assert_problem(caller.get(f"/{books.receive()}/waveform"), 409, "processing")
    chat = books.receive("a.tar", media_type=MediaType.CHAT)
    assert_problem(caller.get(f"/{chat}/waveform"), 404, "not_found")


def test_a_deleted_interaction_is_204_then_404(caller: Caller, stored: UUID) -> None:
    answer = caller.send("DELETE", f"/{stored}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-type" not in answer.headers
    assert_problem(caller.send("DELETE", f"/{stored}"), 404, "not_found")
    assert_problem(caller.get(f"/{stored}/media"), 404, "not_found")
    assert listed(caller) == []


def test_a_retry_is_202_and_then_409(caller: Caller, books: Books) -> None:
    id_ = books.receive(status=Status.FAILED)
    answer = caller.send("POST", f"/{id_}/retry")
    assert (answer.status_code, answer.content) == (202, b"")
    assert_problem(caller.send("POST", f"/{id_}/retry"), 409, "processing")
    ready = books.receive(status=Status.READY)
    assert_problem(caller.send("POST", f"/{ready}/retry"), 409, "nothing_to_retry")


def retry_many(caller: Caller, **order: Any) -> httpx.Response:
    return caller.send("POST", "/retry", json=order)


def test_many_are_retried_by_filters_or_ids(caller: Caller, books: Books) -> None:
    failed = [books.receive(f"a/{number}.wav", status=Status.FAILED) for number in range(3)]
    for id_ in failed:
        books.step(id_, "listen", StepStatus.FAILED, code="unreadable")
    ready = books.receive("b/ready.wav", status=Status.READY)
    answer = retry_many(caller, error_code="unreadable", prefix="a/", limit=2, dry_run=True)
    assert answer.status_code == 200
    none = {"processing": 0, "nothing_to_retry": 0, "not_found": 0}
    assert answer.json() | {"next": "…"} == {"retried": 2, "left": none, "next": "…"}
    answer = retry_many(caller, error_code="unreadable", limit=2)
    assert (answer.json()["retried"], answer.json()["left"]) == (2, none)
    answer = retry_many(caller, error_code="unreadable", limit=2, cursor=answer.json()["next"])
    assert answer.json() == {"retried": 1, "left": none, "next": None}
    unknown = "00000000-0000-0000-0000-000000000000"
    answer = retry_many(caller, ids=[*map(str, failed), str(ready), unknown])
    left = {"processing": 3, "nothing_to_retry": 1, "not_found": 1}
    assert answer.json() == {"retried": 0, "left": left, "next": None}
    assert caller.send("POST", "/retry").json() == {"retried": 0, "left": none, "next": None}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"[]", {"body"}),
        (b"{", {"body"}),
        (b'{"ids": [], "limit": 0}', {"ids", "limit"}),
        (b'{"ids": ["7"]}', {"ids.0"}),
        (b'{"idds": []}', {"idds"}),
        (b'{"ids": ["00000000-0000-0000-0000-000000000000"], "status": "failed"}', {"ids"}),
        (b'{"from": "yesterday"}', {"from"}),
        (b'{"error_code": "\\u0000", "cursor": "?"}', {"error_code", "cursor"}),
    ],
)
def test_a_wrong_order_to_retry_is_400_and_names_what_is_wrong(
    caller: Caller, body: bytes, fields: set[str]
) -> None:
    answer = caller.send("POST", "/retry", content=body)
    assert_problem(answer, 400, "invalid_value")
    assert {fault["field"] for fault in answer.json()["errors"]} == fields


def test_no_more_than_a_thousand_ids_are_taken_nor_a_large_body(caller: Caller) -> None:
    ids = ["00000000-0000-0000-0000-000000000000"] * 1001
    assert retry_many(caller, ids=ids[1:]).status_code == 200
    assert_problem(retry_many(caller, ids=ids), 400, "invalid_value")
    assert_problem(caller.send("POST", "/retry", content=b" " * (1 << 18 | 1)), 413, "too_large")


def test_a_retry_of_many_needs_the_grant(app: App, access: Access) -> None:
    reader = Caller(app, access, "First", grants=[Grant.READ])
    assert_problem(retry_many(reader), 403, "insufficient_scope")


def test_a_step_that_waits_says_until_when(caller: Caller, books: Books) -> None:
    id_ = books.receive()
    books.step(id_, "transcribe", StepStatus.WAITING, code="speech_unreachable")
    record = caller.get(f"/{id_}").json()
    (step,) = record["steps"]
    assert (record["status"], step["status"]) == ("processing", "waiting")
    assert step["next_attempt_at"] == "2022-03-19T12:00:00Z"
    assert step["error"]["code"] == "speech_unreachable"
    assert listed(caller, error_code="speech_unreachable") == [str(id_)]
    assert listed(caller, error_code="worker_lost") == []


# What is documented


@on_sqlite
def test_every_operation_is_documented_with_the_statuses_that_it_has(app: App) -> None:
    document = app.built.openapi()
    assert document["openapi"].startswith("3.1")
    statuses = {
        operation["operationId"]: " ".join(sorted(operation["responses"]))
        for name, path in document["paths"].items()
        if name.startswith("/v1/")
        for operation in path.values()
    }
    assert statuses == {
        "get_download": "200 401 403 404 429 503",
        "list_events": "200 400 401 403 429 503",
        "stream_events": "200 400 401 403 429 503",
        "list_interactions": "200 400 401 403 429 503",
        "get_interaction": "200 401 403 404 429 503",
        "delete_interaction": "204 401 403 404 429 503",
        "get_interaction_receipt": "200 401 403 404 429 503",
        "get_interaction_media": "200 206 304 401 403 404 416 429 503",
        "head_interaction_media": "200 304 401 403 404 429 503",
        "get_interaction_transcript": "200 401 403 404 406 409 429 503",
        "get_interaction_transcript_as": "200 401 403 404 409 429 503",
        "get_interaction_vcon": "200 304 400 401 403 404 409 429 503",
        "get_interaction_waveform": "200 401 403 404 409 429 503",
        "retry_interaction": "202 401 403 404 409 429 503",
        "retry_interactions": "200 400 401 403 413 429 503",
    }
    for name, path in document["paths"].items():
        for operation in path.values() if name.startswith("/v1/") else ():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert set(answer["content"]) == {"application/problem+json"}


@on_sqlite
def test_the_filters_are_documented_as_they_are_taken(app: App) -> None:
    parameters = app.built.openapi()["paths"]["/v1/interactions"]["get"]["parameters"]
    names = {parameter["name"] for parameter in parameters}
    assert names == {"from", "to", "limit", "cursor", "agent", "agent_code", "hierarchy"} | {
        *("status", "locale", "direction", "client_call_id", "prefix", "error_code", "q", "stem")
    }
    assert not any(parameter["required"] for parameter in parameters)


# A real server


@pytest.fixture
def address(app: App) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/interactions"
        server.should_exit = True
        thread.join()


@pytest.fixture
def large(books: Books, store: LocalStore) -> UUID:
    """More than the sockets between server and client hold."""
    id_ = books.receive(status=Status.READY)
    data = bytes(32 * 1024 * 1024)
    books.change(id_, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
    store.put(media_key(id_), data)
    return id_


def narrow() -> httpx.HTTPTransport:
    """A connection that holds little: left alone, the kernel lets one grow to tens of MiB."""
    return httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)])


@on_sqlite
def test_a_download_goes_on_when_its_interaction_is_deleted(
    address: str, caller: Caller, large: UUID
) -> None:
    with (
        httpx.Client(headers=caller.headers, transport=narrow()) as http,
        http.stream("GET", f"{address}/{large}/media") as answer,
    ):
        chunks = answer.iter_bytes(65536)
        size = len(next(chunks))
        assert http.delete(f"{address}/{large}").status_code == 204
        assert http.get(f"{address}/{large}/media").status_code == 404
        size += sum(len(chunk) for chunk in chunks)
    assert size == 32 * 1024 * 1024


@on_sqlite
@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.parametrize("what", ["media", "vcon?inline=true"])
def test_a_caller_that_goes_away_leaves_no_open_file(
    address: str, caller: Caller, large: UUID, store: LocalStore, what: str
) -> None:
    def is_open() -> bool:
        names = set()
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed since it was listed
                names.add(each.readlink().name)
        return media_key(large) in names

    with (
        httpx.Client(headers=caller.headers, transport=narrow()) as http,
        http.stream("GET", f"{address}/{large}/{what}") as answer,
    ):
        chunks = answer.iter_bytes(65536)  # kept: httpx leaves when its iterator is dropped
        next(chunks)
        assert is_open()
    give_up = time.monotonic() + 10
    while is_open() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not is_open()


@on_sqlite
def test_bytes_may_be_known_by_any_of_several_fields(caller: Caller, stored: UUID) -> None:
    fields = [*caller.headers.items(), ("If-None-Match", '"other"'), ("If-None-Match", ETAG)]
    answer = send(caller.app, "GET", f"/{stored}/media", headers=fields)
    assert answer.status_code == 304
