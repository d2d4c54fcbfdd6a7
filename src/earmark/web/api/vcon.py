"""An interaction as a vCon: the whole conversation in one file, in a form that others read."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from earmark.model import stem
from earmark.render import vcon
from earmark.web.api.ids import InteractionId, uuid_of
from earmark.web.api.media import Download, disposition, is_known
from earmark.web.api.problems import problems
from earmark.web.security import Reader  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from earmark.interactions import Interactions, Media
    from earmark.render.vcon import Conversation

_DESCRIPTION = """\
The JSON of draft-ietf-vcon-vcon-core, syntax 0.4.0. The media is given by its address and
SHA-512, or with `inline=true` in the vCon itself, as its last value.

While the interaction is processed there is none: 409. If it has no transcript in the end, the
vCon is without one.
"""


def router(interactions: Interactions, base_url: str) -> APIRouter:
    """The route of this module; `base_url` is where clients reach this service."""
    made = APIRouter(prefix="/v1/interactions/{interaction_id}", tags=["Interactions"])

    @made.get(
        "/vcon",
        operation_id="get_interaction_vcon",
        summary="Take the whole conversation away as a vCon",
        description=_DESCRIPTION,
        response_class=Response,
        responses={**_RESPONSES, **problems(400, 404, 409)},
        openapi_extra=_REQUEST,
    )
    def get_interaction_vcon(
        interaction_id: InteractionId,
        caller: Reader,
        request: Request,
        inline: Annotated[bool, Query(description="Put the media into the vCon.")] = False,
    ) -> Response:
        bound, id_ = interactions.for_(caller), uuid_of(interaction_id)
        conversation, media = bound.conversation(id_), bound.media(id_)
        answer = _Answer(media, request)
        if inline:
            return answer.inline(conversation)
        url = f"{base_url}/v1/interactions/{id_}/media"
        return answer.whole(vcon.linked(conversation, url=url, sha512=media.sha512()))

    return made


class _Answer:
    """How a vCon is sent; or not, to a caller who has it already."""

    def __init__(self, media: Media, request: Request) -> None:
        self._media = media
        self._sent = request.headers

    def whole(self, body: bytes) -> Response:
        headers = self._headers(hashlib.sha256(body).hexdigest())
        return self._not_modified(headers) or Response(body, headers=headers)

    def inline(self, conversation: Conversation) -> Response:
        media = self._media
        before, after = vcon.inline(conversation)
        headers = self._headers(hashlib.sha256(before + media.sha256 + after).hexdigest())
        length = len(before) + vcon.base64url_bytes(media.size_bytes) + len(after)
        # Opened before the head of the answer is sent, so that a deleted file is still a 404.
        return self._not_modified(headers) or Download(
            chain([before], vcon.base64url(media.read()), [after]),
            200,
            headers | {"Content-Length": str(length)},
        )

    def _headers(self, tag: str) -> dict[str, str]:
        return {
            "ETag": f'"{tag}"',
            "Cache-Control": "private, no-cache",
            "Content-Type": vcon.CONTENT_TYPE,
            "Content-Disposition": disposition(f"{stem(self._media.file_name)}.vcon"),
            "X-Content-Type-Options": "nosniff",
        }

    def _not_modified(self, headers: dict[str, str]) -> Response | None:
        if not is_known(self._sent, headers["ETag"]):
            return None
        kept = {name: headers[name] for name in ("ETag", "Cache-Control")}
        return Response(status_code=304, headers=kept)


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The vCon.",
        "content": {vcon.CONTENT_TYPE: {"schema": {"type": "object"}}},
    },
    304: {"description": "The caller has this vCon already, by `If-None-Match`."},
}

_REQUEST: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "The `ETag` that the caller has.",
        }
    ]
}
