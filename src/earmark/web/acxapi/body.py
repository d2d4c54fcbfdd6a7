"""Small JSON bodies, query values and documented answers, as all routes of this API have them.

Keys and query names are matched without regard to case; unknown ones are no error.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from earmark.directory import MAX_NAME_CHARACTERS
from earmark.errors import Invalid, InvalidError
from earmark.model import MAX_INDEXED_CHARACTERS
from earmark.web.body import MAX_BODY_BYTES, Body

__all__ = ["MAX_BODY_BYTES", "Body"]

REMOVE = "remove"
"""The word that unlinks what an id would link, without regard to case."""

# Lengths are told here and judged by the directory.
Name = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_CHARACTERS})]
Text = Annotated[str, Field(json_schema_extra={"maxLength": MAX_NAME_CHARACTERS})]
Code = Annotated[str, Field(json_schema_extra={"maxLength": MAX_INDEXED_CHARACTERS})]


class Wire(BaseModel):
    """A JSON object in camelCase, each value of exactly its type."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, strict=True)


_W = TypeVar("_W", bound=Wire)


def parse(form: type[_W], body: bytes) -> _W:
    """Reads a JSON object.

    Raises:
        InvalidError: it is none, names a key twice (without case), or a value has a wrong type.
    """
    sent = _object(body)
    known = {str(field.alias).lower(): str(field.alias) for field in form.model_fields.values()}
    values = {known[key]: value for key, value in sent.items() if key in known}
    try:
        return form.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
    raise InvalidError(
        *(Invalid(".".join(map(str, fault["loc"])), f"{fault['msg']}.") for fault in faults)
    )


def _object(body: bytes) -> dict[str, Any]:
    """The object with its keys in lower case."""
    try:
        sent = json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        message = "Send one JSON object that names no key twice, without regard to case."
        raise InvalidError(Invalid("body", message))
    return sent


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {key.lower(): value for key, value in pairs}
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def flag(request: Request, name: str) -> bool | None:
    """A boolean of the query; None if it is not given or empty.

    Raises:
        InvalidError: neither true nor false.
    """
    for key, value in request.query_params.multi_items():
        if key.lower() == name.lower() and value:
            if value.lower() in {"true", "false"}:
                return value.lower() == "true"
            raise InvalidError(Invalid(name, "Send true or false."))
    return None


@contextmanager
def published_names(names: Mapping[str, str]) -> Iterator[None]:
    """Renames the fields of the directory's InvalidError: by `names`, or in camelCase."""
    try:
        yield
    except InvalidError as error:
        raise InvalidError(
            *(
                Invalid(names.get(fault.field) or to_camel(fault.field), fault.message)
                for fault in error.faults
            )
        ) from error


def document_body(form: type[Wire]) -> dict[str, Any]:
    """What OpenAPI says of a request with this body."""
    schema = form.model_json_schema(by_alias=True)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document_parameter(
    name: str, place: str, schema: Mapping[str, Any], about: str
) -> dict[str, Any]:
    """What OpenAPI says of a parameter in "path" or "query"."""
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": dict(schema),
        "description": about,
    }


IS_ACTIVE = {
    **document_parameter(
        "IsActive", "query", {"type": "boolean"}, "Only active ones, or only inactive ones."
    ),
    "allowEmptyValue": True,  # and means that nothing was asked
}

_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_ERROR_BODY = {
    "text/plain": _TEXT,
    "application/json": _TEXT,
    "application/problem+json": {"schema": {"type": "object"}},
}
_MEANINGS = {
    400: "A value is missing or wrong; the sentence says which.",
    401: "No valid access token.",
    403: "The token lacks the scope or the client the grant.",
    404: "Nothing of this organization is here.",
    408: "Nothing came for too long.",
    409: "The first upload with this Idempotency-Key is still on its way; see Retry-After.",
    410: "What was uploaded with this Idempotency-Key has been deleted since.",
    413: "The body is too large.",
    415: "The body is no multipart/form-data with a boundary.",
    422: "This Idempotency-Key was used for another upload.",
    429: "Too many requests.",
    503: "The service cannot serve now.",
    507: "The organization has no room left.",
}


def document_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of errors: of these statuses, and of those that every route has."""
    return {
        status: {"description": _MEANINGS[status], "content": _ERROR_BODY}
        for status in sorted({*statuses, 401, 403, 429, 503})
    }
