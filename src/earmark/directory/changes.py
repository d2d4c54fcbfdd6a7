"""What may be created and changed of agents and nodes, and what their values alone must keep."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from earmark.errors import Invalid, InvalidError
from earmark.model import MAX_INDEXED_CHARACTERS, parse_interaction_date, storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from uuid import UUID

    from earmark.model import Agent, HierarchyNode

MAX_NAME_CHARACTERS = 512
"""Names, e-mail addresses, categories: far beyond real ones, short enough to list thousands."""


@dataclass(frozen=True, slots=True)
class NewAgent:
    """An agent to create. An empty optional text means none."""

    first_name: str
    last_name: str
    email: str
    code: str | None = None
    node_ids: tuple[UUID, ...] = ()
    user_id: str | None = None
    manager_id: str | None = None
    start_date: str | None = None


@dataclass(frozen=True, slots=True)
class AgentChange:
    """What to change of an agent: None leaves it; an empty optional text removes it.

    Attributes:
        node_ids: all direct assignments from now on.
    """

    first_name: str | None = None
    last_name: str | None = None
    email: str | None = None
    code: str | None = None
    is_active: bool | None = None
    node_ids: tuple[UUID, ...] | None = None
    user_id: str | None = None
    manager_id: str | None = None
    start_date: str | None = None


@dataclass(frozen=True, slots=True)
class NewNode:
    """A hierarchy node to create. An empty optional text means none.

    Attributes:
        parent_id: None for a top-level node.
        contact_user_ids: the users who are its contacts.
    """

    name: str
    parent_id: UUID | None = None
    code: str | None = None
    codes: tuple[str, ...] = ()
    category: str | None = None
    sub_category: str | None = None
    contact_user_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeChange:
    """What to change of a node: None leaves it; an empty optional text removes it.

    Attributes:
        parent_id: the new parent.
        to_top: make it a top-level node; `parent_id` is None then.
        codes: all its other codes from now on.
    """

    name: str | None = None
    parent_id: UUID | None = None
    to_top: bool = False
    code: str | None = None
    codes: tuple[str, ...] | None = None
    category: str | None = None
    sub_category: str | None = None
    is_active: bool | None = None
    contact_user_ids: tuple[str, ...] = ()


_AGENT_REQUIRED = ("first_name", "last_name", "email")
_AGENT_FIELDS = (*_AGENT_REQUIRED, "code", "is_active", "manager_id", "start_date")
_NODE_REQUIRED = ("name",)
_NODE_FIELDS = (*_NODE_REQUIRED, "code", "category", "sub_category", "is_active")

_NO_USER = "No such active user exists in this organization; leave it out."


def check_agent(sent: NewAgent | AgentChange) -> None:
    """Raises every fault that the values alone show."""
    names = (*_AGENT_REQUIRED, "manager_id", "start_date")
    faults = list(_text_faults(sent, names, MAX_NAME_CHARACTERS))
    faults += _text_faults(sent, ("code",), MAX_INDEXED_CHARACTERS)
    faults += _blank(sent, _AGENT_REQUIRED)
    if sent.user_id:
        faults.append(Invalid("user_id", _NO_USER))
    if sent.start_date:
        try:
            parse_interaction_date(sent.start_date)
        except ValueError:
            faults.append(Invalid("start_date", "Send a date like 2022-03-18 or with a time."))
    _raise(faults)


def check_node(sent: NewNode | NodeChange) -> None:
    """Raises every fault that the values alone show."""
    faults = list(
        _text_faults(sent, (*_NODE_REQUIRED, "category", "sub_category"), MAX_NAME_CHARACTERS)
    )
    faults += _text_faults(sent, ("code",), MAX_INDEXED_CHARACTERS)
    for code in sent.codes or ():
        wrong = _wrong_text(code, MAX_INDEXED_CHARACTERS)
        if wrong or not code:
            faults.append(Invalid("codes", wrong or "A code must not be empty."))
    faults += _blank(sent, _NODE_REQUIRED)
    if sent.contact_user_ids:
        faults.append(Invalid("contact_user_ids", _NO_USER))
    _raise(faults)


def agent_after(before: Agent, change: AgentChange) -> Agent:
    """What an agent becomes by a change of its own values."""
    values: dict[str, Any] = _given(change, _AGENT_FIELDS)
    return replace(before, **values)


def node_after(before: HierarchyNode, change: NodeChange) -> HierarchyNode:
    """What a node becomes by a change of its own values; its place is not among them."""
    values: dict[str, Any] = _given(change, _NODE_FIELDS)
    if change.codes is not None:
        values["codes"] = distinct(change.codes)
    return replace(before, **values)


def changed_names(before: Agent | HierarchyNode, after: Agent | HierarchyNode) -> list[str]:
    """The names of the fields in which the two differ."""
    names = (field.name for field in fields(after))
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def distinct(codes: Iterable[str]) -> tuple[str, ...]:
    """Each code once, where it stood first."""
    return tuple(dict.fromkeys(codes))


def _text_faults(sent: Any, names: Iterable[str], limit: int) -> Iterator[Invalid]:
    for name in names:
        wrong = _wrong_text(getattr(sent, name) or "", limit)
        if wrong:
            yield Invalid(name, wrong)


def _wrong_text(text: str, limit: int) -> str | None:
    if len(text) > limit:
        return f"Send at most {limit} characters."
    if not storable(text):
        return "Send whole characters only, without NUL and halves of surrogate pairs."
    return None


def _blank(sent: Any, names: Iterable[str]) -> list[Invalid]:
    """The names that were given without a visible character."""
    given = {name: getattr(sent, name) for name in names}
    return [
        Invalid(name, "Send a text that is not empty.")
        for name, text in given.items()
        if text is not None and not text.strip()
    ]


def _raise(faults: list[Invalid]) -> None:
    if faults:
        raise InvalidError(*faults)


def _given(change: AgentChange | NodeChange, names: Iterable[str]) -> dict[str, Any]:
    """The new values: None leaves the old one, an empty text removes it."""
    values = {name: getattr(change, name) for name in names}
    return {
        name: None if value == "" else value for name, value in values.items() if value is not None
    }
