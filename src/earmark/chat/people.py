"""Which side of a chat a name stands for, by what the upload said of agent and customer."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from earmark.model.transcript import Speaker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from earmark.model.transcript import Segment

_WORDS = {
    Speaker.AGENT: "agent agente advisor asesor asesora operator operador operadora supervisor",
    Speaker.CUSTOMER: "customer cliente client caller visitor visitante patient paciente",
    Speaker.BOT: "bot chatbot custom_bot system sistema system_message",
}
_MAX_NAME_CHARACTERS = 512
"""What is compared of a name. To normalise text takes a time that grows with the square of the
marks in a row, and an upload may call its customer by 256 KiB of them."""

_SIDES = {word: side for side, words in _WORDS.items() for word in words.split()}


def side_of(word: str) -> Speaker:
    """The side that a word means by itself, in English and Spanish; unknown of any other."""
    return _SIDES.get(_plain(word), Speaker.UNKNOWN)


@dataclass(frozen=True, slots=True)
class People:
    """Who takes part in an interaction, as far as the upload says."""

    customer: str | None = None
    agent_first: str | None = None
    agent_last: str | None = None

    def sides(self, messages: Iterable[Segment]) -> tuple[Segment, ...]:
        """The messages, those of unknown side given one if their sender's name tells it."""
        return tuple(
            replace(one, speaker=self._side(one.name))
            if one.speaker is Speaker.UNKNOWN and one.name
            else one
            for one in messages
        )

    def _side(self, name: str) -> Speaker:
        agent, customer = (self._calls(name, known) for known in (self._agent, self._customer))
        if agent == customer:  # neither, or both: two people of one first name
            return Speaker.UNKNOWN
        return Speaker.AGENT if agent else Speaker.CUSTOMER

    @staticmethod
    def _calls(name: str, known: set[str]) -> bool:
        return _plain(name) in known

    @property
    def _agent(self) -> set[str]:
        first, last = self.agent_first or "", self.agent_last or ""
        return _names(f"{first} {last}", f"{last} {first}", f"{last}, {first}", first)

    @property
    def _customer(self) -> set[str]:
        name = self.customer or ""
        return _names(name, next(iter(name.split()), ""))


def _names(*names: str) -> set[str]:
    return {_plain(name) for name in names} - {"", ","}


def _plain(name: str) -> str:
    """The same for the same name, however it is written."""
    name = name[:_MAX_NAME_CHARACTERS]
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
