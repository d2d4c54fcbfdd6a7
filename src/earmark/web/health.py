"""Whether the process lives, and whether it can serve: for supervisors and load balancers."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NEEDED = ("database", "storage", "migrations")
"""Without these nothing can be taken. Without a worker everything is, and waits for one."""


def router(readiness: Callable[[], Mapping[str, str]]) -> APIRouter:
    """The two routes; nobody needs a token for them."""
    routes = APIRouter(prefix="/health", tags=["Health"])

    @routes.get("/live", operation_id="live", summary="Learn whether the process answers")
    async def live() -> dict[str, str]:
        """200 as long as it does; nothing is looked at."""
        return {"status": "live"}

    @routes.get(
        "/ready",
        operation_id="ready",
        summary="Learn whether uploads are taken",
        responses={503: {"description": "It cannot take uploads; the body says what is wrong."}},
    )
    def ready() -> JSONResponse:
        """Database, storage and migrations must be `ok` for a 200; the body tells of each."""
        states = readiness()
        serves = all(states[name] == "ok" for name in _NEEDED)
        status = HTTPStatus.OK if serves else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ready" if serves else "unavailable", **states}, status)

    return routes
