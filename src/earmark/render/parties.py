"""Who took part in an interaction, as the parties of its vCon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from earmark.model.transcript import Speaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark.model import Interaction, Organization
    from earmark.model.transcript import Segment

AGENT, CUSTOMER, OWNER = range(3)
"""Places among the parties; others who wrote in a chat follow."""


def parties_of(interaction: Interaction, owner: Organization) -> list[dict[str, str]]:
    """Agent, customer and the organization, whatever is known of them."""
    agent, customer = interaction.agent, interaction.customer
    agent_id = str(interaction.agent_id) if interaction.agent_id else None
    agent_name = " ".join(filter(None, (agent.first_name, agent.last_name)))
    phone, email = customer.phone, customer.email
    return [
        _party(name=agent_name, uuid=agent_id, role="agent"),
        _party(tel=_tel(phone), mailto=email, name=customer.name, role="customer"),
        _party(name=owner.name, type="organization"),
    ]


def senders(segments: Sequence[Segment], parties: list[dict[str, str]]) -> list[int]:
    """Who wrote each message. Whoever is not among the parties yet is added to them."""
    places: dict[tuple[Speaker, str | None], int] = {}
    for place, speaker in ((AGENT, Speaker.AGENT), (CUSTOMER, Speaker.CUSTOMER)):
        name = _main_name(segments, speaker, parties[place].get("name"))
        places[speaker, None] = places[speaker, name] = place
        if name and "name" not in parties[place]:
            parties[place] |= _party(name=name)
    for segment in segments:
        sender = (segment.speaker, segment.name or None)
        if sender not in places:
            places[sender] = len(parties)
            parties.append(_party(name=segment.name, **_KINDS[segment.speaker]))
    return [places[segment.speaker, segment.name or None] for segment in segments]


_KINDS = {
    Speaker.AGENT: {"role": "agent"},
    Speaker.CUSTOMER: {"role": "customer"},
    Speaker.BOT: {"type": "bot"},
    Speaker.UNKNOWN: {},
}


def _main_name(segments: Sequence[Segment], side: Speaker, known: str | None) -> str | None:
    """Of the names under which a side wrote, that of the person whom the upload named.

    It is the same name, or else the first: chats tend to shorten names, and most have one person
    on each side.
    """
    names = [one.name for one in segments if one.speaker is side and one.name]
    same = [name for name in names if name.casefold() == (known or "").casefold()]
    return next(iter(same or names), None)


def _party(**values: str | None) -> dict[str, str]:
    """What is known of a party. Nobody has proved to us that a name is theirs."""
    known = {name: value for name, value in values.items() if value}
    return known | {"validation": "none"} if "name" in known else known


_NUMBER = re.compile(r"\+?[0-9*#().-]+", re.ASCII)
"""What a tel URL may hold, less the letters. Source: RFC 3966 section 3."""


def _tel(phone: str | None) -> str | None:
    """A number without the spaces that a tel URL cannot have; what is no number stays as it is."""
    compact = "".join((phone or "").split())
    return compact if _NUMBER.fullmatch(compact) else phone
