"""Who handles interactions, and where in the organization's tree: agents and hierarchy.

Agents and nodes are never deleted; they are made inactive. An agent has its nodes by direct
assignment, and every node above them follows from the tree.

Users do not exist: naming one is refused, since no such user can be found. A manager's id is the
caller's own reference, kept and given back.

`resolve_node`, `find_agent` and `apply_node_to_agent` work inside the transaction of an upload.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from earmark.database import agents as agent_rows
from earmark.database import hierarchy as node_rows
from earmark.database import journal
from earmark.directory.changes import (
    MAX_NAME_CHARACTERS,
    AgentChange,
    NewAgent,
    NewNode,
    NodeChange,
    agent_after,
    changed_names,
    check_agent,
    check_node,
    distinct,
    node_after,
)
from earmark.errors import Invalid, InvalidError, NotFoundError
from earmark.model import Agent, HierarchyNode, new_id, now, storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from uuid import UUID

    from earmark.database import Database, Scope
    from earmark.model import Principal

__all__ = [
    "MAX_NAME_CHARACTERS",
    "AgentChange",
    "Directory",
    "NewAgent",
    "NewNode",
    "NodeChange",
    "OrganizationDirectory",
    "apply_node_to_agent",
    "find_agent",
    "resolve_node",
]


class Directory:
    """The agents and trees of every organization; `for_` binds it to one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def for_(self, principal: Principal) -> OrganizationDirectory:
        """The directory of the principal's organization."""
        return OrganizationDirectory(self._database, principal)


class OrganizationDirectory:
    """The agents and the tree of one organization.

    Every change is in the audit trail, by the names of what changed and never by its values.
    """

    def __init__(self, database: Database, principal: Principal) -> None:
        self._database = database
        self._organization_id = principal.organization_id
        self._actor = f"client:{principal.client_id}"

    def create_agent(self, new: NewAgent) -> Agent:
        """Adds an agent and joins the interactions that wait for its code.

        Where such an interaction asked for it, the agent is assigned to its node as well.

        Raises:
            InvalidError: every value that is wrong, or the code is another agent's.
        """
        check_agent(new)
        at = now()
        agent = Agent(
            id=new_id(),
            first_name=new.first_name,
            last_name=new.last_name,
            email=new.email,
            code=new.code or None,
            is_active=True,
            user_id=None,
            manager_id=new.manager_id or None,
            start_date=new.start_date or None,
            created_at=at,
            modified_at=at,
        )
        with self._database.write(self._organization_id) as scope:
            _reserve_code(scope, agent.code)
            _check_code_free(scope, agent)
            _check_nodes(scope, new.node_ids)
            agent_rows.add(scope, agent)
            agent_rows.assign_only(scope, agent.id, frozenset(new.node_ids))
            self._record(scope, "agent.create", agent.id, _join_waiting(scope, agent))
        return agent

    def change_agent(self, agent_id: UUID, change: AgentChange) -> Agent:
        """Changes an agent; a code that is new to it joins what waits for it, as on creation.

        Interactions joined earlier stay joined.

        Raises:
            InvalidError: every value that is wrong, or the code is another agent's.
            NotFoundError: no such agent.
        """
        check_agent(change)
        with self._database.write(self._organization_id) as scope:
            _reserve_code(scope, change.code)
            before = agent_rows.get(scope, agent_id, lock=True)
            if before is None:
                raise NotFoundError("no such agent")
            after = agent_after(before, change)
            _check_code_free(scope, after)
            _check_nodes(scope, change.node_ids or ())
            changed = changed_names(before, after)
            if change.node_ids is not None:
                changed += _reassign(scope, agent_id, frozenset(change.node_ids))
            if not changed:
                return before
            after = replace(after, modified_at=now())
            agent_rows.replace(scope, after)
            joined = _join_waiting(scope, after) if "code" in changed else {}
            self._record(scope, "agent.change", agent_id, {"fields": changed, **joined})
        return after

    def agent(self, agent_id: UUID) -> Agent:
        """One agent.

        Raises:
            NotFoundError: no such agent.
        """
        with self._database.read(self._organization_id) as scope:
            found = agent_rows.get(scope, agent_id)
        if found is None:
            raise NotFoundError("no such agent")
        return found

    def agents(self, *, is_active: bool | None = None) -> tuple[Agent, ...]:
        """All agents, oldest first; only the active or the inactive ones unless None."""
        with self._database.read(self._organization_id) as scope:
            return agent_rows.every(scope, is_active=is_active)

    def nodes_of(self, agent_id: UUID) -> frozenset[UUID]:
        """The nodes that the agent belongs to: those it is assigned to, and all above them.

        Raises:
            NotFoundError: no such agent.
        """
        self.agent(agent_id)
        with self._database.read(self._organization_id) as scope:
            return agent_rows.assigned_with_parents(scope, agent_id)

    def create_node(self, new: NewNode) -> HierarchyNode:
        """Adds a node to the tree.

        Raises:
            InvalidError: every value that is wrong, no such parent, or a code names another node.
        """
        check_node(new)
        at = now()
        node = HierarchyNode(
            id=new_id(),
            parent_id=new.parent_id,
            name=new.name,
            code=new.code or None,
            codes=distinct(new.codes),
            category=new.category or None,
            sub_category=new.sub_category or None,
            is_active=True,
            depth=0,
            created_at=at,
            modified_at=at,
        )
        with self._database.write(self._organization_id) as scope:
            node_rows.reserve(scope)
            if node.parent_id is not None:
                node = replace(node, depth=_parent(scope, node.parent_id).depth + 1)
            node_rows.add(scope, node)
            _set_codes(scope, node)
            self._record(scope, "hierarchy.create", node.id)
        return node

    def change_node(self, node_id: UUID, change: NodeChange) -> HierarchyNode:
        """Changes a node, or moves it with all that stands below it.

        An inactive node is no longer accepted on uploads; what has it keeps it, and the nodes
        below it stay as they are.

        Raises:
            InvalidError: every value that is wrong, no such parent, a parent that is the node
                itself or stands below it, or a code that names another node.
            NotFoundError: no such node.
        """
        check_node(change)
        with self._database.write(self._organization_id) as scope:
            node_rows.reserve(scope)
            before = node_rows.get(scope, node_id)
            if before is None:
                raise NotFoundError("no such hierarchy node")
            after = node_after(before, change)
            if change.to_top or change.parent_id is not None:
                after = _moved(scope, after, change.parent_id)
            changed = changed_names(before, after)
            if not changed:
                return before
            after = replace(after, modified_at=now())
            node_rows.replace(scope, after)
            if {"code", "codes"} & set(changed):
                _set_codes(scope, after)
            self._record(scope, "hierarchy.change", node_id, {"fields": changed})
        return after

    def tree(
        self, *, is_active: bool | None = None, under: UUID | None = None
    ) -> tuple[HierarchyNode, ...]:
        """The nodes in the order of the tree: after each node all that stands below it.

        Siblings stand oldest first. Under a node whose parent is left out, as at the start, a new
        tree begins; `depth` still counts from the top of the whole.

        Args:
            is_active: only the active or the inactive nodes, unless None.
            under: only this node and those below it, unless None.
        """
        with self._database.read(self._organization_id) as scope:
            nodes = node_rows.every(scope, under=under)
        shown = [node for node in nodes if is_active is None or node.is_active == is_active]
        return tuple(_walk(shown))

    def _record(
        self, scope: Scope, action: str, subject: UUID, detail: dict[str, Any] | None = None
    ) -> None:
        journal.record(
            scope, actor=self._actor, action=action, subject=str(subject), detail=detail
        )


def resolve_node(
    scope: Scope, *, node_id: UUID | None = None, code: str | None = None
) -> UUID | None:
    """The active node of the organization that an upload names, by id, by code, or by both.

    Returns:
        None if nothing was given, or no active node has it, or the two name different nodes.
    """
    if node_id is None and code is None:
        return None
    if code is not None and not storable(code):
        return None
    return node_rows.active_node(scope, node_id=node_id, code=code)


def find_agent(scope: Scope, code: str | None) -> UUID | None:
    """The agent that has exactly this code, active or not; none for no code.

    Until the transaction ends, no agent gets the code: an interaction written without an agent in
    this transaction is seen, and joined, by whoever gives the code to an agent next. So call it
    before the interaction is written or locked.
    """
    if code is None or not storable(code):
        return None
    agent_rows.reserve_code(scope, code, shared=True)
    return agent_rows.id_of_code(scope, code)


def apply_node_to_agent(scope: Scope, agent_id: UUID, node_id: UUID) -> bool:
    """Assigns the agent to the node, and so to all above it; False if it was already.

    Call it after the interaction is written, so that all uploads take their locks in one order.
    """
    return agent_rows.assign(scope, agent_id, node_id)


def _reserve_code(scope: Scope, code: str | None) -> None:
    if code:
        agent_rows.reserve_code(scope, code)


def _check_code_free(scope: Scope, agent: Agent) -> None:
    if agent.code and agent_rows.id_of_code(scope, agent.code) not in {None, agent.id}:
        raise InvalidError(Invalid("code", "Another agent has this code already; send another."))


def _check_nodes(scope: Scope, node_ids: tuple[UUID, ...]) -> None:
    known = node_rows.existing(scope, node_ids)
    faults = [_no_node("node_ids", node_id) for node_id in node_ids if node_id not in known]
    if faults:
        raise InvalidError(*faults)


def _reassign(scope: Scope, agent_id: UUID, node_ids: frozenset[UUID]) -> list[str]:
    """Makes these the agent's nodes; names the field if that changed anything."""
    if agent_rows.assigned(scope, agent_id) == node_ids:
        return []
    agent_rows.assign_only(scope, agent_id, node_ids)
    return ["node_ids"]


def _join_waiting(scope: Scope, agent: Agent) -> dict[str, Any]:
    """Joins what waits for the agent's code; returns the facts for the audit trail."""
    if agent.code is None:
        return {}
    nodes = sorted(agent_rows.nodes_waiting(scope, agent.code))
    joined = agent_rows.join_waiting(scope, agent.id, agent.code)
    assigned = [str(node) for node in nodes if agent_rows.assign(scope, agent.id, node)]
    return {"joined": joined, "assigned": assigned}


def _parent(scope: Scope, node_id: UUID) -> HierarchyNode:
    parent = node_rows.get(scope, node_id)
    if parent is None:
        raise InvalidError(_no_node("parent_id", node_id))
    return parent


def _no_node(field: str, node_id: UUID) -> Invalid:
    return Invalid(field, f"No hierarchy node of this organization has the id {node_id}.")


def _moved(scope: Scope, node: HierarchyNode, parent_id: UUID | None) -> HierarchyNode:
    """The node below its new parent, or on top; all that stands below it comes along."""
    if parent_id == node.parent_id:
        return node
    depth = 0
    if parent_id is not None:
        depth = _parent(scope, parent_id).depth + 1
        if node_rows.is_below(scope, parent_id, above=node.id):
            fault = "A node cannot stand below itself or below a node that stands below it."
            raise InvalidError(Invalid("parent_id", fault))
    node_rows.move(scope, node.id, parent_id=parent_id)
    return replace(node, parent_id=parent_id, depth=depth)


def _set_codes(scope: Scope, node: HierarchyNode) -> None:
    taken = node_rows.set_codes(scope, node)
    if taken is not None:
        field = "codes" if taken in node.codes else "code"
        raise InvalidError(
            Invalid(field, f'The code "{taken}" names another hierarchy node already.')
        )


def _walk(nodes: Iterable[HierarchyNode]) -> Iterator[HierarchyNode]:
    """The nodes in the order of their trees, without recursion: a tree may be of any depth."""
    known = {node.id: node for node in nodes}
    children: dict[UUID | None, list[HierarchyNode]] = {}
    for node in known.values():
        parent = node.parent_id if node.parent_id in known else None
        children.setdefault(parent, []).append(node)
    stack = children.get(None, [])[::-1]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children.get(node.id, [])))
