"""The step that reads chats, and those that an earlier version left unread."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

import recordings
from books import NOON, Books
from chats import LOG, tarred, zipped
from earmark import sandbox
from earmark.database import processing, tables
from earmark.interactions import Interactions, media_key, transcript_key
from earmark.model import (
    AgentSent,
    ChatFacts,
    Customer,
    MediaType,
    Status,
    StepStatus,
    TranscriptFacts,
    Warn,
)
from earmark.model.transcript import Speaker, Transcript
from earmark.pipeline import Tools, load_steps
from earmark.pipeline.run import Pipeline
from earmark.render.json import parse
from earmark.sandbox import Limits
from earmark.storage import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database
    from earmark.model import Interaction, Principal


class Desk:
    """Uploads of chats, and the pipeline that processes them."""

    def __init__(self, database: Database, store: Store, organization: UUID) -> None:
        self.database = database
        self.store = store
        self.books = Books(database, organization)
        steps = load_steps(Tools(store=store, limits=Limits()))
        self.pipeline = Pipeline(database, steps, stopping=threading.Event())

    def receive(self, data: bytes, **fields: object) -> UUID:
        id_ = self.books.receive("chat.zip", media_type=MediaType.CHAT, **fields)
        self.store.put(media_key(id_), data)
        return id_

    def process(self, id_: UUID, number: int = 1) -> Interaction:
        self.pipeline.process(str(self.books.organization_id), str(id_), str(number))
        return self.load(id_)

    def load(self, id_: UUID) -> Interaction:
        from processing import load

        return load(self.database, id_)


@pytest.fixture
def desk(
    tmp_path: Path, database: Database, organization: UUID, monkeypatch: pytest.MonkeyPatch
) -> Desk:
    monkeypatch.setattr(sandbox, "run", recordings.decoded_here)
    return Desk(database, open_store(f"file:{tmp_path}/objects"), organization)


def test_a_chat_becomes_a_transcript_with_its_facts(desk: Desk) -> None:
    side = '{"queue": "appointments", "csat": 5}'
    id_ = desk.receive(
        zipped({"4711.json_chat": LOG, "4711.json_meta": side}),
        extended={"queue": "general"},
        customer=Customer(name="Chris Example"),
    )
    found = desk.process(id_)
    assert found.status is Status.READY
    assert found.chat == ChatFacts(
        2,
        datetime(2026, 3, 2, 9, 15, tzinfo=UTC),
        datetime(2026, 3, 2, 9, 15, 20, tzinfo=UTC),
    )
    assert found.transcript == TranscriptFacts("en", 2, 3)
    assert found.extended == {"queue": "general", "csat": 5}
    transcript = parse(b"".join(desk.store.read(transcript_key(id_))))
    assert [one.speaker for one in transcript.segments] == [Speaker.AGENT, Speaker.CUSTOMER]
    assert (transcript.chat_format, transcript.recognition) == ("earmark", None)


def test_the_agent_who_was_joined_lends_the_name(desk: Desk) -> None:
    id_ = desk.receive(
        zipped({"a.txt": "Joined Agent: hi\nSomebody: hi"}), agent_id=desk.books.agent("7")
    )
    desk.process(id_)
    transcript = parse(b"".join(desk.store.read(transcript_key(id_))))
    assert [one.speaker for one in transcript.segments] == [Speaker.AGENT, Speaker.UNKNOWN]


def test_a_name_that_was_sent_counts_before_that_of_the_agent_who_was_joined(desk: Desk) -> None:
    sent = AgentSent("7", "Dana", "Reyes")
    log = zipped({"a.txt": "Dana: hi\nJoined Agent: hi"})
    id_ = desk.receive(log, agent_id=desk.books.agent("7"), agent=sent)
    desk.process(id_)
    transcript = parse(b"".join(desk.store.read(transcript_key(id_))))
    assert [one.speaker for one in transcript.segments] == [Speaker.AGENT, Speaker.UNKNOWN]


def test_times_without_a_day_are_of_the_interaction(desk: Desk) -> None:
    id_ = desk.receive(zipped({"a.txt": "09:15 A: hi\n09:16 B: hi"}), at=NOON)
    found = desk.process(id_).chat
    assert found
    assert found.first_at == datetime(2022, 3, 18, 9, 15, tzinfo=UTC)


def test_a_chat_without_times_has_none(desk: Desk) -> None:
    assert desk.process(desk.receive(zipped({"a.txt": "A: hi"}))).chat == ChatFacts(1, None, None)


def test_warnings_join_those_of_the_upload(desk: Desk) -> None:
    id_ = desk.receive(zipped({"a.json": LOG, "b.json": "{}"}))
    assert [one.code for one in desk.process(id_).warnings] == [
        "container_differs",
        "chat_files_left_out",
    ]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (zipped({"a.json": "{}"}), "chat_unknown"),
        (zipped({"../a.json": LOG}), "archive_unsafe"),
        (zipped({"a.json": LOG})[:-9], "archive_damaged"),
        (tarred({}), "archive_empty"),
        (zipped({"a.pdf": "x"}), "chat_missing"),
        (b"no archive", "not_archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_chat_that_cannot_be_read_has_failed_with_its_cause(
    desk: Desk, data: bytes, code: str
) -> None:
    found = desk.process(desk.receive(data))
    assert found.status is Status.FAILED
    (step,) = found.steps
    assert (step.name, step.status, step.attempts) == ("unpack", StepStatus.FAILED, 1)
    assert step.error
    assert step.error.code == code
    assert step.error.message.endswith(".")
    assert found.chat is None


def test_what_a_database_cannot_keep_is_no_obstacle(desk: Desk) -> None:
    log = '[{"text": "\\ud800 \\u0000", "name": "\\udfff"}]'
    id_ = desk.receive(zipped({"a.json_chat": log, "a.json_meta": '{"k\\u0000": "\\ud800"}'}))
    assert desk.process(id_).extended == {"k\ufffd": "\ufffd"}
    transcript = parse(b"".join(desk.store.read(transcript_key(id_))))
    assert (transcript.segments[0].text, transcript.segments[0].name) == (
        "\ufffd \ufffd",
        "\ufffd",
    )


def as_version_0_left_it(desk: Desk, id_: UUID) -> None:
    """Ready, its only step skipped: the row and the ledger as they were written then."""
    desk.books.change(id_, status=Status.READY)
    row = {
        "interaction_id": id_,
        "name": "unpack",
        "position": 2,
        "status": StepStatus.SKIPPED,
        "attempts": 1,
        "started_at": NOON,
        "finished_at": NOON,
        "error_code": "chat_not_read_yet",
        "error_message": "The chat archive is kept as it was uploaded.",
    }
    with desk.database.write(desk.books.organization_id) as scope:
        scope.insert(tables.step, row)


def test_a_chat_that_an_earlier_version_left_is_read_by_a_retry(
    desk: Desk, principal: Principal
) -> None:
    id_ = desk.receive(zipped({"4711.json_chat": LOG}))
    as_version_0_left_it(desk, id_)
    mine = Interactions(desk.database, desk.store).for_(principal)
    mine.retry(id_)
    found = desk.process(id_, number=2)
    assert found.status is Status.READY
    (step,) = found.steps
    assert (step.status, step.error) == (StepStatus.DONE, None)
    assert found.chat
    assert found.chat.message_count == 2
    assert len(mine.transcript(id_).segments) == 2


def test_a_chat_that_failed_is_read_anew_by_a_retry(desk: Desk, principal: Principal) -> None:
    id_ = desk.receive(zipped({"a.json": "{}"}))
    assert desk.process(id_).status is Status.FAILED
    desk.store.put(media_key(id_), zipped({"a.json": LOG}))
    Interactions(desk.database, desk.store).for_(principal).retry(id_)
    assert desk.process(id_, number=2).status is Status.READY


def test_a_chat_that_is_deleted_meanwhile_leaves_nothing(
    desk: Desk, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = desk.receive(zipped({"a.json": LOG}))
    put = desk.store.put

    def delete_first(key: str, data: bytes) -> None:
        put(key, data)
        Interactions(desk.database, desk.store).for_(principal).delete(id_)
        put(key, data)

    monkeypatch.setattr(desk.store, "put", delete_first)
    desk.pipeline.process(str(desk.books.organization_id), str(id_), "1")
    assert set(desk.store.keys(older_than_seconds=-1)) == set()


def test_what_is_saved_twice_is_saved_once(desk: Desk) -> None:
    id_ = desk.receive(zipped({"a.json": LOG}))
    facts, chat = TranscriptFacts("en", 1, 1), ChatFacts(1, None, None)
    for _ in range(2):
        with desk.database.write(desk.books.organization_id) as scope:
            processing.save_transcript(
                scope,
                id_,
                facts,
                transcript=Transcript((), "en"),
                chat=chat,
                extended={"a": 1},
                warnings=[Warn("chat_files_left_out", "One.")],
            )
    found = desk.load(id_)
    assert len(found.warnings) == 2
    assert (found.chat, found.extended) == (chat, {"a": 1})
