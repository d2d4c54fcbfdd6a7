"""What was said or written in interactions, as published: `/Conversations/Transcriptions`."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field, Strict
from starlette.requests import Request
from starlette.responses import Response

from earmark.errors import ConflictError, Invalid, InvalidError, NotFoundError
from earmark.interactions import Interactions, OrganizationInteractions
from earmark.model import Interaction, Status, StepStatus
from earmark.render.text import told_lines
from earmark.web.acxapi.body import (
    Body,
    Wire,
    document_body,
    document_errors,
    document_parameter,
    parse,
)
from earmark.web.errors import Answer, respond
from earmark.web.security import Reader

MAX_CONVERSATIONS = 100

NOT_FOUND = "Conversation not found"
PROCESSING = "The conversation has not finished processing. Ask again later."
WITHOUT = "The conversation was processed without a transcription."
FAILED = "The conversation failed to process."


class BatchRequest(Wire):
    """The body that asks for several conversations."""

    conversation_ids: list[Annotated[UUID, Strict(False)]] = Field(
        description=f"Ids of interactions, at most {MAX_CONVERSATIONS}."
    )


class Transcriptions(Wire):
    """A conversation in one language, line by line: `HH:MM:SS Speaker: text`."""

    language_code: str
    transcription: list[str]


class Conversation(Wire):
    """What is there of a conversation; while that is nothing, `message` says why."""

    conversation_id: UUID
    transcriptions: list[Transcriptions]
    message: Annotated[str | None, Field(exclude_if=lambda message: message is None)] = None


class BatchError(Wire):
    """Why there is nothing of a conversation."""

    conversation_id: UUID
    status_code: Annotated[int, Field(json_schema_extra={"format": "int32"})]
    error: str


class BatchAnswer(Wire):
    """What is there of several conversations; `errors` is null if that is all of them."""

    transcriptions: list[Conversation]
    errors: list[BatchError] | None


@dataclass(frozen=True, slots=True)
class _Found:
    """A conversation, or with which status and words it is none."""

    conversation: Conversation
    status: int = 200
    message: str = ""


_ID = document_parameter(
    "conversationId", "path", {"type": "string", "format": "uuid"}, "Id of the interaction."
)


def router(interactions: Interactions) -> APIRouter:
    """The routes of transcriptions."""
    routes = APIRouter(prefix="/Conversations", tags=["Conversations"])

    @routes.get(
        "/Transcriptions/{conversationId:uuid}",  # noqa: FAST003 (documented below)
        operation_id="getTranscriptions",
        summary="Read what was said or written in a conversation",
        response_model=Conversation,
        responses=document_errors(400, 404),
        openapi_extra={"parameters": [_ID]},
    )
    def one(principal: Reader, request: Request) -> Response:
        """The conversation; 200 with a message until it is processed, 400 if that failed."""
        found = _find(interactions.for_(principal), request.path_params["conversationId"])
        if found.status == 404:  # noqa: PLR2004 - the status itself
            raise NotFoundError("no such conversation")
        if found.status != 200:  # noqa: PLR2004
            return respond(request, Answer(found.status, "processing_failed", found.message))
        return _json(found.conversation)

    @routes.post(
        "/Transcriptions",
        operation_id="postTranscriptions",
        summary="Read what was said or written in several conversations",
        response_model=BatchAnswer,
        responses=document_errors(400, 413),
        openapi_extra=document_body(BatchRequest),
    )
    def several(principal: Reader, body: Body) -> Response:
        """Each conversation, or why there is nothing of it."""
        ids = list(dict.fromkeys(parse(BatchRequest, body).conversation_ids))
        if len(ids) > MAX_CONVERSATIONS:
            mend = f"Send at most {MAX_CONVERSATIONS} conversation ids."
            raise InvalidError(Invalid("conversationIds", mend))
        bound = interactions.for_(principal)
        found = [_find(bound, id_) for id_ in ids]
        return _json(_batch(found))

    return routes


def _batch(found: list[_Found]) -> BatchAnswer:
    errors = [
        BatchError(
            conversation_id=one.conversation.conversation_id,
            status_code=one.status,
            error=one.message,
        )
        for one in found
        if one.message
    ]
    there = [one.conversation for one in found if not one.message]
    return BatchAnswer(transcriptions=there, errors=errors or None)


def _find(bound: OrganizationInteractions, id_: UUID) -> _Found:
    try:
        interaction = bound.get(id_)
    except NotFoundError:
        return _nothing(id_, 404, NOT_FOUND)
    if interaction.status is Status.FAILED:
        return _nothing(id_, 400, _reason(interaction))
    if interaction.status is not Status.READY:
        return _nothing(id_, 200, PROCESSING)
    try:
        transcript = bound.transcript(id_)
    except ConflictError:  # it is processed once more since a moment ago
        return _nothing(id_, 200, PROCESSING)
    except NotFoundError:
        return _nothing(id_, 200, WITHOUT)
    told = Transcriptions(language_code=transcript.language, transcription=told_lines(transcript))
    return _Found(Conversation(conversation_id=id_, transcriptions=[told]))


def _nothing(id_: UUID, status: int, message: str) -> _Found:
    empty = Conversation(conversation_id=id_, transcriptions=[], message=message)
    return _Found(empty, status, message)


def _reason(interaction: Interaction) -> str:
    told = (step.error for step in interaction.steps if step.status is StepStatus.FAILED)
    return " ".join([FAILED, *(error.message for error in told if error)])


def _json(answer: Wire) -> Response:
    return Response(answer.model_dump_json(by_alias=True), media_type="application/json")
