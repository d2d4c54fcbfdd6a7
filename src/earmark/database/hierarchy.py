"""The organization's tree: nodes, the codes that name them, and the closure of parent links.

Whoever changes the tree calls `reserve` first: one change of an organization's tree at a time.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.tables import hierarchy_closure, hierarchy_code, hierarchy_node
from earmark.model import HierarchyNode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from uuid import UUID

    from earmark.database.scope import Scope

_ELSEWHERE = frozenset({"codes", "depth"})
_COLUMNS = [
    hierarchy_node.c[field.name] for field in fields(HierarchyNode) if field.name not in _ELSEWHERE
]
_DEPTH = (
    sa.select(sa.func.max(hierarchy_closure.c.depth))
    .where(
        hierarchy_closure.c.organization_id == hierarchy_node.c.organization_id,
        hierarchy_closure.c.descendant_id == hierarchy_node.c.id,
    )
    .scalar_subquery()
    .label("depth")
)


def reserve(scope: Scope) -> None:
    """Lets nobody else change the organization's tree until the transaction ends."""
    scope.serialise("hierarchy", str(scope.organization_id))


def get(scope: Scope, node_id: UUID) -> HierarchyNode | None:
    """A node of the organization."""
    row = scope.row(sa.select(*_COLUMNS, _DEPTH).where(hierarchy_node.c.id == node_id))
    if row is None:
        return None
    return _node(row, _codes(scope, hierarchy_code.c.node_id == node_id))


def every(scope: Scope, *, under: UUID | None = None) -> tuple[HierarchyNode, ...]:
    """The nodes, oldest first; with `under` only that node and those below it."""
    nodes = sa.select(*_COLUMNS, _DEPTH).order_by(hierarchy_node.c.created_at, hierarchy_node.c.id)
    condition: sa.ColumnElement[bool] = sa.true()
    if under is not None:
        below = _below(scope, under)
        nodes = nodes.where(hierarchy_node.c.id.in_(below))
        condition = hierarchy_code.c.node_id.in_(below)
    codes = _codes(scope, condition)
    return tuple(_node(row, codes) for row in scope.rows(nodes))


def existing(scope: Scope, node_ids: Collection[UUID]) -> frozenset[UUID]:
    """Which of these are nodes of the organization, active or not."""
    statement = sa.select(hierarchy_node.c.id).where(hierarchy_node.c.id.in_(node_ids))
    return frozenset(row.id for row in scope.rows(statement))


def active_node(scope: Scope, *, node_id: UUID | None, code: str | None) -> UUID | None:
    """The active node that everything given names."""
    statement = sa.select(hierarchy_node.c.id).where(hierarchy_node.c.is_active)
    if node_id is not None:
        statement = statement.where(hierarchy_node.c.id == node_id)
    if code is not None:
        named = sa.select(hierarchy_code.c.node_id).where(
            hierarchy_code.c.organization_id == hierarchy_node.c.organization_id,
            hierarchy_code.c.code == code,
        )
        statement = statement.where(hierarchy_node.c.id == named.scalar_subquery())
    row = scope.row(statement)
    return row.id if row else None


def add(scope: Scope, node: HierarchyNode) -> None:
    """Adds a node and its place below its parent; its codes are set apart, by `set_codes`."""
    scope.insert(hierarchy_node, _values(node))
    place: dict[str, Any] = {"descendant_id": node.id}
    above = {} if node.parent_id is None else _ancestors(scope, node.parent_id)
    scope.insert(
        hierarchy_closure,
        {**place, "ancestor_id": node.id, "depth": 0},
        *({**place, "ancestor_id": id_, "depth": depth + 1} for id_, depth in above.items()),
    )


def replace(scope: Scope, node: HierarchyNode) -> None:
    """Writes a node's own columns; `set_codes` and `move` do the rest."""
    statement = sa.update(hierarchy_node).where(hierarchy_node.c.id == node.id)
    scope.run(statement.values(_values(node)))


def set_codes(scope: Scope, node: HierarchyNode) -> str | None:
    """Lets the node's codes, and no others, name it.

    Returns:
        The first of them that names another node already, or None.
    """
    scope.run(sa.delete(hierarchy_code).where(hierarchy_code.c.node_id == node.id))
    positions = {code: position for position, code in enumerate(node.codes, start=1)}
    if node.code is not None:
        positions.setdefault(node.code, 0)
    for code, position in sorted(positions.items(), key=lambda item: item[1]):
        row = {"code": code, "node_id": node.id, "position": position}
        if not scope.insert_if_absent(hierarchy_code, row):
            return code
    return None


def is_below(scope: Scope, node_id: UUID, *, above: UUID) -> bool:
    """Whether `node_id` is `above` itself or stands below it."""
    return above in _ancestors(scope, node_id)


def move(scope: Scope, node_id: UUID, *, parent_id: UUID | None) -> None:
    """Takes a node and all below it to another parent, which must not be among them, or to top."""
    below = _below(scope, node_id)
    inside = hierarchy_closure.c.ancestor_id.in_(below)
    scope.run(
        sa.delete(hierarchy_closure).where(hierarchy_closure.c.descendant_id.in_(below), ~inside)
    )
    if parent_id is None:
        return
    above = _ancestors(scope, parent_id)
    scope.insert(
        hierarchy_closure,
        *(
            {"ancestor_id": up, "descendant_id": down, "depth": up_depth + 1 + down_depth}
            for up, up_depth in above.items()
            for down, down_depth in _descendants(scope, node_id).items()
        ),
    )


def _ancestors(scope: Scope, node_id: UUID) -> dict[UUID, int]:
    """The node and those above it, each with how many links lie between."""
    statement = sa.select(hierarchy_closure.c.ancestor_id, hierarchy_closure.c.depth)
    rows = scope.rows(statement.where(hierarchy_closure.c.descendant_id == node_id))
    return {row.ancestor_id: row.depth for row in rows}


def _descendants(scope: Scope, node_id: UUID) -> dict[UUID, int]:
    statement = sa.select(hierarchy_closure.c.descendant_id, hierarchy_closure.c.depth)
    rows = scope.rows(statement.where(hierarchy_closure.c.ancestor_id == node_id))
    return {row.descendant_id: row.depth for row in rows}


def _below(scope: Scope, node_id: UUID) -> sa.Select[Any]:
    """The ids of a node and those below it, for use inside another statement."""
    closure = hierarchy_closure.alias()  # or it would be taken for the statement's own table
    statement = sa.select(closure.c.descendant_id).where(closure.c.ancestor_id == node_id)
    return statement.where(closure.c.organization_id == scope.organization_id)


def _codes(scope: Scope, condition: sa.ColumnElement[bool]) -> dict[UUID, list[str]]:
    """The other codes of the nodes, in the order given."""
    statement = sa.select(hierarchy_code.c.node_id, hierarchy_code.c.code).where(
        condition, hierarchy_code.c.position > 0
    )
    found: dict[UUID, list[str]] = {}
    for row in scope.rows(statement.order_by(hierarchy_code.c.position)):
        found.setdefault(row.node_id, []).append(row.code)
    return found


def _node(row: sa.Row[Any], codes: Mapping[UUID, Iterable[str]]) -> HierarchyNode:
    return HierarchyNode(**row._asdict(), codes=tuple(codes.get(row.id, ())))


def _values(node: HierarchyNode) -> dict[str, Any]:
    return {key: value for key, value in asdict(node).items() if key not in _ELSEWHERE}
