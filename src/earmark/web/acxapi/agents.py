"""Agents, as published: `/Agent`."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field, Strict
from starlette.requests import Request

from earmark.directory import AgentChange, Directory, NewAgent
from earmark.errors import NotFoundError
from earmark.model import Agent
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

Id = Annotated[UUID, Strict(False)]

_CODE = "That uploads name as `AgentCode`; one agent of the organization has it."
_OSMS = "Ids of the hierarchy nodes to which the agent belongs, in place of those before."
_KEPT = "Kept as sent, and answered."
_CHANGED = f"{_KEPT} `{REMOVE}` takes it away."
_START = "ISO 8601: when the agent began."


class CreateAgent(Wire):
    """The body that creates an agent."""

    first_name: Name = Field(description="First name.")
    last_name: Name = Field(description="Last name.")
    agent_email: Name = Field(description="E-mail address.")
    agent_code: Code | None = Field(None, description=_CODE)
    osms: list[Id] | None = Field(None, description=_OSMS)
    user_id: Text | None = Field(None, description=_KEPT)
    manager_id: Text | None = Field(None, description=_KEPT)
    start_date: Text | None = Field(None, description=_START)


class UpdateAgent(Wire):
    """The body that changes an agent: what is absent or null stays as it is."""

    first_name: Name | None = Field(None, description="First name.")
    last_name: Name | None = Field(None, description="Last name.")
    agent_email: Name | None = Field(None, description="E-mail address.")
    agent_code: Code | None = Field(None, description=_CODE)
    is_active: bool | None = Field(None, description="Whether the agent still works here.")
    osms: list[Id] | None = Field(None, description=_OSMS)
    user_id: Text | None = Field(None, description=_CHANGED)
    manager_id: Text | None = Field(None, description=_CHANGED)
    start_date: Text | None = Field(None, description=_START)


class AgentAnswer(Wire):
    """An agent as it is answered."""

    id: UUID
    user_id: str | None
    first_name: str
    first_initial: str
    last_name: str
    agent_email: str
    agent_code: str | None
    created_on: datetime
    modified_on: datetime
    is_active: bool
    manager_id: str | None
    start_date: str | None

    @classmethod
    def of(cls, agent: Agent) -> Self:
        """The agent in the words of this API."""
        return cls(
            id=agent.id,
            user_id=agent.user_id,
            first_name=agent.first_name,
            first_initial=agent.first_name[:1],
            last_name=agent.last_name,
            agent_email=agent.email,
            agent_code=agent.code,
            created_on=agent.created_at,
            modified_on=agent.modified_at,
            is_active=agent.is_active,
            manager_id=agent.manager_id,
            start_date=_date_time(agent.start_date),
        )


def _date_time(sent: str | None) -> str | None:
    """As it was sent; a day alone gets its first instant, since the field is a date-time."""
    return f"{sent}T00:00:00" if sent and "T" not in sent else sent


_NAMES = {"email": "agentEmail", "code": "agentCode", "node_ids": "osms"}
_AGENT_ID = document_parameter(
    "AgentId", "path", {"type": "string", "format": "uuid"}, "Id of the agent."
)


def router(directory: Directory) -> APIRouter:
    """The routes of agents."""
    routes = APIRouter(tags=["Agent"])
    _add_reading(routes, directory)
    _add_changing(routes, directory)
    return routes


def _add_reading(routes: APIRouter, directory: Directory) -> None:
    @routes.get(
        "/Agent/All",
        operation_id="listAgents",
        summary="All agents",
        responses=document_errors(400, 404),
        openapi_extra={"parameters": [IS_ACTIVE]},
    )
    def every(principal: Reader, request: Request) -> list[AgentAnswer]:
        """Every agent of the organization; 404 if there is none."""
        agents = directory.for_(principal).agents(is_active=flag(request, "IsActive"))
        if not agents:
            raise NotFoundError("no agents")
        return [AgentAnswer.of(agent) for agent in agents]

    @routes.get(
        "/Agent/{AgentId:uuid}",  # noqa: FAST003 (documented below)
        operation_id="getAgent",
        summary="Get agent",
        responses=document_errors(404),
        openapi_extra={"parameters": [_AGENT_ID]},
    )
    def read(principal: Reader, request: Request) -> AgentAnswer:
        """One agent."""
        return AgentAnswer.of(directory.for_(principal).agent(_agent_id(request)))


def _add_changing(routes: APIRouter, directory: Directory) -> None:
    @routes.post(
        "/Agent",
        operation_id="createAgent",
        summary="Create agent",
        responses=document_errors(400, 413),
        openapi_extra=document_body(CreateAgent),
    )
    def create(principal: Manager, body: Body) -> AgentAnswer:
        """Adds an agent; interactions that were uploaded with its code are joined to it."""
        new = _new(parse(CreateAgent, body))
        with published_names(_NAMES):
            return AgentAnswer.of(directory.for_(principal).create_agent(new))

    @routes.put(
        "/Agent/{AgentId:uuid}",  # noqa: FAST003 (documented below)
        operation_id="updateAgent",
        summary="Update agent",
        responses=document_errors(400, 404, 413),
        openapi_extra={"parameters": [_AGENT_ID], **document_body(UpdateAgent)},
    )
    def update(principal: Manager, request: Request, body: Body) -> AgentAnswer:
        """Changes what is given of an agent."""
        change = _change(parse(UpdateAgent, body))
        with published_names(_NAMES):
            agent = directory.for_(principal).change_agent(_agent_id(request), change)
        return AgentAnswer.of(agent)


def _agent_id(request: Request) -> UUID:
    agent_id: UUID = request.path_params["AgentId"]
    return agent_id


def _new(sent: CreateAgent) -> NewAgent:
    return NewAgent(
        first_name=sent.first_name,
        last_name=sent.last_name,
        email=sent.agent_email,
        code=sent.agent_code,
        node_ids=tuple(sent.osms or ()),
        user_id=sent.user_id,
        manager_id=sent.manager_id,
        start_date=sent.start_date,
    )


def _change(sent: UpdateAgent) -> AgentChange:
    return AgentChange(
        first_name=sent.first_name,
        last_name=sent.last_name,
        email=sent.agent_email,
        code=sent.agent_code,
        is_active=sent.is_active,
        node_ids=None if sent.osms is None else tuple(sent.osms),
        user_id=_unless_remove(sent.user_id),
        manager_id=_unless_remove(sent.manager_id),
        start_date=sent.start_date,
    )


def _unless_remove(text: str | None) -> str | None:
    """An empty text, which removes, for the word that asks for it."""
    return "" if text is not None and text.lower() == REMOVE else text
