"""Who is calling, and may they: the dependency that every protected route has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import OAuth2
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import Request  # noqa: TC002 - FastAPI reads it from the annotation

from earmark.access import RateState
from earmark.errors import RateLimitedError, UnauthenticatedError
from earmark.model import Grant, Principal

if TYPE_CHECKING:
    from earmark.access import Access

# auto_error is off: a missing token is told by our own error, in the form of the API called.
_SCHEME = OAuth2(
    flows={
        "clientCredentials": {"tokenUrl": "/connect/token", "scopes": {"acxapi": "All of it."}}
    },
    auto_error=False,
)
_Documented = Annotated[str | None, Security(_SCHEME, scopes=["acxapi"])]


def requires(grant: Grant) -> Any:
    """A dependency that yields the Principal, having judged token, grant and rate, in order.

    Raises:
        UnauthenticatedError: no token, or a bad one.
        ForbiddenError: the client lacks the scope or the grant.
        RateLimitedError: the client sends too much.
    """

    async def principal(request: Request, _sent: _Documented) -> Principal:
        access: Access = request.app.state.access
        token = _token(request)
        found = access.recall(token)
        if found is None:
            found = await run_in_threadpool(access.authenticate, token)
        access.require(found, grant)
        await _charge(request, access, found.client_id)
        return found

    return Depends(principal)


Ingester = Annotated[Principal, requires(Grant.INGEST)]
Reader = Annotated[Principal, requires(Grant.READ)]
Manager = Annotated[Principal, requires(Grant.MANAGE)]
Deleter = Annotated[Principal, requires(Grant.DELETE)]
"""The parameter by which a route says which grant it needs, and learns who calls."""


def _token(request: Request) -> str:
    """The one Bearer token that was sent. Source: RFC 6750 section 2.1."""
    sent = request.headers.getlist("authorization")
    scheme, token = get_authorization_scheme_param(sent[0] if sent else None)
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError("Send an access token as a Bearer token.", presented=False)
    if len(sent) > 1:  # proxies and applications differ about which of two counts
        raise UnauthenticatedError("The Authorization header comes twice.", presented=True)
    return token


async def _charge(request: Request, access: Access, client_id: str) -> None:
    """Counts the request; the answer tells where the client stands, taken or not."""
    limit = access.rate_limit
    if limit is None:
        return
    try:
        state = access.recall_rate(client_id)
        state = state or await run_in_threadpool(access.charge, client_id)
    except RateLimitedError as error:
        refused = RateState(limit, 0, error.retry_after_seconds)
        request.state.headers = _rate_headers(refused)
        raise
    if state is not None:
        request.state.headers = _rate_headers(state)


def _rate_headers(state: RateState) -> dict[str, str]:
    """Source: draft-ietf-httpapi-ratelimit-headers-11 sections 4 and 5."""
    limit = state.limit
    return {
        "RateLimit-Policy": f'"client";q={limit.count};w={limit.seconds}',
        "RateLimit": f'"client";r={state.remaining};t={math.ceil(state.reset_seconds)}',
    }
