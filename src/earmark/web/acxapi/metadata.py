"""What is known of interactions, as published: `/Metadata`."""

import itertools
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID, uuid5

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from earmark.interactions import MAX_LIMIT, Interactions
from earmark.model import Interaction, Principal, Step, StepStatus
from earmark.web.acxapi import wire
from earmark.web.acxapi.body import (
    Body,
    Wire,
    document_body,
    document_errors,
    document_parameter,
    published_names,
)
from earmark.web.security import Manager, Reader

CHUNK_CHARACTERS = 64 * 1024
"""Sent at once: most pages are a few of them."""

_START = "ISO 8601: what arrived at this instant or after it."
_END = "ISO 8601: what arrived at this instant or before it."
_MEDIA_TYPE = "`Audio` or `Chat`; of other kinds there is nothing here."
_LAST = "The id of the last one that you have; what arrived after it follows."
_NODES = "Ids of hierarchy nodes: interactions of any of them or below it."
_PAGE_SIZE = f"The most that is answered, 1 to {MAX_LIMIT}."
_META = "Any value; kept as text and answered."

Int32 = Annotated[int, Field(json_schema_extra={"format": "int32"})]
Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]


class ProcessFailure(Wire):
    """Why processing failed."""

    id: str
    message: str
    created_on: datetime


class Metadata(Wire):
    """What is known of an interaction as it is answered."""

    id: str
    acx_identifier: str | None
    organization_id: str
    organization_structure_member_id: str | None
    file_name: str
    orig_file_name: str
    uploaded_file_name: str | None
    file_size_kilo_bytes: Int64
    media_type: str
    status: str
    timestamp: datetime | None
    arrived_on: datetime
    agent_id: str | None
    agent_name: str | None
    phone: str | None
    client_call_id: str | None
    call_direction: str | None
    call_duration_millis: Int64
    chat_message_count: Int32
    locale_id: Int32
    extended_metadata_values: dict[str, str]
    extended_metadata: list[dict[str, str]]
    meta1: str | None
    meta2: str | None
    meta3: str | None
    meta4: str | None
    meta5: str | None
    process_failures: list[ProcessFailure]

    @classmethod
    def of(cls, interaction: Interaction, organization_id: UUID) -> Self:
        """The interaction in the words of this API."""
        date, chat, audio = interaction.interaction_date, interaction.chat, interaction.audio
        node, agent_id, direction = (
            interaction.hierarchy,
            interaction.agent_id,
            interaction.direction,
        )
        names = (interaction.agent.first_name, interaction.agent.last_name)
        values = wire.texts(interaction.extended)
        return cls(
            id=str(interaction.id),
            acx_identifier=None,
            organization_id=str(organization_id),
            organization_structure_member_id=str(node.id) if node else None,
            file_name=interaction.file_name,
            orig_file_name=interaction.file_name,
            uploaded_file_name=None,
            file_size_kilo_bytes=math.ceil(interaction.size_bytes / 1024),
            media_type=wire.MEDIA_TYPES[interaction.media_type],
            status=wire.STATUS[interaction.status],
            timestamp=date.instant if date else None,
            arrived_on=interaction.received_at,
            agent_id=str(agent_id) if agent_id else None,
            agent_name=" ".join(filter(None, names)) or None,
            phone=interaction.customer.phone,
            client_call_id=interaction.client_call_id,
            call_direction=wire.DIRECTIONS[direction] if direction else None,
            call_duration_millis=round(audio.duration_seconds * 1000) if audio else 0,
            chat_message_count=chat.message_count if chat else 0,
            locale_id=wire.LOCALE_IDS[interaction.locale],
            extended_metadata_values=values,
            extended_metadata=[values] if values else [],
            **{f"meta{number}": interaction.meta.get(f"meta{number}") for number in range(1, 6)},
            process_failures=[_failure(interaction, step) for step in _failed(interaction)],
        )


class PostMetadata(Wire):
    """The body that asks for a list of metadata."""

    start_date: Annotated[
        str, Field(json_schema_extra={"format": "date-time"}, description=_START)
    ]
    end_date: Annotated[str, Field(json_schema_extra={"format": "date-time"}, description=_END)]
    page_size: Annotated[Int32, Field(ge=1, le=MAX_LIMIT, description=_PAGE_SIZE)]
    media_type: str | None = Field(None, description=_MEDIA_TYPE)
    client_call_ids: list[str] | None = Field(
        None, description="The `ClientCallId` of uploads: any of these."
    )
    last_id: UUID | None = Field(None, description=_LAST)
    hierarchy_ids: list[UUID] | None = Field(None, description=_NODES)


class PatchMetadata(Wire):
    """The body that changes metadata: what is absent or null stays as it is."""

    timestamp: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = Field(
        None, description="When it took place, as `InteractionDate` of an upload."
    )
    phone: str | None = Field(None, description="Phone number of the customer.")
    call_direction: str | None = Field(None, description="`Inbound` or `Outbound`.")
    client_call_id: str | None = Field(
        None, description="Your own reference of the call's telephony."
    )
    locale_id: Int32 | None = Field(
        None, description="1033 (English) or 2058 (Spanish); another one is read again."
    )
    meta1: Any = Field(None, description=_META)
    meta2: Any = Field(None, description=_META)
    meta3: Any = Field(None, description=_META)
    meta4: Any = Field(None, description=_META)
    meta5: Any = Field(None, description=_META)
    extended_metadata: dict[str, Any] | None = Field(
        None, description="Key/values that are merged into those that are there."
    )


_TEXTS = (
    ("StartDate", _START),
    ("EndDate", _END),
    ("MediaType", _MEDIA_TYPE),
    ("ClientCallId", "The `ClientCallId` of an upload."),
    ("LastId", _LAST),
    ("HierarchyIds", f"{_NODES} With commas between them."),
)
_SIZE = {"type": "integer", "format": "int32", "minimum": 1, "maximum": MAX_LIMIT}
_QUERY = [
    *(document_parameter(name, "query", {"type": "string"}, about) for name, about in _TEXTS),
    document_parameter(
        "PageSize", "query", _SIZE, f"{_PAGE_SIZE} {wire.DEFAULT_PAGE_SIZE} without it."
    ),
]
_ID = document_parameter(
    "id", "path", {"type": "string", "format": "uuid"}, "Id of the interaction."
)
_LISTED = {"after": "lastId", "limit": "pageSize", "until": "endDate"}
_CORRECTED = {"locale": "localeId", "extended": "extendedMetadata"}


def router(interactions: Interactions) -> APIRouter:
    """The routes of metadata."""
    routes = APIRouter(tags=["Metadata"])
    _add_reading(routes, interactions)
    _add_changing(routes, interactions)
    return routes


def _add_reading(routes: APIRouter, interactions: Interactions) -> None:
    @routes.get(
        "/Metadata",
        operation_id="listMetadata",
        summary="List metadata in the order of arrival",
        response_model=list[Metadata],
        responses=document_errors(400),
        openapi_extra={"parameters": _QUERY},
    )
    def get(principal: Reader, request: Request) -> Response:
        """Interactions, oldest arrival first; goes on after LastId."""
        return _listed(interactions, principal, wire.read_listing(_query(request)))

    @routes.post(
        "/Metadata",
        operation_id="postMetadata",
        summary="List metadata of a period in the order of arrival",
        response_model=list[Metadata],
        responses=document_errors(400, 413),
        openapi_extra=document_body(PostMetadata),
    )
    def post(principal: Reader, body: Body) -> Response:
        """As by GET, asked for in a body."""
        required = ("startDate", "endDate", "pageSize")
        sent = wire.read_listing(wire.read_object(body), required=required)
        return _listed(interactions, principal, sent)


def _add_changing(routes: APIRouter, interactions: Interactions) -> None:
    @routes.patch(
        "/Metadata/{id:uuid}",  # noqa: FAST003 (documented below)
        operation_id="patchMetadata",
        summary="Correct metadata",
        responses=document_errors(400, 404, 413),
        openapi_extra={"parameters": [_ID], **document_body(PatchMetadata)},
    )
    def patch(principal: Manager, request: Request, body: Body) -> Metadata:
        """Changes what is given; another locale has the interaction recognized once more."""
        correction = wire.read_correction(body)
        with published_names(_CORRECTED):
            corrected = interactions.for_(principal).correct(request.path_params["id"], correction)
        return Metadata.of(corrected, principal.organization_id)


def _query(request: Request) -> Mapping[str, str]:
    """The values by their names in lower case; of a name that comes again, all by commas."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        key = name.lower()
        found[key] = f"{found[key]},{value}" if found.get(key) else value
    return found


def _listed(interactions: Interactions, principal: Principal, listing: wire.Listing) -> Response:
    if listing.query is None:
        return Response("[]", media_type="application/json")
    with published_names(_LISTED):
        found = interactions.for_(principal).list_arrivals(
            listing.query, after=listing.after, limit=listing.limit
        )
    told = (Metadata.of(one, principal.organization_id) for one in found)
    chunks = _array(told)
    first = next(chunks)  # if the database is away, it is told while there is no answer yet
    return StreamingResponse(itertools.chain([first], chunks), media_type="application/json")


def _array(items: Iterator[Metadata]) -> Iterator[str]:
    """The JSON array, piece by piece: a thousand of the largest would fill memory."""
    chunk, before = "", "["
    for item in items:
        chunk += before + item.model_dump_json(by_alias=True)
        before = ","
        if len(chunk) >= CHUNK_CHARACTERS:
            yield chunk
            chunk = ""
    yield chunk + ("[]" if before == "[" else "]")


def _failed(interaction: Interaction) -> list[Step]:
    return [step for step in interaction.steps if step.status is StepStatus.FAILED]


def _failure(interaction: Interaction, step: Step) -> ProcessFailure:
    at = step.finished_at or interaction.received_at
    message = step.error.message if step.error else ""
    return ProcessFailure(
        id=str(uuid5(interaction.id, f"{step.name} {at.isoformat()}")),
        message=message,
        created_on=at,
    )
