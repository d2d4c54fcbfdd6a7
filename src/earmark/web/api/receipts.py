"""The receipt of an interaction: a signed statement that its upload was kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response

from earmark.access.receipts import HEADER, MEDIA_TYPE
from earmark.web import digests
from earmark.web.api.ids import InteractionId, uuid_of
from earmark.web.api.problems import problems
from earmark.web.security import Reader  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from earmark.access import Access
    from earmark.interactions import Interactions

_DESCRIPTION = """\
A compact JWS, the same as in the `Earmark-Receipt` of the upload's answer: `sub` is the id, `org`
the organization, `iat` the time; `file_name`, `sha256` and `size_bytes` are as in the record. It
is signed by a key of the key set (`/.well-known/openid-configuration/jwks`) that stays there, so
it can be verified offline for as long as you have either: `earmark receipt verify`.

Once the interaction is deleted there is none: 404.
"""


def router(interactions: Interactions, access: Access) -> APIRouter:
    """The route of this module."""
    made = APIRouter(prefix="/v1/interactions/{interaction_id}", tags=["Interactions"])

    @made.get(
        "/receipt",
        operation_id="get_interaction_receipt",
        summary="Take away a signed statement that it was kept",
        description=_DESCRIPTION,
        response_class=Response,
        responses={**_RESPONSES, **problems(404)},
    )
    def get_interaction_receipt(interaction_id: InteractionId, caller: Reader) -> Response:
        receipts = access.receipts
        receipts.open()
        accepted = interactions.for_(caller).receipt(uuid_of(interaction_id))
        signed = receipts.sign(accepted, caller.organization_id)
        headers = {"Repr-Digest": digests.field(accepted.sha256), HEADER: signed}
        return Response(signed, headers=headers, media_type=MEDIA_TYPE)

    return made


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The receipt. `Repr-Digest` has the SHA-256 of the file.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    },
}
