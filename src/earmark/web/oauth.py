"""The token endpoint, and the documents by which clients and verifiers find it and its keys.

Source: RFC 6749 (section 4.4, client credentials), RFC 8414, OpenID Connect Discovery, RFC 7517.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response  # noqa: TC002 - FastAPI reads it from the annotation

from earmark.access import SCOPE
from earmark.errors import InvalidError, RateLimitedError, UnauthenticatedError
from earmark.web.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from earmark.access import Access, TokenGrant

TOKEN_PATH = "/connect/token"  # noqa: S105
OPENID_PATH = "/.well-known/openid-configuration"
METADATA_PATH = "/.well-known/oauth-authorization-server"
KEYS_PATH = "/.well-known/openid-configuration/jwks"

GRANT_TYPE = "client_credentials"

MAX_FORM_BYTES = 8 * 1024
"""A token request has about 300; more is not read, and the connection closes."""

_FORM = "application/x-www-form-urlencoded"

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""Source: RFC 6749 section 5.1."""

_DISCOVERY_CACHED = {"Cache-Control": "public, max-age=3600"}
_KEYS_CACHED = {"Cache-Control": "public, max-age=300"}
"""A verifier may learn of a new key this much later: a rotation must publish it before."""


class TokenAnswer(BaseModel):
    """An access token. Source: RFC 6749 section 5.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in: int
    scope: str


class OAuthError(BaseModel):
    """Why there is no token. Source: RFC 6749 section 5.2."""

    error: Literal[
        "invalid_request",
        "invalid_client",
        "unsupported_grant_type",
        "invalid_scope",
        "too_many_requests",
    ]
    error_description: str


class ServerMetadata(BaseModel):
    """What a client must know of this authorization server. Source: RFC 8414 section 2."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    scopes_supported: list[str]
    response_types_supported: list[str]
    grant_types_supported: list[str]
    token_endpoint_auth_methods_supported: list[str]


class OpenIdMetadata(ServerMetadata):
    """The same with the fields that readers of OpenID Connect Discovery demand."""

    subject_types_supported: list[str]
    id_token_signing_alg_values_supported: list[str]


class KeySet(BaseModel):
    """The public keys of every token that may be valid. Source: RFC 7517 section 5."""

    keys: list[dict[str, Any]]


class TokenRefusedError(Exception):
    """No token, and why. Source: RFC 6749 section 5.2."""

    def __init__(
        self,
        error: str,
        description: str,
        *,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.headers = headers or {}

    def answer(self) -> Refusal:
        """As RFC 6749 words it; no cache keeps it."""
        content = {"error": self.error, "error_description": self.description}
        headers = {**_NO_STORE, **self.headers}
        return Refusal(self.error, json.dumps(content), self.status, headers, "application/json")


@dataclass(frozen=True, slots=True)
class _Credentials:
    client_id: str
    secret: str
    by_header: bool


def router(access: Access) -> APIRouter:
    """The routes of this module; none of them needs a token."""
    made = APIRouter(tags=["OAuth"])
    _add_token(made, access)
    _add_discovery(made, access)
    return made


def _add_token(made: APIRouter, access: Access) -> None:
    @made.post(
        TOKEN_PATH,
        operation_id="create_token",
        summary="Get an access token for a client's id and secret",
        response_model=TokenAnswer,
        responses=_TOKEN_RESPONSES,
        openapi_extra=_TOKEN_REQUEST,
    )
    async def create_token(request: Request) -> Response:
        """The client authenticates by `client_id` and `client_secret` in the form, or by Basic."""
        try:
            form = _fields(await _body(request))
            credentials = _credentials(request.headers.getlist("authorization"), form)
            address = request.client.host if request.client else ""
            grant = await run_in_threadpool(_grant, access, credentials, form, address)
        except TokenRefusedError as refused:
            return refused.answer()
        answer = TokenAnswer(
            access_token=grant.access_token, expires_in=grant.expires_in, scope=grant.scope
        )
        return JSONResponse(answer.model_dump(), headers=_NO_STORE)


def _add_discovery(made: APIRouter, access: Access) -> None:
    metadata = _metadata(access.issuer)
    openid = OpenIdMetadata(
        **metadata.model_dump(),
        # No ID token is ever issued, yet several readers refuse a document without these.
        subject_types_supported=["public"],
        id_token_signing_alg_values_supported=["ES256"],
    )

    # KEYS_PATH begins with OPENID_PATH; both are whole-path matches, so their order is free.
    @made.get(
        OPENID_PATH,
        operation_id="get_openid_configuration",
        summary="Find the token endpoint by OpenID Connect Discovery",
        response_model=OpenIdMetadata,
    )
    async def get_openid_configuration() -> JSONResponse:
        """Where tokens and keys are, as OpenID Connect Discovery has it."""
        return JSONResponse(openid.model_dump(), headers=_DISCOVERY_CACHED)

    @made.get(
        METADATA_PATH,
        operation_id="get_authorization_server_metadata",
        summary="Find the token endpoint by RFC 8414",
        response_model=ServerMetadata,
    )
    async def get_authorization_server_metadata() -> JSONResponse:
        """Where tokens and keys are, as RFC 8414 has it."""
        return JSONResponse(metadata.model_dump(), headers=_DISCOVERY_CACHED)

    @made.get(
        KEYS_PATH,
        operation_id="get_keys",
        summary="Read the keys that verify access tokens",
        response_model=KeySet,
        responses=_UNAVAILABLE,
    )
    def get_keys() -> JSONResponse:
        """The public keys that verify access tokens, as a JWK set."""
        keys = [dict(key) for key in access.published_keys()]
        return JSONResponse({"keys": keys}, headers=_KEYS_CACHED)


def _metadata(issuer: str) -> ServerMetadata:
    return ServerMetadata(
        issuer=issuer,
        token_endpoint=issuer + TOKEN_PATH,
        jwks_uri=issuer + KEYS_PATH,
        scopes_supported=[SCOPE],
        # The field is required and must not be empty; there is no authorization endpoint.
        response_types_supported=["none"],
        grant_types_supported=[GRANT_TYPE],
        token_endpoint_auth_methods_supported=["client_secret_basic", "client_secret_post"],
    )


def _grant(
    access: Access, credentials: _Credentials, form: Mapping[str, str], address: str
) -> TokenGrant:
    """The token, or the first refusal: the client is judged before the grant and its scope."""
    client_id, secret = credentials.client_id, credentials.secret
    try:
        if form.get("grant_type") == GRANT_TYPE:
            return access.grant_token(client_id, secret, form.get("scope", ""), address=address)
        access.identify(client_id, secret, address=address)
    except RateLimitedError as error:
        raise _too_many(error) from None
    except UnauthenticatedError as error:
        raise _invalid_client(str(error), by_header=credentials.by_header) from None
    except InvalidError:
        raise TokenRefusedError("invalid_scope", f"The only scope is {SCOPE}.") from None
    if "grant_type" not in form:
        raise TokenRefusedError("invalid_request", f"Send grant_type={GRANT_TYPE}.")
    raise TokenRefusedError("unsupported_grant_type", f"The only grant type is {GRANT_TYPE}.")


async def _body(request: Request) -> bytes:
    """The whole form; of another type or a longer one, no more than that shows."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _FORM:
        raise TokenRefusedError("invalid_request", f"Send the request as {_FORM}.")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                too_long = f"The form is longer than {MAX_FORM_BYTES} bytes."
                raise TokenRefusedError("invalid_request", too_long)
    except ClientDisconnect:
        raise TokenRefusedError("invalid_request", "The form ended early.") from None
    return bytes(body)


def _fields(body: bytes) -> dict[str, str]:
    """The form's fields; one without a value counts as absent. Source: RFC 6749 section 3.2."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise TokenRefusedError("invalid_request", f"The body is no {_FORM} in UTF-8.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise TokenRefusedError("invalid_request", "A parameter comes twice.")
    return {name: value for name, value in fields.items() if value}


def _credentials(headers: list[str], form: Mapping[str, str]) -> _Credentials:
    """Who the client says it is, by one way and not two. Source: RFC 6749 section 2.3."""
    if len(headers) > 1:
        raise TokenRefusedError("invalid_request", "The Authorization header comes twice.")
    scheme, _, encoded = headers[0].partition(" ") if headers else ("", "", "")
    if scheme.lower() != "basic":
        return _from_form(form, by_header=bool(headers))
    client_id, secret = _basic(encoded)
    if "client_secret" in form or form.get("client_id", client_id) != client_id:
        raise TokenRefusedError(
            "invalid_request", "Authenticate by Basic or by the form, not both."
        )
    return _Credentials(client_id, secret, by_header=True)


def _from_form(form: Mapping[str, str], *, by_header: bool) -> _Credentials:
    if "client_id" in form and "client_secret" in form:
        return _Credentials(form["client_id"], form["client_secret"], by_header=False)
    raise _invalid_client(
        "Send client_id and client_secret, in the form or by Basic.", by_header=by_header
    )


def _basic(encoded: str) -> tuple[str, str]:
    """The two halves of Basic, each form-encoded. Source: RFC 6749 section 2.3.1."""
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        pair = ""
    user, colon, password = pair.partition(":")
    if not colon:
        raise _invalid_client("The Basic credentials are malformed.", by_header=True)
    return unquote_plus(user), unquote_plus(password)


def _too_many(error: RateLimitedError) -> TokenRefusedError:
    """Source: RFC 6585 section 4; RFC 6749 has no word for it."""
    seconds = max(1, math.ceil(error.retry_after_seconds))
    return TokenRefusedError(
        "too_many_requests",
        f"Too many requests or wrong secrets. Retry in {seconds} s.",
        status=429,
        headers={"Retry-After": str(seconds)},
    )


def _invalid_client(description: str, *, by_header: bool) -> TokenRefusedError:
    headers = {"WWW-Authenticate": 'Basic realm="earmark", charset="UTF-8"'} if by_header else {}
    return TokenRefusedError("invalid_client", description, status=401, headers=headers)


_UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {"description": "The database cannot serve now; see Retry-After."}
}

_TOKEN_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": OAuthError, "description": "The request, its grant type or scope is wrong."},
    401: {"model": OAuthError, "description": "Unknown client or wrong secret."},
    429: {"model": OAuthError, "description": "Too many; `Retry-After` says when to come back."},
    **_UNAVAILABLE,
}

_TOKEN_REQUEST: dict[str, Any] = {
    "security": [],
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
                "schema": {
                    "type": "object",
                    "required": ["grant_type"],
                    "additionalProperties": {"type": "string"},
                    "properties": {
                        "grant_type": {
                            "type": "string",
                            "enum": [GRANT_TYPE],
                            "description": "The only one.",
                        },
                        "scope": {
                            "type": "string",
                            "enum": [SCOPE],
                            "default": SCOPE,
                            "description": "The only one; it is meant where none is sent.",
                        },
                        "client_id": {
                            "type": "string",
                            "description": "With client_secret, unless Basic is used.",
                        },
                        "client_secret": {
                            "type": "string",
                            "format": "password",
                            "description": "As `earmark client create` told it.",
                        },
                    },
                }
            }
        },
    },
}
