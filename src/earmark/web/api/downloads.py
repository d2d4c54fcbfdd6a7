"""`/v1/downloads`: how the downloads of signed addresses stand."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Annotated, Self
from uuid import UUID  # noqa: TC003 - pydantic reads it

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from earmark.model import DownloadStatus
from earmark.web.api.ids import uuid_of
from earmark.web.api.problems import problems
from earmark.web.security import Ingester  # noqa: TC001 - FastAPI reads it from the annotation

if TYPE_CHECKING:
    from earmark.intake import Intake
    from earmark.model import Download

RETRY_AFTER_SECONDS = 2
"""When it is worth asking again."""

_DownloadId = Annotated[
    str,
    Path(
        description="As `Location` of the upload's 202 names it.",
        json_schema_extra={"format": "uuid"},
    ),
]


class CauseShape(BaseModel):
    """Why a download failed."""

    code: str = Field(description="Stable, for programs.", examples=["signed_url_expired"])
    message: str


class DownloadShape(BaseModel):
    """The download of one upload's file."""

    id: UUID
    file_name: str
    status: DownloadStatus
    created_at: datetime
    finished_at: datetime | None
    interaction_id: UUID | None = Field(description="What it became, once it is received.")
    error: CauseShape | None = Field(description="Why it failed, if it did.")

    @classmethod
    def of(cls, download: Download) -> Self:
        """The record of a download."""
        cause = download.cause
        return cls(
            id=download.id,
            file_name=download.file_name,
            status=download.status,
            created_at=download.created_at,
            finished_at=download.finished_at,
            interaction_id=download.interaction_id,
            error=CauseShape(code=cause.code, message=cause.message) if cause else None,
        )


def router(intake: Intake) -> APIRouter:
    """The routes of this module."""
    made = APIRouter(prefix="/v1/downloads", tags=["Downloads"])

    @made.get(
        "/{download_id}",
        operation_id="get_download",
        summary="Read how the download of a signed address stands",
        description="Remembered for a week after its end, unless the interaction is deleted.",
        response_model=DownloadShape,
        responses=problems(404),
    )
    async def get_download(download_id: _DownloadId, caller: Ingester) -> Response:
        found = await intake.for_(caller).find_download(uuid_of(download_id))
        headers = {}
        if found.status is DownloadStatus.DOWNLOADING:
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        if found.interaction_id is not None:
            headers["Location"] = f"/v1/interactions/{found.interaction_id}"
        body = DownloadShape.of(found).model_dump_json()
        return Response(body, headers=headers, media_type="application/json")

    return made
