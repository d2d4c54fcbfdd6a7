"""A whole interaction as a vCon: who took part, what was said, and what is known of it.

No form of a transcript, so no line of `FORMATS`: it holds the media or its address, too. Whatever
else is in it, the media is written last, so that it can be streamed and is never held.

Source: draft-ietf-vcon-vcon-core-03, the syntax "0.4.0"; roles and the id of the call by
draft-ietf-vcon-cc-extension. docs/vcon.md tells what becomes what.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

from earmark.model import Direction, MediaType, extension
from earmark.render.json import VERSION, document, written
from earmark.render.parties import AGENT, CUSTOMER, OWNER, parties_of, senders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from earmark.model import Interaction, Organization
    from earmark.model.transcript import Transcript

CONTENT_TYPE = "application/vcon"
"""As the draft registers it, and `.vcon` with it."""

SYNTAX = "0.4.0"

_END = '"}]}'
"""What stands behind the media: its string, its object, its list and the vCon end there."""

_GROUP_BYTES = 3
"""As many become four characters of base64. Source: RFC 4648 section 4."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a vCon is made from.

    Attributes:
        organization: the owner of the interaction.
        transcript: None if it has none.
    """

    interaction: Interaction
    organization: Organization
    transcript: Transcript | None


def linked(conversation: Conversation, *, url: str, sha512: bytes) -> bytes:
    """The vCon, with the media by its address.

    Args:
        conversation: what to tell.
        url: where the media can be had; HTTPS, if the vCon is to be as the draft demands.
        sha512: of the media. The draft demands this hash; others may stand beside it only.
    """
    return _written(
        conversation, {"url": url, "content_hash": f"sha512-{_unpadded(sha512).decode()}"}
    )


def inline(conversation: Conversation) -> tuple[bytes, bytes]:
    """What of the vCon stands before and after the media, which goes in as `base64url`."""
    text = _written(conversation, {"encoding": "base64url", "body": ""})
    end = len(text) - len(_END)
    return text[:end], text[end:]


def base64url(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes in base64url without padding, chunk by chunk. Source: RFC 7515 section 2."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) - len(data) % _GROUP_BYTES
        rest = data[whole:]
        yield base64.urlsafe_b64encode(data[:whole])
    yield _unpadded(rest)


def base64url_bytes(size_bytes: int) -> int:
    """How long as many bytes are in base64url without padding."""
    return -(-size_bytes * 4 // _GROUP_BYTES)


def _unpadded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _written(conversation: Conversation, content: dict[str, str]) -> bytes:
    """The vCon as JSON; `content`, which is the media or tells where it is, comes last in it."""
    interaction = conversation.interaction
    parties = parties_of(interaction, conversation.organization)
    head = {
        "vcon": SYNTAX,
        "uuid": str(interaction.id),
        "extensions": ["CC"],
        "created_at": _date(interaction.received_at),
        "subject": interaction.file_name,
        "parties": parties,
    }
    if interaction.media_type is MediaType.AUDIO:
        rest = {
            "analysis": _analysis(conversation.transcript),
            "attachments": _attachments(interaction),
            "dialog": [_recording(conversation) | content],
        }
    else:
        archive = _archive(interaction) | content
        rest = {
            "dialog": _messages(conversation, parties),
            "analysis": [],
            "attachments": [*_attachments(interaction), archive],
        }
    return written(head | rest)


def _recording(conversation: Conversation) -> dict[str, Any]:
    interaction = conversation.interaction
    parties = _channels(conversation)
    dialog: dict[str, Any] = {"type": "recording", "start": _date(_began(interaction))}
    if interaction.audio is not None:
        dialog["duration"] = interaction.audio.duration_seconds
    dialog["parties"] = parties
    first = parties[0] if isinstance(parties[0], int) else parties[0][0]
    originator = _ORIGINATORS.get(interaction.direction, first)
    if originator != first:  # the first one is it if none is named
        dialog["originator"] = originator
    return dialog | {
        "mediatype": _mediatype(interaction),
        "filename": interaction.file_name,
        **_call_id(interaction),
    }


_ORIGINATORS: Mapping[Direction | None, int] = {
    Direction.INBOUND: CUSTOMER,
    Direction.OUTBOUND: AGENT,
}


def _channels(conversation: Conversation) -> list[int] | list[list[int]]:
    """Who is on each channel; for one channel, who is on it.

    Where nobody knows who is on which, all may be on each: in a conference, and where two
    channels hold the same, which the transcript tells by naming none.
    """
    audio, transcript = conversation.interaction.audio, conversation.transcript
    both = [AGENT, CUSTOMER]
    count = audio.channels if audio else 1
    if count == 1:
        return both
    segments = transcript.segments if transcript else ()
    alike = bool(segments) and all(segment.channel is None for segment in segments)
    if count != len(both) or alike:
        return [both] * count
    return both if conversation.organization.agent_channel == 0 else both[::-1]


_MEDIATYPES = {
    "wav": "audio/x-wav",
    "mp3": "audio/x-mp3",
    "mp4": "audio/x-mp4",
    "m4a": "audio/x-mp4",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
}
"""The types that the draft lists, by container, or by what a file's name ends in."""


def _mediatype(interaction: Interaction) -> str:
    audio = interaction.audio
    container = audio.container if audio else extension(interaction.file_name)[1:]
    return _MEDIATYPES.get(container, f"audio/{container}")


def _messages(conversation: Conversation, parties: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A dialog for each message; one without content as long as the messages are not read."""
    interaction, transcript = conversation.interaction, conversation.transcript
    segments = transcript.segments if transcript else ()
    at = _began(interaction)
    same = {"mediatype": "text/plain", **_call_id(interaction)}
    dialog = []
    for segment, sender in zip(segments, senders(segments, parties), strict=True):
        at = segment.at or at
        dialog.append(
            {"type": "text", "start": _date(at), "parties": [sender]}
            | same
            | {"encoding": "none", "body": segment.text}
        )
    unread = {"type": "text", "start": _date(at), "parties": [AGENT, CUSTOMER], **same}
    return dialog or [unread]


def _analysis(transcript: Transcript | None) -> list[dict[str, Any]]:
    """The transcript of a recording. A chat's messages are the dialog itself."""
    if transcript is None:
        return []
    by = transcript.recognition
    return [
        {
            "type": "transcript",
            "dialog": 0,
            "mediatype": "application/json",
            "vendor": "Earmark",
            **({"product": f"{by.engine} {by.model}"} if by else {}),
            "schema": f"earmark-transcript-{VERSION}",
            "encoding": "json",
            "body": document(transcript),
        }
    ]


def _attachments(interaction: Interaction) -> list[dict[str, Any]]:
    """What was sent, to the letter; and what of it counts now and has no place of its own."""
    node = interaction.hierarchy
    known = {
        "direction": interaction.direction,
        "locale": interaction.locale,
        "client_call_id": interaction.client_call_id,
        "agent_code": interaction.agent.code,
        "hierarchy": {"id": str(node.id), "code": node.code, "name": node.name} if node else None,
        "extended": dict(interaction.extended),
        "meta": dict(interaction.meta),
    }
    sent = {"encoding": "none", "body": interaction.metadata_sent}
    return [
        _attached("metadata as uploaded", interaction, "application/json") | sent,
        _attached("metadata as kept", interaction, "application/json")
        | {"encoding": "json", "body": known},
    ]


def _archive(interaction: Interaction) -> dict[str, Any]:
    kind = {".tar": "application/x-tar"}.get(extension(interaction.file_name), "application/zip")
    archive = _attached("chat archive as uploaded", interaction, kind)
    return archive | {"filename": interaction.file_name}


def _attached(purpose: str, interaction: Interaction, mediatype: str) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "start": _date(interaction.received_at),
        "party": OWNER,
        "dialog": 0,
        "mediatype": mediatype,
    }


def _call_id(interaction: Interaction) -> dict[str, str]:
    return {"interaction_id": interaction.client_call_id} if interaction.client_call_id else {}


def _began(interaction: Interaction) -> datetime:
    """When it took place, with the offset that was given; when it arrived, if that is unknown."""
    date = interaction.interaction_date
    if date is None:
        return interaction.received_at
    return date.instant.astimezone(timezone(timedelta(minutes=date.offset_minutes or 0)))


def _date(instant: datetime) -> str:
    """Source: RFC 8620 section 1.4: RFC 3339, and no fraction that is zero."""
    return instant.isoformat().replace("+00:00", "Z")
