"""What a vCon says of every kind of interaction, and that its media is never held."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vcons
from earmark.model import (
    AgentSent,
    AudioFacts,
    Customer,
    Direction,
    Interaction,
    MediaType,
    NodeRef,
    Organization,
    Status,
    parse_interaction_date,
)
from earmark.model.transcript import Recognition, Segment, Speaker, Transcript
from earmark.render import vcon
from earmark.render.json import parse
from earmark.render.vcon import Conversation

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRIVED = datetime(2026, 3, 18, 22, 0, 0, 250_000, tzinfo=UTC)
NOON = datetime(2026, 3, 18, 12, tzinfo=UTC)
ID = UUID("019f15a6-a752-726f-b9a2-279e0d16bc46")
AGENT_ID = UUID("019f15a6-a752-726f-b9a2-279e0d16bc47")
NODE = NodeRef(UUID("019f15a6-a752-726f-b9a2-279e0d16bc48"), "D1", "Desk")
URL = f"https://earmark.example/v1/interactions/{ID}/media"
SHA512 = bytes(range(64))

AUDIO = AudioFacts("wav", "pcm_s16le", 8000, 2, 33.12, 33.1)
SAID = Transcript(
    (
        Segment("Good morning.", Speaker.AGENT, 0.0, 1.5, channel=0),
        Segment("¿Sí? שלום", Speaker.CUSTOMER, 2.0, 2.5, channel=1),
    ),
    "en",
    duration_seconds=33.12,
    recognition=Recognition("local", "base", "0" * 64),
)
CALL = Interaction(
    id=ID,
    file_name="2026/a call.wav",
    media_type=MediaType.AUDIO,
    status=Status.READY,
    round=1,
    received_at=ARRIVED,
    interaction_date=parse_interaction_date("2026-03-18T17:56:09-04:00"),
    direction=Direction.INBOUND,
    customer=Customer("Ann Lee", "+1 (555) 010-0100", "ann@example.org"),
    agent_id=AGENT_ID,
    agent=AgentSent("007", "Dana", "Cruz"),
    hierarchy=NODE,
    locale="en-US",
    client_call_id="c-1",
    extended={"queue": ["a", 1]},
    metadata_sent='{"FileName": "2026/a call.wav",  "x": 1e400}',
    size_bytes=7,
    sha256=b"\xab" * 32,
    audio=AUDIO,
    warnings=(),
    meta={"meta1": "one"},
)
CHAT = replace(
    CALL,
    file_name="chats/one.zip",
    media_type=MediaType.CHAT,
    audio=None,
    direction=None,
    client_call_id=None,
)
CLINIC = Organization(UUID(int=1), "Riverside Clinic", 0)


def written(*segments: Segment) -> Transcript:
    return Transcript(segments, "en", chat_format="plain")


def told(
    interaction: Interaction = CALL,
    transcript: Transcript | None = SAID,
    *,
    agent_channel: int = 0,
) -> Any:
    """The vCon, which is as the drafts have it whichever way the media is in it."""
    owner = replace(CLINIC, agent_channel=agent_channel)
    conversation = Conversation(interaction, owner, transcript)
    by_url = vcons.checked(vcon.linked(conversation, url=URL, sha512=SHA512))
    before, after = vcon.inline(conversation)
    within = vcons.checked(before + b"QUJD" + after)
    held, named = (holder(one, interaction) for one in (within, by_url))
    assert (held.pop("encoding"), held.pop("body")) == ("base64url", "QUJD")
    assert named.pop("url") == URL
    assert named.pop("content_hash").startswith("sha512-AAECAwQFBgcI")
    assert within == by_url
    return json.loads(vcon.linked(conversation, url=URL, sha512=SHA512))


def holder(found: Any, interaction: Interaction) -> Any:
    kind = "dialog" if interaction.media_type is MediaType.AUDIO else "attachments"
    return found[kind][-1]


def dialog(interaction: Interaction = CALL, **options: Any) -> Any:
    (only,) = told(interaction, **options)["dialog"]
    return only


def test_a_call_is_told_whole() -> None:
    found = told()
    attachments = found.pop("attachments")
    body = found["analysis"][0].pop("body")
    assert found == {
        "vcon": "0.4.0",
        "uuid": str(ID),
        "extensions": ["CC"],
        "created_at": "2026-03-18T22:00:00.250000Z",
        "subject": "2026/a call.wav",
        "parties": [
            {
                "name": "Dana Cruz",
                "uuid": str(AGENT_ID),
                "role": "agent",
                "validation": "none",
            },
            {
                "tel": "+1(555)010-0100",
                "mailto": "ann@example.org",
                "name": "Ann Lee",
                "role": "customer",
                "validation": "none",
            },
            {"name": "Riverside Clinic", "type": "organization", "validation": "none"},
        ],
        "dialog": [
            {
                "type": "recording",
                "start": "2026-03-18T17:56:09-04:00",
                "duration": 33.12,
                "parties": [0, 1],
                "originator": 1,
                "mediatype": "audio/x-wav",
                "filename": "2026/a call.wav",
                "interaction_id": "c-1",
                "url": URL,
                "content_hash": "sha512-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygp"
                "KissLS4vMDEyMzQ1Njc4OTo7PD0-Pw",
            }
        ],
        "analysis": [
            {
                "type": "transcript",
                "dialog": 0,
                "mediatype": "application/json",
                "vendor": "Earmark",
                "product": "local base",
                "schema": "earmark-transcript-1",
                "encoding": "json",
            }
        ],
    }
    assert parse(json.dumps(body).encode()) == SAID
    assert [one["purpose"] for one in attachments] == ["metadata as uploaded", "metadata as kept"]


def test_the_metadata_goes_along_to_the_letter_and_as_it_counts_now() -> None:
    sent, kept = told()["attachments"]
    same = {
        "start": "2026-03-18T22:00:00.250000Z",
        "party": 2,
        "dialog": 0,
        "mediatype": "application/json",
    }
    assert sent == same | {
        "purpose": "metadata as uploaded",
        "encoding": "none",
        "body": '{"FileName": "2026/a call.wav",  "x": 1e400}',
    }
    assert kept == same | {
        "purpose": "metadata as kept",
        "encoding": "json",
        "body": {
            "direction": "inbound",
            "locale": "en-US",
            "client_call_id": "c-1",
            "agent_code": "007",
            "hierarchy": {"id": str(NODE.id), "code": "D1", "name": "Desk"},
            "extended": {"queue": ["a", 1]},
            "meta": {"meta1": "one"},
        },
    }


def test_without_a_transcript_the_recording_is_told_all_the_same() -> None:
    unheard = replace(CALL, status=Status.FAILED, audio=None)
    found = told(unheard, None)
    assert found["analysis"] == []
    assert "duration" not in found["dialog"][0]
    assert found["dialog"][0]["parties"] == [0, 1]


def test_nothing_but_a_name_is_enough() -> None:
    bare = replace(
        CALL,
        customer=Customer(),
        agent=AgentSent(),
        agent_id=None,
        hierarchy=None,
        interaction_date=None,
        direction=None,
        client_call_id=None,
        audio=None,
    )
    found = told(bare, None)
    assert found["parties"][:2] == [{"role": "agent"}, {"role": "customer"}]
    assert found["dialog"][0]["start"] == found["created_at"]
    assert "interaction_id" not in found["dialog"][0]


@pytest.mark.parametrize(
    ("sent", "start"),
    [
        ("2026-03-18T17:56:09.5Z", "2026-03-18T17:56:09.500000Z"),
        ("2026-03-18T17:56:09.000", "2026-03-18T17:56:09Z"),
        ("2026-03-18", "2026-03-18T00:00:00Z"),
        ("2026-03-18T17:56:09+05:30", "2026-03-18T17:56:09+05:30"),
        ("0001-01-01T00:00:00-04:00", "0001-01-01T00:00:00-04:00"),
        ("9999-12-31T23:59:59+14:00", "9999-12-31T23:59:59+14:00"),
    ],
)
def test_a_call_starts_when_and_where_it_took_place(sent: str, start: str) -> None:
    assert dialog(replace(CALL, interaction_date=parse_interaction_date(sent)))["start"] == start


@pytest.mark.parametrize(
    ("direction", "agent_channel", "parties", "originator"),
    [
        (Direction.INBOUND, 0, [0, 1], 1),
        (Direction.INBOUND, 1, [1, 0], None),
        (Direction.OUTBOUND, 0, [0, 1], None),
        (Direction.OUTBOUND, 1, [1, 0], 0),
        (None, 0, [0, 1], None),
        (None, 1, [1, 0], None),
    ],
)
def test_channels_tell_the_parties_and_the_direction_who_began(
    direction: Direction | None, agent_channel: int, parties: list[int], originator: int | None
) -> None:
    found = dialog(replace(CALL, direction=direction), agent_channel=agent_channel)
    assert (found["parties"], found.get("originator")) == (parties, originator)


@pytest.mark.parametrize(
    ("channels", "transcript", "parties"),
    [
        (1, SAID, [0, 1]),
        (2, replace(SAID, segments=()), [0, 1]),
        (2, replace(SAID, segments=(Segment("Hello."),)), [[0, 1]] * 2),
        (3, SAID, [[0, 1]] * 3),
        (3, None, [[0, 1]] * 3),
    ],
)
def test_a_channel_of_which_nobody_knows_may_hold_everybody(
    channels: int, transcript: Transcript | None, parties: list[Any]
) -> None:
    call = replace(CALL, audio=replace(AUDIO, channels=channels))
    found = dialog(call, transcript=transcript)
    assert found["parties"] == parties
    assert found["originator"] == 1


@pytest.mark.parametrize(
    ("name", "container", "mediatype"),
    [
        ("a.wav", None, "audio/x-wav"),
        ("a.mp3", None, "audio/x-mp3"),
        ("a.MP4", None, "audio/x-mp4"),
        ("a.m4a", None, "audio/x-mp4"),
        ("a.ogg", None, "audio/ogg"),
        ("a.opus", None, "audio/ogg"),
        ("a.mp3", "wav", "audio/x-wav"),
        ("a.wav", "flac", "audio/flac"),
    ],
)
def test_the_media_type_is_what_the_file_holds_or_else_what_its_name_says(
    name: str, container: str | None, mediatype: str
) -> None:
    audio = replace(AUDIO, container=container) if container else None
    assert dialog(replace(CALL, file_name=name, audio=audio))["mediatype"] == mediatype


@pytest.mark.parametrize(
    ("phone", "tel"),
    [
        ("+1 555 010 0100", "+15550100100"),
        ("(555) 010-0100", "(555)010-0100"),
        ("555 ext. 7", "555 ext. 7"),
        ("", None),
        (None, None),
    ],
)
def test_a_phone_number_loses_its_spaces_and_anything_else_stays(
    phone: str | None, tel: str | None
) -> None:
    customer = told(replace(CALL, customer=Customer(phone=phone)))["parties"][1]
    assert customer.get("tel") == tel


def test_a_chat_is_a_dialog_for_each_message() -> None:
    found = told(
        CHAT,
        written(
            Segment("Hi\n\nthere", Speaker.CUSTOMER, name="visitor"),
            Segment("Hello!", Speaker.BOT, at=NOON, name="Clara"),
            Segment("", Speaker.AGENT, at=NOON + timedelta(seconds=3), name="Dana Cruz"),
            Segment("¿Sí? שלום 👋", Speaker.CUSTOMER, name="visitor"),
        ),
    )
    assert [
        (one["start"], one["parties"], one["body"], one["encoding"], one["mediatype"])
        for one in found["dialog"]
    ] == [
        ("2026-03-18T17:56:09-04:00", [1], "Hi\n\nthere", "none", "text/plain"),
        ("2026-03-18T12:00:00Z", [3], "Hello!", "none", "text/plain"),
        ("2026-03-18T12:00:03Z", [0], "", "none", "text/plain"),
        ("2026-03-18T12:00:03Z", [1], "¿Sí? שלום 👋", "none", "text/plain"),
    ]
    assert found["parties"][3:] == [{"name": "Clara", "type": "bot", "validation": "none"}]
    assert found["analysis"] == []
    archive = found["attachments"][-1]
    assert (archive["purpose"], archive["filename"], archive["mediatype"], archive["url"]) == (
        "chat archive as uploaded",
        "chats/one.zip",
        "application/zip",
        URL,
    )


@pytest.mark.parametrize("transcript", [None, written()])
def test_a_chat_without_messages_is_a_dialog_without_content(
    transcript: Transcript | None,
) -> None:
    found = told(replace(CHAT, file_name="a.tar", client_call_id="c"), transcript)
    assert found["dialog"] == [
        {
            "type": "text",
            "start": "2026-03-18T17:56:09-04:00",
            "parties": [0, 1],
            "mediatype": "text/plain",
            "interaction_id": "c",
        }
    ]
    assert found["attachments"][-1]["mediatype"] == "application/x-tar"


def placed(*senders: tuple[Speaker, str | None], **known: Any) -> tuple[list[int], list[Any]]:
    """Who wrote each message, and the parties that the upload did not name."""
    found = told(
        replace(CHAT, **known), written(*(Segment("x", side, name=name) for side, name in senders))
    )
    return [one["parties"][0] for one in found["dialog"]], found["parties"]


def test_the_side_is_the_person_that_the_upload_named_whatever_the_chat_calls_them() -> None:
    places, parties = placed((Speaker.AGENT, "Dana C."), (Speaker.CUSTOMER, None))
    assert places == [0, 1]
    assert [one.get("name") for one in parties] == ["Dana Cruz", "Ann Lee", "Riverside Clinic"]


def test_others_of_a_side_are_parties_of_their_own() -> None:
    places, parties = placed(
        (Speaker.AGENT, "Luis"),
        (Speaker.AGENT, "DANA CRUZ"),
        (Speaker.AGENT, None),
        (Speaker.AGENT, "Luis"),
        (Speaker.UNKNOWN, None),
        (Speaker.UNKNOWN, ""),
        (Speaker.CUSTOMER, "Bo"),
        (Speaker.CUSTOMER, "Cy"),
    )
    assert places == [3, 0, 0, 3, 4, 4, 1, 5]
    assert parties[3:] == [
        {"name": "Luis", "role": "agent", "validation": "none"},
        {},
        {"name": "Cy", "role": "customer", "validation": "none"},
    ]


def test_a_party_without_a_name_gets_that_of_the_chat() -> None:
    _, parties = placed((Speaker.CUSTOMER, "Bo"), customer=Customer(email="bo@example.org"))
    assert parties[1] == {
        "mailto": "bo@example.org",
        "role": "customer",
        "name": "Bo",
        "validation": "none",
    }


text = st.text(max_size=30)
messages = st.builds(
    Segment,
    text=text,
    speaker=st.sampled_from(Speaker),
    at=st.none() | st.datetimes(timezones=st.just(UTC)),
    name=st.none() | text,
)


@given(st.lists(messages, max_size=8), st.none() | text, st.none() | text)
def test_any_chat_makes_a_vcon(
    segments: list[Segment], name: str | None, phone: str | None
) -> None:
    customer = Customer(name, phone, None)
    found = told(replace(CHAT, customer=customer), written(*segments))
    assert [one.get("body") for one in found["dialog"]] == (
        [one.text for one in segments] or [None]
    )


@given(st.lists(st.binary(max_size=40)))
def test_base64url_is_read_back_whatever_the_chunks(chunks: list[bytes]) -> None:
    found = b"".join(vcon.base64url(chunks))
    data = b"".join(chunks)
    assert vcons.decoded(found.decode()) == data
    assert b"=" not in found
    assert len(found) == vcon.base64url_bytes(len(data))


def test_media_goes_into_a_vcon_chunk_by_chunk_and_is_never_held() -> None:
    chunk = bytes(range(256)) * 1024  # 256 KiB, as the storage gives them
    count = 256

    def chunks() -> Iterator[bytes]:
        for _ in range(count):
            yield bytes(bytearray(chunk))  # each anew, so that whoever kept them would be seen

    size = 0
    tracemalloc.start()
    for part in vcon.base64url(chunks()):
        size += len(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == vcon.base64url_bytes(count * len(chunk))
    assert peak < 8 * len(chunk) < size / 30


GONE = "-"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("vcon", GONE),
        ("vcon", "0.3.0"),
        ("uuid", GONE),
        ("created_at", GONE),
        ("created_at", "2026-03-18T22:00:00.000Z"),
        ("created_at", "2026-03-18 22:00:00Z"),
        ("created_at", "2026-03-18T22:00:00"),
        ("extensions", GONE),
        ("group", "x"),
        ("parties.0.validation", GONE),
        ("parties.0.type", "robot"),
        ("parties", []),
        ("dialog.0.start", GONE),
        ("dialog.0.content_hash", GONE),
        ("dialog.0.content_hash", "sha256-AAAA"),
        ("dialog.0.content_hash", "sha512-" + "A" * 85 + "="),
        ("dialog.0.body", "AAAA"),
        ("dialog.0.mimetype", "audio/x-wav"),
        ("dialog.0.parties", [0, 7]),
        ("dialog.0.originator", 0),
        ("dialog.0.url", "http://earmark.example"),
        ("attachments.0.party", GONE),
        ("attachments.0.encoding", GONE),
        ("attachments.0.dialog", 1),
        ("attachments.0.body", {}),
        ("attachments.0.encoding", "base64url"),
        ("analysis.0.vendor", GONE),
        ("analysis.0.dialog", GONE),
        ("analysis.0.dialog", [0, 1]),
    ],
)
def test_the_check_finds_what_the_drafts_do_not_allow(place: str, value: Any) -> None:
    found = told()
    *path, last = place.split(".")
    part = found
    for key in path:
        part = part[int(key) if key.isdigit() else key]
    if value == GONE:
        del part[last]
    else:
        part[last] = value
    assert vcons.faults(found) != []
