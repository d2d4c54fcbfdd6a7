"""Each act over HTTP has its row: who, from where, by which request, on what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from books import Books
from contract import serving
from contract.forms import form, meta
from earmark.audit import Audit
from earmark.database import journal
from earmark.errors import UnavailableError
from earmark.interactions import transcript_key
from earmark.model import Status
from earmark.model.transcript import Segment, Speaker, Transcript
from earmark.render import format_named
from saying import say

if TYPE_CHECKING:
    from uuid import UUID

    from contract.serving import Answer, Caller, Service
    from earmark.audit import AuditRow
    from earmark.database import Database

pytestmark = pytest.mark.origin("ours")

FACTS = {
    "language": "en",
    "segment_count": 1,
    "word_count": 1,
    "engine": "local",
    "model": "base",
    "detected_language": "en",
}


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture
def kept(caller: Caller, service: Service, database: Database) -> UUID:
    """An interaction with media and a transcript."""
    id_ = caller.interaction(caller.upload(form(meta()))).id
    books = Books(database, caller.principal.organization_id)
    books.change(id_, transcript=FACTS, status=Status.READY)
    said = Transcript((Segment("Hello.", Speaker.AGENT, 0.0, 1.0),), "en", duration_seconds=1.0)
    service.store.put(transcript_key(id_), format_named("json").render(said))
    return id_


def rows(caller: Caller, after: int = 0) -> list[AuditRow]:
    audit = Audit(caller.service.database, key=b"k" * 32)
    return [*audit.rows(caller.principal.organization_id)][after:]


def test_an_upload_has_a_row_with_client_request_and_address(caller: Caller) -> None:
    answer = caller.upload(form(meta()), x_request_id="my-request")
    (row,) = [row for row in rows(caller) if row.action == "interaction.receive"]
    assert row.actor == f"client:{caller.principal.client_id}"
    assert (row.request_id, row.address) == ("my-request", "127.0.0.1")
    assert row.subject == answer.json["id"]
    assert set(row.detail) == {"size_bytes", "sha256"}


def test_a_refused_upload_has_none(caller: Caller) -> None:
    before = len(rows(caller))
    assert caller.upload(form(meta(UploadType="Nothing"))).status == 400
    assert len(rows(caller)) == before


@pytest.mark.parametrize(
    ("path", "action", "status"),
    [
        ("/media", "interaction.read_media", 200),
        ("/transcript", "interaction.read_transcript", 200),
        ("/transcript.vtt", "interaction.read_transcript", 200),
        ("/vcon", "interaction.export", 200),
    ],
)
def test_reading_media_or_transcript_has_a_row(
    caller: Caller, kept: UUID, path: str, action: str, status: int
) -> None:
    before = len(rows(caller))
    answer = caller.send("GET", f"/v1/interactions/{kept}{path}", x_request_id="r-1")
    assert answer.status == status
    (row,) = rows(caller, before)
    assert (row.action, row.subject, row.request_id) == (action, str(kept), "r-1")
    assert (row.actor, row.address) == (f"client:{caller.principal.client_id}", "127.0.0.1")


def test_a_search_that_shows_what_was_said_has_a_row_that_names_where(
    caller: Caller, kept: UUID, database: Database
) -> None:
    said = Transcript((Segment("Hello.", Speaker.AGENT, 0.0, 1.0),), "en")
    say(database, caller.principal.organization_id, kept, said)
    before = len(rows(caller))
    for shows_nothing in ("/v1/interactions?q=goodbye", "/v1/interactions"):
        assert caller.send("GET", shows_nothing).status == 200
    assert rows(caller, before) == []
    answer = caller.send("GET", "/v1/interactions?q=hello", x_request_id="s-1")
    assert [item["id"] for item in answer.json["items"]] == [str(kept)]
    (row,) = rows(caller, before)
    assert (row.action, row.request_id) == ("interaction.search", "s-1")
    assert row.subject == str(caller.principal.organization_id)
    assert row.detail == {"shown": [str(kept)]}
    assert "hello" not in repr(row).lower()  # a word may be a name


def test_a_range_is_a_reading_and_what_shows_no_byte_is_none(caller: Caller, kept: UUID) -> None:
    before = len(rows(caller))
    path = f"/v1/interactions/{kept}/media"
    etag = caller.send("HEAD", path).headers["etag"]
    assert caller.send("GET", path, if_none_match=etag).status == 304
    assert caller.send("GET", path, range="bytes=999999999-").status == 416
    assert caller.send("GET", f"/v1/interactions/{kept}").status == 200
    assert rows(caller, before) == []
    assert caller.send("GET", path, range="bytes=0-9").status == 206
    assert [row.action for row in rows(caller, before)] == ["interaction.read_media"]


@pytest.mark.parametrize("path", ["/{}/media", "/{}/transcript", "?q=hello"])
def test_nothing_is_shown_that_cannot_be_told(
    caller: Caller, kept: UUID, database: Database, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Transcript((Segment("Hello.", Speaker.AGENT, 0.0, 1.0),), "en")
    say(database, caller.principal.organization_id, kept, said)

    def away(*_: object, **__: object) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(journal.Reads, "record", away)
    answer = caller.send("GET", f"/v1/interactions{path.format(kept)}")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")


def test_another_organizations_attempt_shows_nothing_and_has_no_row(
    caller: Caller, kept: UUID, service: Service
) -> None:
    stranger = service.caller("Second")
    before = len(rows(stranger))
    for path in ("/media", "/transcript"):
        assert stranger.send("GET", f"/v1/interactions/{kept}{path}").status == 404
    assert rows(stranger, before) == []


def send_json(caller: Caller, method: str, path: str, sent: object) -> Answer:
    return caller.service.runner.run(
        serving.exchange(
            caller.service.app,
            method,
            path,
            headers={
                "authorization": f"Bearer {caller.token}",
                "content_type": "application/json",
                "x_request_id": "change-1",
            },
            chunks=[json.dumps(sent).encode()],
        )
    )


def test_changes_of_agents_and_hierarchy_and_deletions_have_rows(
    caller: Caller, kept: UUID
) -> None:
    before = len(rows(caller))
    agent = {"firstName": "A", "lastName": "B", "agentEmail": "a@example.org"}
    made = send_json(caller, "POST", "/Agent", agent)
    assert made.status == 200, made.text
    path = f"/Agent/{made.json['id']}"
    assert send_json(caller, "PUT", path, {"firstName": "C"}).status == 200
    assert caller.send("DELETE", f"/v1/interactions/{kept}", x_request_id="d").status == 204
    told = [(row.action, row.request_id, row.address) for row in rows(caller, before)]
    assert told == [
        ("agent.create", "change-1", "127.0.0.1"),
        ("agent.change", "change-1", "127.0.0.1"),
        ("interaction.delete", "d", "127.0.0.1"),
    ]


def test_a_change_that_nobody_asked_for_over_http_bears_no_request(
    caller: Caller, kept: UUID
) -> None:
    caller.service.access.disable_client(caller.principal.client_id)
    row = rows(caller)[-1]
    assert (row.action, row.actor) == ("client.disable", "operator")
    assert (row.request_id, row.address) == (None, None)
