"""Agents, the nodes they are assigned to, and the interactions that wait for their codes."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.tables import agent, agent_node, hierarchy_closure, interaction
from earmark.model import Agent

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from earmark.database.scope import Scope

_COLUMNS = [agent.c[field.name] for field in fields(Agent)]


def reserve_code(scope: Scope, code: str, *, shared: bool = False) -> None:
    """Lets no agent get or leave waiting interactions of this code until the transaction ends.

    Whoever joins interactions to the code holds it shared; whoever gives it to an agent holds it
    alone. Both ask before they look, so that neither misses what the other is about to commit.
    """
    scope.serialise("agent", str(scope.organization_id), code, shared=shared)


def add(scope: Scope, new: Agent) -> None:
    """Adds an agent whose code was found free under `reserve_code`."""
    scope.insert(agent, asdict(new))


def get(scope: Scope, agent_id: UUID, *, lock: bool = False) -> Agent | None:
    """An agent of the organization.

    Args:
        scope: the transaction.
        agent_id: of the agent.
        lock: keep others from changing it until the transaction ends.
    """
    statement = sa.select(*_COLUMNS).where(agent.c.id == agent_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    row = scope.row(statement)
    return Agent(**row._asdict()) if row else None


def every(scope: Scope, *, is_active: bool | None) -> tuple[Agent, ...]:
    """The agents, oldest first; only those that are active, or inactive, unless None."""
    statement = sa.select(*_COLUMNS).order_by(agent.c.created_at, agent.c.id)
    if is_active is not None:
        statement = statement.where(agent.c.is_active == is_active)
    return tuple(Agent(**row._asdict()) for row in scope.rows(statement))


def id_of_code(scope: Scope, code: str) -> UUID | None:
    """The agent that has exactly this code."""
    row = scope.row(sa.select(agent.c.id).where(agent.c.code == code))
    return row.id if row else None


def replace(scope: Scope, changed: Agent) -> None:
    """Writes an agent that was read with `lock`."""
    scope.run(sa.update(agent).where(agent.c.id == changed.id).values(asdict(changed)))


def assign(scope: Scope, agent_id: UUID, node_id: UUID) -> bool:
    """Assigns the agent to the node; False if it was already."""
    return scope.insert_if_absent(agent_node, {"agent_id": agent_id, "node_id": node_id})


def assign_only(scope: Scope, agent_id: UUID, node_ids: Iterable[UUID]) -> None:
    """Assigns the agent to these nodes and to no other."""
    scope.run(sa.delete(agent_node).where(agent_node.c.agent_id == agent_id))
    for node_id in node_ids:
        assign(scope, agent_id, node_id)  # an upload may assign the same at this instant


def assigned(scope: Scope, agent_id: UUID) -> frozenset[UUID]:
    """The nodes that the agent is assigned to itself."""
    statement = sa.select(agent_node.c.node_id).where(agent_node.c.agent_id == agent_id)
    return frozenset(row.node_id for row in scope.rows(statement))


def assigned_with_parents(scope: Scope, agent_id: UUID) -> frozenset[UUID]:
    """The nodes that the agent is assigned to, and every node above them."""
    up = sa.join(
        agent_node,
        hierarchy_closure,
        (hierarchy_closure.c.organization_id == agent_node.c.organization_id)
        & (hierarchy_closure.c.descendant_id == agent_node.c.node_id),
    )
    statement = sa.select(hierarchy_closure.c.ancestor_id).select_from(up).distinct()
    rows = scope.rows(statement.where(agent_node.c.agent_id == agent_id))
    return frozenset(row.ancestor_id for row in rows)


def nodes_waiting(scope: Scope, code: str) -> frozenset[UUID]:
    """The nodes that unjoined interactions of this code want their agent to be assigned to."""
    statement = sa.select(interaction.c.hierarchy_node_id).distinct()
    rows = scope.rows(
        statement.where(
            interaction.c.agent_code == code,
            interaction.c.agent_id.is_(None),
            interaction.c.apply_hierarchy_to_agent,
            interaction.c.hierarchy_node_id.is_not(None),
        )
    )
    return frozenset(row.hierarchy_node_id for row in rows)


def join_waiting(scope: Scope, agent_id: UUID, code: str) -> int:
    """Joins the unjoined interactions of this code to the agent; says how many there were."""
    waiting = (interaction.c.agent_code == code, interaction.c.agent_id.is_(None))
    return scope.run(sa.update(interaction).where(*waiting).values(agent_id=agent_id))
