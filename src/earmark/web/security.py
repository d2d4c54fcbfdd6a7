"""Who is calling, and may they: the dependency that every protected route has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import OAuth2
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import Request  # noqa: TC002 - FastAPI reads it from the annotation

from earmark.access import RateState
from earmark.errors import RateLimitedError, UnauthenticatedError, UploadRateError
from earmark.model import Grant, Principal

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.access import Access, Rate

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
        return await _authenticated(request, grant)

    return Depends(principal)


async def _authenticated(request: Request, grant: Grant) -> Principal:
    access: Access = request.app.state.access
    token = _token(request)
    found = access.recall(token)
    if found is None:
        found = await run_in_threadpool(access.authenticate, token)
    access.require(found, grant)
    if access.rate_limit is not None:
        rate = _Counted("client", access.rate_limit, access.recall_rate, access.charge)
        await _charge(request, rate, found.client_id)
    return found


Ingester = Annotated[Principal, requires(Grant.INGEST)]
"""The parameter by which a route says which grant it needs, and learns who calls."""


async def uploader(request: Request) -> Principal:
    """As an Ingester's, and lets pass whose organization may begin one more upload now.

    Raises:
        UploadRateError: it may not.
    """
    principal = await _authenticated(request, Grant.INGEST)
    access: Access = request.app.state.access
    key = principal.organization_id
    quota = access.quotas.recall(key)
    if quota is None:
        quota = await run_in_threadpool(access.quotas.of, key)
    limiter = access.quotas.limiter(quota)
    if limiter is not None:
        rate = _Counted("uploads", limiter.rate, limiter.recall, limiter.charge)
        try:
            await _charge(request, rate, str(key))
        except RateLimitedError as error:
            raise UploadRateError(error.retry_after_seconds) from error
    return principal


async def _uploader(request: Request, _sent: _Documented) -> Principal:
    return await uploader(request)


Uploader = Annotated[Principal, Depends(_uploader)]
"""An Ingester whose call counts as an upload of its organization."""

Reader = Annotated[Principal, requires(Grant.READ)]
Manager = Annotated[Principal, requires(Grant.MANAGE)]
Deleter = Annotated[Principal, requires(Grant.DELETE)]


def _token(request: Request) -> str:
    """The one Bearer token that was sent. Source: RFC 6750 section 2.1."""
    sent = request.headers.getlist("authorization")
    scheme, token = get_authorization_scheme_param(sent[0] if sent else None)
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError("Send an access token as a Bearer token.", presented=False)
    if len(sent) > 1:  # proxies and applications differ about which of two counts
        raise UnauthenticatedError("The Authorization header comes twice.", presented=True)
    return token


@dataclass(frozen=True, slots=True)
class _Counted:
    """A rate by its name in answers, and what counts it: from memory, or waiting."""

    name: str
    limit: Rate
    recall: Callable[[str], RateState | None]
    charge: Callable[[str], RateState | None]


async def _charge(request: Request, rate: _Counted, key: str) -> None:
    """Counts the request; the answer tells where the caller stands, taken or not."""
    try:
        state = rate.recall(key)
        state = state or await run_in_threadpool(rate.charge, key)
    except RateLimitedError as error:
        _tell(request, rate.name, RateState(rate.limit, 0, error.retry_after_seconds))
        raise
    if state is not None:
        _tell(request, rate.name, state)


def _tell(request: Request, name: str, state: RateState) -> None:
    """Adds a rate to the answer. Source: draft-ietf-httpapi-ratelimit-headers-11, 4 and 5."""
    limit = state.limit
    told = {
        "RateLimit-Policy": f'"{name}";q={limit.count};w={limit.seconds}',
        "RateLimit": f'"{name}";r={state.remaining};t={math.ceil(state.reset_seconds)}',
    }
    before = getattr(request.state, "headers", {})
    request.state.headers = {
        field: f"{before[field]}, {item}" if field in before else item
        for field, item in told.items()
    }
