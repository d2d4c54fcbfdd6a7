"""The routes of `/v1`. Each is bound to the caller's organization and says which grant it needs.

Handlers block, so they are plain functions, which run in the thread pool. They make the bytes of
their answers there too, and leave the event loop nothing to do but to send them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from earmark.web import digests
from earmark.web.api import media
from earmark.web.api.ids import InteractionId, uuid_of
from earmark.web.api.problems import problems
from earmark.web.api.records import Filters, InteractionShape, PageShape
from earmark.web.security import Deleter, Manager, Reader  # noqa: TC001 - FastAPI reads them

if TYPE_CHECKING:
    from pydantic import BaseModel

    from earmark.interactions import Interactions


def router(interactions: Interactions) -> APIRouter:
    """The routes of this module."""
    made = APIRouter(prefix="/v1/interactions", tags=["Interactions"])

    _add_reading(made, interactions)
    _add_media(made, interactions)
    _add_changing(made, interactions)
    return made


def _add_reading(made: APIRouter, interactions: Interactions) -> None:
    @made.get(
        "",
        operation_id="list_interactions",
        summary="Find interactions, newest first",
        description="Those for which every filter holds that is sent, page by page.",
        response_model=PageShape,
        responses=problems(400),
    )
    def list_interactions(caller: Reader, filters: Annotated[Filters, Query()]) -> Response:
        page = interactions.for_(caller).find(
            filters.query(), limit=filters.limit, cursor=filters.cursor
        )
        return _json(PageShape.of(page))

    @made.get(
        "/{interaction_id}",
        operation_id="get_interaction",
        summary="Read an interaction",
        description="All that is known of it: what was sent, what it is, how each step of its "
        "processing went.",
        response_model=InteractionShape,
        responses={**_RECORD, **problems(404)},
    )
    def get_interaction(interaction_id: InteractionId, caller: Reader) -> Response:
        found = interactions.for_(caller).get(uuid_of(interaction_id))
        answer = _json(InteractionShape.of(found))
        answer.headers["Repr-Digest"] = digests.field(found.sha256)
        return answer

    @made.get(
        "/{interaction_id}/waveform",
        operation_id="get_interaction_waveform",
        summary="Read the peaks of a recording",
        description="JSON of BBC audiowaveform, version 2.",
        response_model=dict[str, Any],
        responses=problems(404, 409),
    )
    def get_interaction_waveform(interaction_id: InteractionId, caller: Reader) -> Response:
        return Response(
            interactions.for_(caller).waveform(uuid_of(interaction_id)),
            media_type="application/json",
        )


def _add_media(made: APIRouter, interactions: Interactions) -> None:
    @made.get(
        "/{interaction_id}/media",
        operation_id="get_interaction_media",
        summary="Download the original media, or a range of it",
        description="Byte for byte as it was uploaded; players seek by `Range`.",
        response_class=Response,
        responses={**_MEDIA, **problems(404, 416)},
        openapi_extra=_MEDIA_REQUEST,
    )
    def get_interaction_media(
        interaction_id: InteractionId, caller: Reader, request: Request
    ) -> Response:
        return media.get(interactions.for_(caller).media(uuid_of(interaction_id)), request.headers)

    @made.head(
        "/{interaction_id}/media",
        operation_id="head_interaction_media",
        summary="Learn size, type and digest of the original media",
        description="The headers of the download, without its bytes.",
        response_class=Response,
        responses={304: _MEDIA[304], **problems(404)},
    )
    def head_interaction_media(
        interaction_id: InteractionId, caller: Reader, request: Request
    ) -> Response:
        return media.head(
            interactions.for_(caller).media(uuid_of(interaction_id)), request.headers
        )


def _add_changing(made: APIRouter, interactions: Interactions) -> None:
    @made.delete(
        "/{interaction_id}",
        operation_id="delete_interaction",
        summary="Delete an interaction with its media",
        description="Its file name is free again. It needs the grant `delete`, which a client is "
        "given by name.",
        status_code=204,
        response_class=Response,
        responses=problems(404),
    )
    def delete_interaction(interaction_id: InteractionId, caller: Deleter) -> Response:
        interactions.for_(caller).delete(uuid_of(interaction_id))
        return Response(status_code=204)

    @made.post(
        "/{interaction_id}/retry",
        operation_id="retry_interaction",
        summary="Process a failed interaction, or its skipped steps, once more",
        description="Steps that are done are kept. Answered as soon as it is put back.",
        status_code=202,
        response_class=Response,
        responses=problems(404, 409),
    )
    def retry_interaction(interaction_id: InteractionId, caller: Manager) -> Response:
        interactions.for_(caller).retry(uuid_of(interaction_id))
        return Response(status_code=202)


def _json(record: BaseModel) -> Response:
    return Response(record.model_dump_json(), media_type="application/json")


_RECORD: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The record.",
        "headers": {
            "Repr-Digest": {
                "schema": {"type": "string"},
                "description": "The SHA-256 of the media, not of the record (RFC 9530).",
            }
        },
    }
}

_BINARY: dict[str, Any] = {
    content_type: {"schema": {"type": "string", "contentMediaType": content_type}}
    for content_type in sorted(set(media.CONTENT_TYPES.values()))
}

_MEDIA: dict[int | str, dict[str, Any]] = {
    200: {"description": "All of it. `Repr-Digest` has its SHA-256.", "content": _BINARY},
    206: {"description": "The range, named in `Content-Range`.", "content": _BINARY},
    304: {"description": "The caller has these bytes already, by `If-None-Match`."},
}

_MEDIA_REQUEST: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}} | about
        for name, about in {
            "Range": {"description": "One range of bytes, like `bytes=0-1023` or `bytes=-500`."},
            "If-Range": {"description": "The `ETag` for which the range holds."},
            "If-None-Match": {"description": "The `ETag` that the caller has."},
        }.items()
    ]
}
