"""`/v1/events`: what happened to interactions, page by page or as it happens.

A client that stores the id of the last event that it has dealt with misses none: it goes on from
there, after whatever pause, by either of the two.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID  # noqa: TC003 - pydantic reads it

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from earmark.errors import UnavailableError
from earmark.interactions import DEFAULT_LIMIT, MAX_LIMIT
from earmark.model import Event, Grant, Principal
from earmark.web.api.problems import problems
from earmark.web.security import requires

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from earmark.interactions import Interactions, OrganizationInteractions

POLL_SECONDS = 1.0
"""Between looks for new events, for each stream that is open."""

PING_SECONDS = 15.0
"""Proxies close a connection on which nothing is sent for 30 to 60 s."""

STREAM_SECONDS = 900.0
"""How long a stream lasts: its client then shows a fresh token. Browsers connect again by
themselves, and so does every client of server-sent events."""

RETRY_MILLISECONDS = 2000

MAX_STREAMS = 100
"""Streams of one process: each asks the database once a second."""

_LARGEST = 2**63 - 1

_Reader = Annotated[Principal, requires(Grant.READ)]


class EventShape(BaseModel):
    """Something that happened to an interaction."""

    id: int = Field(description="From 1, without gaps; later events have higher ones.")
    at: datetime
    kind: str = Field(description="Like `interaction.received`.", examples=["interaction.ready"])
    interaction_id: UUID
    detail: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        """The record of an event."""
        return cls(
            id=event.position,
            at=event.at,
            kind=event.kind,
            interaction_id=event.interaction_id,
            detail=dict(event.detail),
        )


class EventsShape(BaseModel):
    """Events in their order."""

    items: list[EventShape]
    next: int = Field(description="`after` of the next page; ask again later if this is empty.")


class EventFilters(BaseModel):
    """The query of a page of events."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, le=_LARGEST, description="The id of the last event you have.")
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="The most a page holds.")


def router(interactions: Interactions, stopping: Callable[[], bool]) -> APIRouter:
    """The routes of this module; streams end when `stopping` says so."""
    made = APIRouter(prefix="/v1/events", tags=["Events"])
    streams = _Streams(stopping)

    @made.get(
        "",
        operation_id="list_events",
        summary="Read what happened to interactions, oldest first",
        description="A client that keeps `next` and asks with it as `after` misses none.",
        response_model=EventsShape,
        responses=problems(400),
    )
    def list_events(caller: _Reader, filters: Annotated[EventFilters, Query()]) -> Response:
        found = interactions.for_(caller).events(after=filters.after, limit=filters.limit)
        page = EventsShape(
            items=[EventShape.of(event) for event in found],
            next=found[-1].position if found else filters.after,
        )
        return Response(page.model_dump_json(), media_type="application/json")

    @made.get(
        "/stream",
        operation_id="stream_events",
        summary="Follow what happens to interactions",
        description="Server-sent events: `id` and `event` are the id and kind of an event, "
        "`data` is its JSON. The stream ends now and then; go on with `Last-Event-ID`.",
        response_class=StreamingResponse,
        responses={200: _STREAM, **problems(400)},
    )
    async def stream_events(
        caller: _Reader,
        last_event_id: Annotated[
            int | None,
            Header(ge=0, le=_LARGEST, description="The id of the last event that you have."),
        ] = None,
        after: Annotated[
            int, Query(ge=0, le=_LARGEST, description="Where no `Last-Event-ID` is sent.")
        ] = 0,
    ) -> Response:
        start = after if last_event_id is None else last_event_id
        return StreamingResponse(
            streams.open(interactions.for_(caller), start),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return made


class _Streams:
    """The streams that are open in this process."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._open = 0

    def open(self, interactions: OrganizationInteractions, after: int) -> AsyncIterator[bytes]:
        """The bytes of one more stream.

        Raises:
            UnavailableError: there are too many.
        """
        if self._open >= MAX_STREAMS:
            raise UnavailableError("too many streams of events are open")
        return self._follow(interactions, after)

    async def _follow(
        self, interactions: OrganizationInteractions, after: int
    ) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            yield format_sse_event(retry=RETRY_MILLISECONDS)
            end = time.monotonic() + STREAM_SECONDS
            pinged = time.monotonic()
            while not self._stopping() and (moment := time.monotonic()) < end:
                found = await run_in_threadpool(interactions.events, after=after, limit=MAX_LIMIT)
                if found:
                    after = found[-1].position
                    pinged = moment
                    yield _written(found)
                    continue
                if moment - pinged >= PING_SECONDS:
                    pinged = moment
                    yield format_sse_event(comment="ping")
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._open -= 1


def _written(found: Sequence[Event]) -> bytes:
    return b"".join(
        format_sse_event(
            data_str=EventShape.of(event).model_dump_json(),
            event=event.kind,
            id=str(event.position),
        )
        for event in found
    )


_STREAM: dict[str, Any] = {
    "description": "The events after the given one, and then each as it happens.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "Each event, its parts as the standard names them.",
                "properties": {
                    "id": {"type": "string"},
                    "event": {"type": "string"},
                    "data": {"type": "string", "contentMediaType": "application/json"},
                    "retry": {"type": "integer"},
                },
            }
        }
    },
}
