"""The hierarchy, as published: `/Hierarchy`.

Structure levels are named by depth: "Level 1" is the top.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field, Strict
from starlette.requests import Request
from starlette.responses import Response

from earmark.directory import Directory, NewNode, NodeChange
from earmark.errors import Invalid, InvalidError, NotFoundError
from earmark.model import MAX_INDEXED_CHARACTERS, HierarchyNode
from earmark.web.acxapi.body import (
    IS_ACTIVE,
    REMOVE,
    Body,
    Code,
    Name,
    Text,
    Wire,
    document_body,
    document_errors,
    document_parameter,
    flag,
    parse,
    published_names,
)
from earmark.web.security import Manager, Reader

OtherCode = Annotated[
    str, Field(json_schema_extra={"minLength": 1, "maxLength": MAX_INDEXED_CHARACTERS})
]


_CONTACTS = "Ids of users. There are no users yet, so none can be named."


class _Sent(Wire):
    """What both bodies have."""

    category: Text | None = Field(None, description="A word of your own.")
    sub_category: Text | None = Field(None, description="Likewise.")
    code: Code | None = Field(
        None, description="That uploads name as `HierarchyCode`; it names one node."
    )
    hierarchy_codes: list[OtherCode] | None = Field(
        None, description="Further codes that name the node."
    )
    administrative_contacts_user_ids: list[str] | None = Field(None, description=_CONTACTS)
    escalation_contacts_user_ids: list[str] | None = Field(None, description=_CONTACTS)
    manager_contacts_user_ids: list[str] | None = Field(None, description=_CONTACTS)

    def contacts(self) -> tuple[str, ...]:
        """Every user named as a contact."""
        return (
            *(self.administrative_contacts_user_ids or ()),
            *(self.escalation_contacts_user_ids or ()),
            *(self.manager_contacts_user_ids or ()),
        )


class CreateHierarchy(_Sent):
    """The body that creates a node."""

    name: Name = Field(description="What people call it.")
    parent_id: Annotated[UUID, Strict(False)] | None = Field(
        None, description="Id of the node above; without it the node stands at the top."
    )


class UpdateHierarchy(_Sent):
    """The body that changes a node: what is absent or null stays as it is."""

    name: Name | None = Field(None, description="What people call it.")
    new_parent_id: str | None = Field(
        None, description="Id of the node below which it goes; `remove` puts it at the top."
    )
    is_active: bool | None = Field(None, description="Whether uploads may name it.")


class Contact(Wire):
    """A contact of a node. There are none as long as there are no users."""

    user_name: str | None
    user_id: str | None


class HierarchyAnswer(Wire):
    """A node as it is answered, with all that stands below it."""

    id: UUID
    is_active: bool
    name: str
    structure_level_name: str
    category: str | None
    sub_category: str | None
    code: str | None
    modified_on: datetime
    administrative_contacts: list[Contact]
    escalation_contacts: list[Contact]
    manager_contacts: list[Contact]
    hierarchy_codes: list[str]
    children: list["HierarchyAnswer"]

    @classmethod
    def of(cls, node: HierarchyNode) -> Self:
        """The node alone, in the words of this API."""
        return cls(
            id=node.id,
            is_active=node.is_active,
            name=node.name,
            structure_level_name=f"Level {node.depth + 1}",
            category=node.category,
            sub_category=node.sub_category,
            code=node.code,
            modified_on=node.modified_at,
            administrative_contacts=[],
            escalation_contacts=[],
            manager_contacts=[],
            hierarchy_codes=list(node.codes),
            children=[],
        )


_NAMES = {"codes": "hierarchyCodes", "contact_user_ids": "contactsUserIds"}
_NODE_ID = document_parameter(
    "HierarchyId", "path", {"type": "string", "format": "uuid"}, "Id of the node."
)


def router(directory: Directory) -> APIRouter:
    """The routes of the hierarchy."""
    routes = APIRouter(tags=["Hierarchy"])
    _add_reading(routes, directory)
    _add_changing(routes, directory)
    return routes


def _add_reading(routes: APIRouter, directory: Directory) -> None:
    @routes.get(
        "/Hierarchy/All",
        operation_id="listHierarchies",
        summary="All hierarchies",
        response_model=list[HierarchyAnswer],
        responses=document_errors(400, 404),
        openapi_extra={"parameters": [IS_ACTIVE]},
    )
    def every(principal: Reader, request: Request) -> Response:
        """The organization's tree; 404 if no node is active, or inactive, as asked."""
        nodes = directory.for_(principal).tree(is_active=flag(request, "IsActive"))
        if not nodes:
            raise NotFoundError("no hierarchy nodes")
        return _json(render(nodes))


def _add_changing(routes: APIRouter, directory: Directory) -> None:
    @routes.post(
        "/Hierarchy",
        operation_id="createHierarchy",
        summary="Create hierarchy",
        response_model=HierarchyAnswer,
        responses=document_errors(400, 413),
        openapi_extra=document_body(CreateHierarchy),
    )
    def create(principal: Manager, body: Body) -> Response:
        """Adds a node, at the top or below a parent."""
        new = _new(parse(CreateHierarchy, body))
        with published_names(_NAMES):
            node = directory.for_(principal).create_node(new)
        return _json(render([node])[1:-1])

    @routes.put(
        "/Hierarchy/{HierarchyId:uuid}",  # noqa: FAST003 (documented below)
        operation_id="updateHierarchy",
        summary="Update hierarchy",
        response_model=HierarchyAnswer,
        responses=document_errors(400, 404, 413),
        openapi_extra={"parameters": [_NODE_ID], **document_body(UpdateHierarchy)},
    )
    def update(principal: Manager, request: Request, body: Body) -> Response:
        """Changes what is given of a node, or moves it; answers it with all below it."""
        bound = directory.for_(principal)
        change = _change(parse(UpdateHierarchy, body))
        with published_names({**_NAMES, "parent_id": "newParentId"}):
            node = bound.change_node(request.path_params["HierarchyId"], change)
        return _json(render(bound.tree(under=node.id))[1:-1])


def render(nodes: Iterable[HierarchyNode]) -> str:
    """The JSON array of trees, from the nodes in the order of `OrganizationDirectory.tree`.

    Written without recursion, since a tree may be deeper than any encoder goes.
    """
    parts = ["["]
    path: list[UUID] = []
    for node in nodes:
        while path and path[-1] != node.parent_id:
            path.pop()
            parts.append("]}")
        if parts[-1] == "]}":
            parts.append(",")
        alone = HierarchyAnswer.of(node).model_dump_json(by_alias=True)
        parts.append(alone.removesuffix("]}"))  # `children` is last, and empty
        path.append(node.id)
    parts.append("]}" * len(path) + "]")
    return "".join(parts)


def _json(body: str) -> Response:
    return Response(body, media_type="application/json")


def _new(sent: CreateHierarchy) -> NewNode:
    return NewNode(
        name=sent.name,
        parent_id=sent.parent_id,
        code=sent.code,
        codes=tuple(sent.hierarchy_codes or ()),
        category=sent.category,
        sub_category=sent.sub_category,
        contact_user_ids=sent.contacts(),
    )


def _change(sent: UpdateHierarchy) -> NodeChange:
    parent_id, to_top = _parent(sent.new_parent_id)
    return NodeChange(
        name=sent.name,
        parent_id=parent_id,
        to_top=to_top,
        code=sent.code,
        codes=None if sent.hierarchy_codes is None else tuple(sent.hierarchy_codes),
        category=sent.category,
        sub_category=sent.sub_category,
        is_active=sent.is_active,
        contact_user_ids=sent.contacts(),
    )


def _parent(sent: str | None) -> tuple[UUID | None, bool]:
    """The new parent, and whether the node becomes a top-level one."""
    if sent is None:
        return None, False
    if sent.lower() == REMOVE:
        return None, True
    try:
        return UUID(sent), False
    except ValueError:
        fault = Invalid("newParentId", f'Send the UUID of a node, or "{REMOVE}".')
        raise InvalidError(fault) from None
