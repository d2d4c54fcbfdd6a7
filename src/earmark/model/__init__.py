"""Domain types and the rules that need nothing but their own values.

Frozen facts only: no I/O, no clock, no wire format. The words are those of docs/terms.md.
"""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections.abc import Mapping  # noqa: TC003 - pydantic reads it where a submission is kept
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

MAX_FILE_NAME_BYTES = 1024
LONGEST_SENT_BYTES = 4 * MAX_FILE_NAME_BYTES
"""NFC makes no text four times shorter, so what is longer than this can become no file name. And
it takes a time that grows with the square of the marks in a row: 7 s for 128 KB (measured)."""

"""Normalised FileName in UTF-8; fits a B-tree entry on both databases."""

MAX_INDEXED_CHARACTERS = 512
"""Codes and call ids that are looked up: 4 bytes each still fit a PostgreSQL B-tree entry."""


class MediaType(StrEnum):
    """What an upload holds."""

    AUDIO = "audio"
    CHAT = "chat"


EXTENSIONS: Mapping[MediaType, frozenset[str]] = MappingProxyType(
    {
        MediaType.AUDIO: frozenset({".wav", ".mp3", ".mp4", ".ogg", ".opus", ".m4a"}),
        MediaType.CHAT: frozenset({".tar", ".zip"}),
    },
)
"""The eight extensions of the contract, lower case with the dot."""


def media_named(extension: str) -> str:
    """The kind of media that a file of this extension is to be; "unknown" if it is none."""
    for kind, named in EXTENSIONS.items():
        if extension in named:
            return kind.value
    return "unknown"


LOCALES = frozenset({"en-US", "es-MX"})
DEFAULT_LOCALE = "en-US"


META = ("meta1", "meta2", "meta3", "meta4", "meta5")
"""Texts of an interaction without a meaning of their own."""

MAX_EXTENDED_BYTES = 256 * 1024
"""Extended metadata of an interaction as JSON: as much as an upload may send."""


class Direction(StrEnum):
    """Which side started the call."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Status(StrEnum):
    """Where an interaction stands."""

    RECEIVED = "received"
    """Durable and promised; waits for the dispatcher."""
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


class StepStatus(StrEnum):
    """Where one processing step of one interaction stands."""

    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Grant(StrEnum):
    """What an API client may do inside its organization."""

    INGEST = "ingest"
    READ = "read"
    MANAGE = "manage"
    DELETE = "delete"


DEFAULT_GRANTS = frozenset({Grant.INGEST, Grant.READ, Grant.MANAGE})


@dataclass(frozen=True, slots=True)
class Download:
    """The download of one upload's file from a signed address.

    Attributes:
        interaction_id: what it became, once it is received.
        cause: why it failed, if it did; its code is that of a refused upload, or `unavailable`
            or `internal`.
    """

    id: UUID
    file_name: str
    status: DownloadStatus
    created_at: datetime
    finished_at: datetime | None = None
    interaction_id: UUID | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: the only source of the organization in every request."""

    organization_id: UUID
    client_id: str
    grants: frozenset[Grant]


@dataclass(frozen=True, slots=True)
class Quota:
    """What one organization may use. 0 is no limit; None says nothing, and leaves it to others.

    Attributes:
        stored_bytes: media that it stores, together with what is on its way.
        uploads_at_once: uploads and downloads that are on their way.
        uploads_per_minute: uploads that begin.
    """

    stored_bytes: int | None = None
    uploads_at_once: int | None = None
    uploads_per_minute: int | None = None

    @property
    def limits_storage(self) -> bool:
        """Whether uploads have to reserve their part before they begin."""
        return bool(self.stored_bytes or self.uploads_at_once)

    def or_else(self, other: Quota) -> Quota:
        """This, and the other where this says nothing."""
        mine, others = asdict(self), asdict(other)
        return Quota(**{name: others[name] if mine[name] is None else mine[name] for name in mine})


@dataclass(frozen=True, slots=True)
class Usage:
    """What one organization uses now.

    Attributes:
        stored_bytes: of media that were taken in and not deleted.
        uploads: on their way; counted only while a quota asks for it.
        uploads_bytes: what these may still store, as far as it is reserved.
    """

    stored_bytes: int
    uploads: int
    uploads_bytes: int


@dataclass(frozen=True, slots=True)
class Organization:
    """The owner of interactions.

    Attributes:
        agent_channel: of its stereo recordings, on which the agent is; from 0.
        quota: what its operator said of it.
    """

    id: UUID
    name: str
    agent_channel: int
    quota: Quota = Quota()


@dataclass(frozen=True, slots=True)
class Client:
    """An API client of one organization; its secret is known only as a keyed hash.

    Attributes:
        external_id: what another issuer of tokens calls it; see `EARMARK_OIDC_ISSUER`.
        tokens_after: tokens issued up to then are refused.
        rotating: whether its previous secret counts beside the current one.
        previous_secret_until: when that ends by itself; None if only by command.
    """

    id: str
    organization_id: UUID
    organization_name: str
    name: str
    grants: frozenset[Grant]
    created_at: datetime
    disabled_at: datetime | None = None
    external_id: str | None = None
    tokens_after: datetime | None = None
    rotating: bool = False
    previous_secret_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Customer:
    """The customer as the upload named them."""

    name: str | None = None
    phone: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class AgentSent:
    """The agent as the upload named them; `code` joins to an Agent."""

    code: str | None = None
    first_name: str | None = None
    last_name: str | None = None


@dataclass(frozen=True, slots=True)
class InteractionDate:
    """When the interaction took place.

    Attributes:
        instant: in UTC, microseconds; finer fractions are cut.
        offset_minutes: east of UTC as given; None when none was given.
        sent: the text as sent.
    """

    instant: datetime
    offset_minutes: int | None
    sent: str


@dataclass(frozen=True, slots=True)
class Submission:
    """One upload's metadata, typed and normalised. Which organization it is for is not in it."""

    file_name: str
    media_type: MediaType
    metadata_sent: str
    direction: Direction | None = None
    customer: Customer = Customer()
    agent: AgentSent = AgentSent()
    interaction_date: InteractionDate | None = None
    extended: Mapping[str, Any] = field(default_factory=dict)
    hierarchy_id: UUID | None = None
    hierarchy_code: str | None = None
    apply_hierarchy_to_agent: bool = False
    locale: str = DEFAULT_LOCALE
    client_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An acknowledged upload.

    Attributes:
        sha256: 32 bytes, of the file.
    """

    id: UUID
    file_name: str
    size_bytes: int
    sha256: bytes
    received_at: datetime


class DownloadStatus(StrEnum):
    """How far the download of an upload's file has come."""

    DOWNLOADING = "downloading"
    RECEIVED = "received"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What a recording is, by decoding all of it.

    Attributes:
        duration_seconds: decoded; `header_duration_seconds` is what the file claims, if it does.
    """

    container: str
    codec: str
    sample_rate_hz: int
    channels: int
    duration_seconds: float
    header_duration_seconds: float | None


@dataclass(frozen=True, slots=True)
class ChatFacts:
    """What a chat is. The instants are None where no message tells its time."""

    message_count: int
    first_at: datetime | None
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class TranscriptFacts:
    """What the transcript of an interaction is, without its words.

    Attributes:
        language: of the words, ISO 639-1.
        segment_count: stretches of speech, or messages.
        word_count: of all segments, by the spaces between them.
        engine: that recognized the speech; None for a chat.
        model: that the engine used; None for a chat.
        detected_language: that the recording seems to be in.
    """

    language: str
    segment_count: int
    word_count: int
    engine: str | None = None
    model: str | None = None
    detected_language: str | None = None


@dataclass(frozen=True, slots=True)
class Warn:
    """Something a person should know about an interaction that is no failure."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a step failed or was skipped: a stable code, and a sentence with the mend."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """One processing step of one interaction.

    Attributes:
        error: why it failed or was skipped, or why its last attempt failed, while it waits.
        progress: 0 to 1, of a step that tells it; None of one that does not, or not yet.
        next_attempt_at: not before then is it tried again; None unless it waits.
    """

    name: str
    status: StepStatus
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    error: Cause | None
    progress: float | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeRef:
    """The hierarchy node of an interaction."""

    id: UUID
    code: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Interaction:
    """A stored interaction as it is read back.

    Attributes:
        agent_id: the joined agent; None while no agent has the code.
        round: how often its processing was started, from 1.
        sha256: 32 bytes, of the media as stored.
        transcript: None until there is one.
        meta: "meta1" to "meta5", as the Upload Media API lets them be set.
    """

    id: UUID
    file_name: str
    media_type: MediaType
    status: Status
    round: int
    received_at: datetime
    interaction_date: InteractionDate | None
    direction: Direction | None
    customer: Customer
    agent_id: UUID | None
    agent: AgentSent
    hierarchy: NodeRef | None
    locale: str
    client_call_id: str | None
    extended: Mapping[str, Any]
    metadata_sent: str
    size_bytes: int
    sha256: bytes
    audio: AudioFacts | None
    warnings: tuple[Warn, ...]
    steps: tuple[Step, ...] = ()
    chat: ChatFacts | None = None
    transcript: TranscriptFacts | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an interaction.

    Attributes:
        position: from 1, without gaps in an organization; what is seen later has a higher one.
        kind: noun and verb, like "interaction.received".
        detail: facts without personal data.
    """

    position: int
    at: datetime
    kind: str
    interaction_id: UUID
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """Which interactions to find. None, or no node, asks nothing of them.

    Attributes:
        since: inclusive, on the interaction's instant, else its arrival.
        until: exclusive, likewise.
        status: `PROCESSING` finds what is `RECEIVED` too.
        agent_id: the joined agent.
        hierarchy_ids: interactions of any of these nodes or of a node below one of them.
        agent_code: as the upload sent it.
        prefix: how the file name begins, bytewise.
        q: what was said or written: words, "phrases" and beginnings*, of which all must be.
        stem: whether other forms of single words count too, as in `called` for `call`.
        error_code: of a step that failed, was skipped or waits.
        step_statuses: some step stands at one of these; none of them asks nothing.
    """

    since: datetime | None = None
    until: datetime | None = None
    status: Status | None = None
    agent_id: UUID | None = None
    hierarchy_ids: frozenset[UUID] = frozenset()
    agent_code: str | None = None
    locale: str | None = None
    direction: Direction | None = None
    client_call_id: str | None = None
    prefix: str | None = None
    q: str | None = None
    stem: bool = False
    error_code: str | None = None
    step_statuses: frozenset[StepStatus] = frozenset()


@dataclass(frozen=True, slots=True)
class ArrivalQuery:
    """Which arrivals to list. None, or nothing in a set, asks nothing of them.

    Attributes:
        since: inclusive, on the arrival.
        until: inclusive, likewise.
        client_call_ids: interactions with any of these.
        hierarchy_ids: interactions of any of these nodes or of a node below one of them.
    """

    since: datetime | None = None
    until: datetime | None = None
    media_type: MediaType | None = None
    client_call_ids: frozenset[str] = frozenset()
    hierarchy_ids: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Correction:
    """What is to be changed of an interaction. None, or nothing in a mapping, changes nothing.

    Attributes:
        phone: of the customer; "" removes it.
        client_call_id: "" removes it.
        extended: keys that are set; others stay.
        meta: likewise, of `META`.
    """

    interaction_date: InteractionDate | None = None
    direction: Direction | None = None
    phone: str | None = None
    client_call_id: str | None = None
    locale: str | None = None
    extended: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Agent:
    """A person who handles interactions. `code` is unique in the organization."""

    id: UUID
    first_name: str
    last_name: str
    email: str
    code: str | None
    is_active: bool
    user_id: str | None
    manager_id: str | None
    start_date: str | None
    created_at: datetime
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class HierarchyNode:
    """A place in the organization's tree. `code` and every one of `codes` name it on uploads.

    Attributes:
        depth: 0 for a top-level node.
    """

    id: UUID
    parent_id: UUID | None
    name: str
    code: str | None
    codes: tuple[str, ...]
    category: str | None
    sub_category: str | None
    is_active: bool
    depth: int
    created_at: datetime
    modified_at: datetime


def new_id() -> UUID:
    """A time-ordered UUID, so that new rows stay together in the index. Source: RFC 9562, v7."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    high, low = random >> 62 & 0xFFF, random & (1 << 62) - 1
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


def now() -> datetime:
    """The present instant in UTC."""
    return datetime.now(UTC)


def storable(text: str) -> bool:
    """Whether databases can keep the text: not with NUL, nor with half of a surrogate pair."""
    return not _UNSTORABLE.search(text)


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Unicode's category Cc, which is fixed for good. Source: the Unicode Standard, table 4-4."""


def clean_file_name(sent: str) -> str:
    """A file name, or how one begins, in the spelling in which names are stored; never refused.

    What is too long for any name is left as it is: it stays too long.
    """
    name = re.sub(r"[\\/]+", "/", sent).lstrip("/")
    if len(name.encode(errors="surrogatepass")) > LONGEST_SENT_BYTES:
        return name
    return unicodedata.normalize("NFC", name)


def normalise_file_name(sent: str) -> str:
    r"""The name under which an interaction is stored and found.

    NFC; a backslash becomes a slash; leading and repeated slashes are dropped.

    Raises:
        ValueError: the name is unsafe; the message names the rule and its mend. Every rule holds
            for the NFKC form too, so that no lookalike passes.
    """
    name = clean_file_name(sent)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(
            "The name holds half of a surrogate pair; send whole characters."
        ) from None
    if size > MAX_FILE_NAME_BYTES:
        raise ValueError(f"The name is longer than {MAX_FILE_NAME_BYTES:,} bytes; shorten it.")
    for form in (name, unicodedata.normalize("NFKC", name)):
        if _CONTROL.search(form):
            raise ValueError("The name holds a control character; remove it.")
        if {".", ".."} & set(re.split(r"[\\/]", form)):
            raise ValueError('The name holds a "." or ".." segment; remove it.')
    if not stem(name):
        raise ValueError("The name has nothing before its extension; add a name.")
    return name


def extension(name: str) -> str:
    """The extension of a path's last segment, lower case with its dot; "" if there is none."""
    _, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if dot and "/" not in ending else ""


def stem(name: str) -> str:
    """The last segment of a path without its extension."""
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] if "." in last else last


_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:(Z)|([+-])(\d\d):(\d\d))?)?",
    re.ASCII,
)


def parse_interaction_date(sent: str) -> InteractionDate:
    """Reads the ISO 8601 calendar forms of the contract.

    Raises:
        ValueError: another form, or a date that does not exist.
    """
    match = _DATE.fullmatch(sent)
    if match is None:
        raise ValueError("Send a date like 2022-03-18T17:56:09-04:00.")
    year, month, day, hour, minute, second, fraction, zulu, sign, *offset = match.groups()
    minutes = None
    if zulu:
        minutes = 0
    elif sign:
        east = timedelta(hours=int(offset[0]), minutes=int(offset[1]))
        if int(offset[1]) > 59 or east > timedelta(hours=14):  # noqa: PLR2004
            raise ValueError("The offset lies outside -14:00 to +14:00.")
        minutes = int(east / timedelta(minutes=1)) * (-1 if sign == "-" else 1)
    local = datetime(
        int(year),
        int(month),
        int(day),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        int((fraction or "").ljust(6, "0")[:6]),
        tzinfo=timezone(timedelta(minutes=minutes or 0)),
    )
    try:
        instant = local.astimezone(UTC)
    except OverflowError:
        raise ValueError("The date lies outside the years 0001 to 9999 in UTC.") from None
    return InteractionDate(instant, minutes, sent)
