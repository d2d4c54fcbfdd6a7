"""The shapes of `/v1`. Every key is always there; what is not known is null."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads it
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID  # noqa: TC003 - pydantic reads it

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from earmark import model
from earmark.interactions import DEFAULT_LIMIT, MAX_LIMIT, Page
from earmark.model.transcript import Speaker  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark.model.search import Match

_MINUTES_PER_HOUR = 60


class ProcessingStatus(StrEnum):
    """Where an interaction stands. What waits for the dispatcher is `processing` already."""

    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


def _instant(sent: str) -> str:
    model.parse_interaction_date(sent)
    return sent


_Instant = Annotated[
    str,
    AfterValidator(_instant),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "string", "format": "date"},
            ]
        }
    ),
]
"""A date or an RFC 3339 date-time; without an offset it is in UTC."""


class Filters(BaseModel):
    """The query of the list of interactions. A name that is none of these is told, not ignored."""

    model_config = ConfigDict(extra="forbid")

    from_: _Instant | None = Field(
        None,
        alias="from",
        description="Inclusive, on the interaction's instant, else its arrival; UTC by default.",
    )
    to: _Instant | None = Field(None, description="Exclusive, likewise.")
    status: ProcessingStatus | None = Field(None, description="How its processing stands.")
    agent: UUID | None = Field(None, description="Id of the joined agent.")
    hierarchy: list[UUID] = Field(
        [], description="Ids of nodes, repeated: interactions of any of them or below it."
    )
    agent_code: str | None = Field(None, description="As the upload sent it.")
    locale: str | None = Field(
        None,
        description="Its language and region.",
        json_schema_extra={"enum": [*sorted(model.LOCALES)]},
    )
    direction: model.Direction | None = Field(
        None, description="Whether the call came in or went out."
    )
    client_call_id: str | None = Field(None, description="As the upload sent it.")
    prefix: str | None = Field(None, description="How the file name begins.")
    q: str | None = Field(
        None,
        description='What was said or written: words, "phrases" and beginnings*, of which all '
        "must be there, without regard to case and accents.",
        examples=['refund "charged twice" cancel*'],
    )
    stem: bool = Field(
        False,
        description="Whether other forms of the single words in `q` count too, such as `called` "
        "for `call`. On PostgreSQL alone.",
    )
    error_code: str | None = Field(
        None, description="Of a step that failed, was skipped or waits to be tried again."
    )
    limit: int = Field(
        DEFAULT_LIMIT,
        ge=1,
        le=MAX_LIMIT,
        description="The most that a page holds. It may hold fewer even where more follow.",
    )
    cursor: str | None = Field(None, description="The `next` of a page, to go on after it.")

    def query(self) -> model.Query:
        """The same in the heart's words."""
        return model.Query(
            since=_parsed(self.from_),
            until=_parsed(self.to),
            status=model.Status(self.status) if self.status else None,
            agent_id=self.agent,
            hierarchy_ids=frozenset(self.hierarchy),
            agent_code=self.agent_code,
            locale=self.locale,
            direction=self.direction,
            client_call_id=self.client_call_id,
            prefix=self.prefix,
            q=self.q,
            stem=self.stem,
            error_code=self.error_code,
        )


def _parsed(sent: str | None) -> datetime | None:
    return None if sent is None else model.parse_interaction_date(sent).instant


class _Shape(BaseModel, from_attributes=True):
    """Made from the domain type whose attributes have the same names."""

    @classmethod
    def of(cls, value: object | None) -> Self | None:
        """The record of a value; None of none."""
        return None if value is None else cls.model_validate(value)


class CustomerShape(_Shape):
    """The customer as the upload named them."""

    name: str | None
    phone: str | None
    email: str | None


class AgentShape(_Shape):
    """The agent: `code` as sent; names as sent, else those of the joined agent."""

    id: UUID | None = Field(description="The joined agent; null while no agent has the code.")
    code: str | None
    first_name: str | None
    last_name: str | None


class HierarchyShape(_Shape):
    """The hierarchy node of the interaction."""

    id: UUID
    code: str | None
    name: str


class AudioShape(_Shape):
    """What the recording is, by decoding all of it."""

    container: str
    codec: str
    sample_rate_hz: int
    channels: int
    duration_seconds: float = Field(description="Decoded.")
    header_duration_seconds: float | None = Field(description="What the file claims, if it does.")


class TranscriptShape(_Shape):
    """What the transcript is; its words have an address of their own."""

    language: str = Field(description="Of the words, ISO 639-1.")
    segment_count: int = Field(description="Stretches of speech, or messages.")
    word_count: int
    engine: str | None = Field(description="That recognized the speech; null for a chat.")
    model: str | None
    detected_language: str | None = Field(description="That the recording seems to be in.")


class NoteShape(_Shape):
    """A stable code for programs, and a sentence for a person."""

    code: str
    message: str


class StepShape(_Shape):
    """One processing step."""

    name: str
    status: model.StepStatus
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    error: NoteShape | None = Field(
        description="Why it failed or was skipped, or why its last attempt failed, if it waits."
    )
    next_attempt_at: datetime | None = Field(
        description="When a waiting step is tried again; null unless it waits."
    )
    progress: float | None = Field(
        description="How much is done, 0 to 1, of a step that takes long; else null."
    )


class MatchShape(_Shape):
    """A line of the transcript in which something stands that was searched for."""

    text: str = Field(description="The line; of a long one a part, with … where it is cut.")
    ranges: list[tuple[int, int]] = Field(
        description="Of each hit: its first character, and the one after its last, counted in "
        "code points from 0."
    )
    speaker: Speaker
    start_seconds: float | None = Field(description="From the beginning; null in a chat.")
    at: datetime | None = Field(description="When a message was sent; null in a recording.")


class InteractionShape(BaseModel):
    """An interaction: what was sent, what it is, and how its processing went."""

    id: UUID
    file_name: str
    upload_type: model.MediaType
    status: ProcessingStatus
    received_at: datetime
    interaction_at: datetime | None = Field(description="The instant, in UTC.")
    interaction_offset: str | None = Field(
        description="East of UTC as sent, like -04:00; null if none was sent."
    )
    interaction_date_sent: str | None
    direction: model.Direction | None
    customer: CustomerShape
    agent: AgentShape
    hierarchy: HierarchyShape | None
    locale: str
    client_call_id: str | None
    extended: dict[str, Any]
    metadata_sent: str = Field(description="The metadata part, verbatim.")
    size_bytes: int
    sha256: str = Field(description="Of the media, in hexadecimal.", pattern="^[0-9a-f]{64}$")
    audio: AudioShape | None = Field(description="Null for a chat and until it was listened to.")
    transcript: TranscriptShape | None = Field(description="Null until there is one.")
    chat_message_count: int | None = Field(
        description="Null for a recording and until the chat was read."
    )
    chat_first_at: datetime | None = Field(
        description="When the first message was sent, if the chat tells; likewise the last."
    )
    chat_last_at: datetime | None
    warnings: list[NoteShape]
    steps: list[StepShape]
    matches: list[MatchShape] | None = Field(
        description="At most five lines in which the words of `q` stand; null without `q`."
    )

    @classmethod
    def of(cls, interaction: model.Interaction, matches: Sequence[Match] | None = None) -> Self:
        """The record of an interaction, with the lines that a search found."""
        date, agent, chat = interaction.interaction_date, interaction.agent, interaction.chat
        return cls(
            id=interaction.id,
            file_name=interaction.file_name,
            upload_type=interaction.media_type,
            status=_STATUS[interaction.status],
            received_at=interaction.received_at,
            interaction_at=date.instant if date else None,
            interaction_offset=offset(date.offset_minutes if date else None),
            interaction_date_sent=date.sent if date else None,
            direction=interaction.direction,
            customer=CustomerShape.model_validate(interaction.customer),
            agent=AgentShape(
                id=interaction.agent_id,
                code=agent.code,
                first_name=agent.first_name,
                last_name=agent.last_name,
            ),
            hierarchy=HierarchyShape.of(interaction.hierarchy),
            locale=interaction.locale,
            client_call_id=interaction.client_call_id,
            extended=dict(interaction.extended),
            metadata_sent=interaction.metadata_sent,
            size_bytes=interaction.size_bytes,
            sha256=interaction.sha256.hex(),
            audio=AudioShape.of(interaction.audio),
            transcript=TranscriptShape.of(interaction.transcript),
            chat_message_count=chat.message_count if chat else None,
            chat_first_at=chat.first_at if chat else None,
            chat_last_at=chat.last_at if chat else None,
            warnings=[NoteShape.model_validate(warning) for warning in interaction.warnings],
            steps=[StepShape.model_validate(step) for step in interaction.steps],
            matches=None if matches is None else [MatchShape.model_validate(m) for m in matches],
        )


class PageShape(BaseModel):
    """A page of interactions, newest first."""

    items: list[InteractionShape]
    next: str | None = Field(description="The `cursor` of the next page; null after the last.")

    @classmethod
    def of(cls, page: Page) -> Self:
        """The record of a page."""
        items = [
            InteractionShape.of(interaction, page.matches.get(interaction.id))
            for interaction in page.items
        ]
        return cls(items=items, next=page.next_cursor)


_STATUS = {
    model.Status.RECEIVED: ProcessingStatus.PROCESSING,
    model.Status.PROCESSING: ProcessingStatus.PROCESSING,
    model.Status.READY: ProcessingStatus.READY,
    model.Status.FAILED: ProcessingStatus.FAILED,
}


def offset(minutes: int | None) -> str | None:
    """An offset east of UTC like `-04:00`; `+00:00` where UTC was said. Source: RFC 3339."""
    if minutes is None:
        return None
    hours, rest = divmod(abs(minutes), _MINUTES_PER_HOUR)
    return f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}"
