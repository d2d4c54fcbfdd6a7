"""The way in and out over HTTP: an ASGI app over the heart, which it is given."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from starlette.routing import Route
from typing_extensions import override

from earmark.web import api, health, oauth, reference
from earmark.web.acxapi import agents, hierarchy, metadata, transcriptions, upload, wire
from earmark.web.api import downloads, events, receipts, retries, transcripts, vcon
from earmark.web.connection import RequestContext
from earmark.web.errors import Edge
from earmark.web.measured import Measured, lag_measured
from earmark.web.pace import Pace
from earmark.web.routing import CaselessPaths
from earmark.web.shortcut import Shortcut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from starlette.types import ASGIApp

    from earmark.access import Access
    from earmark.directory import Directory
    from earmark.intake import Intake
    from earmark.interactions import Interactions

DESCRIPTION = """\
Hand over call recordings and chat archives with their metadata, and get them back: found,
played, exported. Get a token from `/connect/token` with a client's id and secret first.
"""


@dataclass(frozen=True, slots=True)
class Heart:
    """What the web reaches, and nothing else of the service.

    Attributes:
        readiness: the state of each thing that serving needs, "ok" or what is wrong; may block.
        upload_idle_seconds: a body is given up after as long without a byte.
        upload_min_rate: bytes per second that a body brings at least, over as long.
        stopping: whether the process is about to end; what would go on for long ends then.
    """

    access: Access
    intake: Intake
    interactions: Interactions
    directory: Directory
    readiness: Callable[[], Mapping[str, str]]
    upload_idle_seconds: float
    upload_min_rate: int = 0
    stopping: Callable[[], bool] = lambda: False


class _App(FastAPI):
    pace: Pace
    caseless_paths: Sequence[str] = ()
    own_paths: Sequence[str] = ()
    shortcut: Callable[[ASGIApp], ASGIApp]

    @override
    def build_middleware_stack(self) -> ASGIApp:
        """As FastAPI, with the request's context around all of it, failures included."""
        whole = self.shortcut(super().build_middleware_stack())
        measured = Measured(whole, uploads=upload.PATH)
        stack = CaselessPaths(measured, self.caseless_paths)
        return RequestContext(stack, self.pace, self.own_paths)

    @override
    def openapi(self) -> dict[str, Any]:
        """As FastAPI, less its own answer to wrong values: they are told in our own way."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document


def create_app(heart: Heart) -> FastAPI:
    """The ASGI app: the Upload Media API, `/v1`, tokens, health, `/openapi.json` and `/docs`."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with lag_measured(), heart.intake.tended():
            yield

    app = _App(
        lifespan=lifespan,
        title="Earmark",
        version=version("earmark"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.access = heart.access
    app.pace = Pace(heart.upload_idle_seconds, heart.upload_min_rate)
    uploads = upload.Uploads(heart.intake, heart.access)
    published = (
        oauth.router(heart.access),
        upload.router(uploads),
        agents.router(heart.directory),
        hierarchy.router(heart.directory),
        metadata.router(heart.interactions),
        transcriptions.router(heart.interactions),
    )
    own = (
        api.router(heart.interactions),
        receipts.router(heart.interactions, heart.access),
        retries.router(heart.interactions),
        transcripts.router(heart.interactions),
        downloads.router(heart.intake),
        vcon.router(heart.interactions, heart.access.issuer),
        events.router(heart.interactions, heart.stopping),
        health.router(heart.readiness),
        reference.router(),
    )
    for router in (*published, *own):
        app.include_router(router)
    app.caseless_paths = [route.path for route in _routes(published)]
    routes = _routes((*published, *own))
    app.own_paths = [*(route.path for route in routes), str(app.openapi_url)]
    edge = Edge(wire.refusal, routes)
    edge.install(app)
    taking = next(route for route in routes if route.path == upload.PATH)
    app.shortcut = partial(Shortcut, route=taking, call=uploads.answer, edge=edge)
    return app


def _routes(routers: Iterable[APIRouter]) -> list[Route]:
    return [route for router in routers for route in router.routes if isinstance(route, Route)]
