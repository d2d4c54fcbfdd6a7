"""`/v1/interactions/retry`: many interactions processed once more, those that need it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from uuid import UUID  # noqa: TC003 - pydantic reads it

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, ValidationError

from earmark.errors import Invalid, InvalidError
from earmark.interactions import MAX_LIMIT, Retried
from earmark.web.api.problems import problems
from earmark.web.api.records import Filters
from earmark.web.body import Body  # noqa: TC001 - FastAPI reads it
from earmark.web.security import Manager  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from earmark.interactions import Interactions


class RetryOrder(Filters):
    """Which interactions: those that the filters of the list find, or those of the ids."""

    limit: int = Field(
        MAX_LIMIT, ge=1, le=MAX_LIMIT, description="The most that are looked at in one request."
    )
    ids: list[UUID] | None = Field(
        None,
        min_length=1,
        max_length=MAX_LIMIT,
        description="These and no others; takes the place of all filters.",
    )
    dry_run: bool = Field(False, description="Only tell what would be done.")

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The order in a body; an empty one orders everything that needs it.

        Raises:
            InvalidError: it is no JSON object, or a value is wrong.
        """
        try:
            order = cls.model_validate_json(body or b"{}")
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False, include_context=False)
            raise InvalidError(
                *(
                    Invalid(".".join(map(str, fault["loc"])) or "body", f"{fault['msg']}.")
                    for fault in faults
                )
            ) from None
        if order.ids is not None and order.model_fields_set - {"ids", "dry_run"}:
            raise InvalidError(Invalid("ids", "Send ids or filters, not both."))
        return order


class LeftShape(BaseModel):
    """Interactions that were left as they are, by the code that a retry of one would answer."""

    processing: int = Field(description="Under way already, of an earlier retry too.")
    nothing_to_retry: int = Field(description="Ready, and no step failed or was skipped.")
    not_found: int = Field(description="Ids of which the organization has no interaction.")


class RetriedShape(BaseModel):
    """What became of the interactions that were looked at."""

    retried: int = Field(description="Put back; only their steps that are not done run again.")
    left: LeftShape
    next: str | None = Field(description="The `cursor` to go on with; null after the last.")

    @classmethod
    def of(cls, retried: Retried) -> Self:
        """The record of a bulk retry."""
        counts = {name: retried.left.get(name, 0) for name in LeftShape.model_fields}
        return cls(retried=retried.retried, left=LeftShape(**counts), next=retried.next_cursor)


def router(interactions: Interactions) -> APIRouter:
    """The route of this module."""
    made = APIRouter(prefix="/v1/interactions", tags=["Interactions"])

    @made.post(
        "/retry",
        operation_id="retry_interactions",
        summary="Process many failed interactions, or their skipped steps, once more",
        description=(
            "Looks at the interactions that the filters find and of which a step failed, was "
            "skipped or waits, newest first, up to `limit`; `next` leads on. Safe to repeat."
        ),
        response_model=RetriedShape,
        responses=problems(400, 413),
        openapi_extra=_BODY,
    )
    def retry_interactions(caller: Manager, body: Body) -> Response:
        order = RetryOrder.read(body)
        mine = interactions.for_(caller)
        if order.ids is not None:
            retried = mine.retry_these(order.ids, dry_run=order.dry_run)
        else:
            retried = mine.retry_found(
                order.query(), limit=order.limit, cursor=order.cursor, dry_run=order.dry_run
            )
        record = RetriedShape.of(retried)
        return Response(record.model_dump_json(), media_type="application/json")

    return made


def _schema() -> dict[str, Any]:
    """The order's schema; what it shares with records is described there."""
    schema = RetryOrder.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs")
    return schema


_BODY: dict[str, Any] = {
    "requestBody": {"required": False, "content": {"application/json": {"schema": _schema()}}}
}
