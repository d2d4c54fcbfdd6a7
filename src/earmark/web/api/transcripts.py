"""Transcripts in the forms in which people take them away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from earmark.render import FORMATS, format_named
from earmark.web.api.ids import InteractionId, uuid_of
from earmark.web.api.problems import problems
from earmark.web.errors import Answer, Problem
from earmark.web.negotiation import preferred
from earmark.web.security import Reader  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from collections.abc import Mapping

    from earmark.interactions import Interactions
    from earmark.render import Format

_DESCRIPTION = "While the interaction is processed it has none: 409. Without one in the end: 404."


def router(interactions: Interactions) -> APIRouter:
    """The routes of this module."""
    made = APIRouter(prefix="/v1/interactions/{interaction_id}", tags=["Interactions"])
    forms = {extension: format_named(extension) for extension in FORMATS}
    extensions = {_media_type(form): extension for extension, form in forms.items()}
    content = _content(forms)

    @made.get(
        "/transcript",
        operation_id="get_interaction_transcript",
        summary="Read the transcript in the form that Accept prefers",
        description=_DESCRIPTION,
        response_class=Response,
        responses={200: content, **problems(404, 406, 409)},
    )
    def get_interaction_transcript(
        interaction_id: InteractionId, caller: Reader, request: Request
    ) -> Response:
        accept = ",".join(request.headers.getlist("accept"))
        wanted = preferred(accept, list(extensions))
        if wanted is None:
            offers = ", ".join(extensions)
            mend = f"Send an Accept header with one of: {offers}."
            return Problem(Answer(406, "not_acceptable", mend, {"Vary": "Accept"}))
        transcript = interactions.for_(caller).transcript(uuid_of(interaction_id))
        form = forms[extensions[wanted]]
        return _said(form, form.render(transcript), {"Vary": "Accept"})

    @made.get(
        "/transcript.{extension}",
        operation_id="get_interaction_transcript_as",
        summary="Read the transcript in one form",
        description=_DESCRIPTION,
        response_class=Response,
        responses={200: content, **problems(404, 409)},
    )
    def get_interaction_transcript_as(
        interaction_id: InteractionId,
        extension: Annotated[
            str, Path(description="The form.", json_schema_extra={"enum": [*FORMATS]})
        ],
        caller: Reader,
    ) -> Response:
        found = interactions.for_(caller)
        if extension not in forms:
            mend = f"A transcript has these forms: {', '.join(FORMATS)}."
            return Problem(Answer(404, "not_found", mend))
        form = forms[extension]
        return _said(form, form.render(found.transcript(uuid_of(interaction_id))))

    return made


def _said(form: Format, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        body,
        headers={
            "Content-Type": form.content_type,
            "Cache-Control": "private, no-cache",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        },
    )


def _media_type(form: Format) -> str:
    return form.content_type.partition(";")[0]


def _content(forms: Mapping[str, Format]) -> dict[str, Any]:
    schemas = {
        extension: {"type": "object"} if extension == "json" else {"type": "string"}
        for extension in forms
    }
    return {
        "description": "The transcript.",
        "content": {
            _media_type(form): {"schema": schemas[extension]} for extension, form in forms.items()
        },
    }
