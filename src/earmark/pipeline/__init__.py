"""What is done to an interaction after it was received, step by step.

A step is one file here and one line in `STEPS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol

from earmark.errors import ServiceError
from earmark.model import DEFAULT_LOCALE, AgentSent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from earmark.database.scope import Scope
    from earmark.model import AudioFacts, Cause, InteractionDate, MediaType
    from earmark.pipeline.notes import Notes
    from earmark.sandbox import Limits
    from earmark.speech import Transcriber
    from earmark.storage import Store

STEPS = (
    "earmark.pipeline.listen:Listen",
    "earmark.pipeline.transcribe:Transcribe",
    "earmark.pipeline.unpack:Unpack",
)
"""In the order in which they run. "module:class", resolved by the worker only."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What steps may use.

    Attributes:
        store: where the media lies and what is derived from it goes.
        limits: what decoding one file may use.
        transcriber: makes the engine that recognizes speech on its first call; None if there
            shall be none. It raises SpeechMissingError where something is not installed.
    """

    store: Store
    limits: Limits
    transcriber: Callable[[], Transcriber] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """The interaction that a step works at.

    Attributes:
        extension: of its file name, lower case with the dot.
        locale: of the interaction, like "en-US".
        agent_channel: on which the organization records its agents, from 0.
        audio: what an earlier step found out about a recording.
        customer: the customer's name, as far as it is known.
        agent: the agent, as far as they are known.
        date: of the interaction, if the upload told one.
    """

    organization_id: UUID
    interaction_id: UUID
    media_type: MediaType
    extension: str
    locale: str = DEFAULT_LOCALE
    agent_channel: int = 0
    audio: AudioFacts | None = None
    customer: str | None = None
    agent: AgentSent = field(default_factory=AgentSent)
    date: InteractionDate | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The step did its work.

    Attributes:
        save: writes what was found, in the transaction that records the outcome.
    """

    save: Callable[[Scope], None] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """The step had good reason to do nothing; it runs again when the interaction is retried."""

    cause: Cause


Outcome = Done | Skipped


class TransientError(ServiceError):
    """Something that a step needs does not serve now; what is wrong can be told to a person."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


class Step(Protocol):
    """One step of processing. Doing it twice is doing it once: workers die at any point.

    Attributes:
        name: stable and unique, at most 32 characters; people see it.
        required: whether the interaction fails, and later steps are left out, if this fails.
    """

    name: str
    required: bool

    def __init__(self, tools: Tools) -> None: ...

    def applies_to(self, media_type: MediaType) -> bool:
        """Whether interactions of this kind pass this step at all."""

    def run(self, item: Item, notes: Notes) -> Outcome:
        """Does the work. What it stores is found by the interaction's id and can be rewritten.

        Args:
            item: what to work at.
            notes: where long work writes down what it has done, to go on from there.

        Raises:
            MediaError: the file is at fault: the step fails at once, with this code and message.
            TransientError: something else is, with a code and a message of its own; it is tried
                again a few times.
            Exception: anything else is taken for transient and tried again a few times.
        """

    def discard(self, item: Item) -> None:
        """Removes what `run` stored: the interaction was deleted meanwhile."""


def load_steps(tools: Tools, registry: Sequence[str] = STEPS) -> tuple[Step, ...]:
    """The steps of a registry, in its order."""
    return tuple(_resolve(name)(tools) for name in registry)


def _resolve(name: str) -> type[Step]:
    step: type[Step] = resolve_name(name)
    return step
