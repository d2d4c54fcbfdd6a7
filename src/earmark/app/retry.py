"""`earmark retry`: has what failed or was skipped processed once more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from earmark.errors import Invalid, InvalidError
from earmark.interactions import Retried
from earmark.model import Query, parse_interaction_date

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from earmark.app.parts import Parts
    from earmark.model import StepStatus

PAGE = 500
"""Interactions looked at before it is told how far it is."""


def retry(
    parts: Parts,
    organization: str,
    *,
    code: str | None = None,
    statuses: frozenset[StepStatus] = frozenset(),
    since: str | None = None,
    dry_run: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Retried:
    """Has those interactions of an organization retried of which a step is not well.

    Args:
        parts: of the service.
        organization: its name.
        code: only those of which a step bears this code.
        statuses: only those of which a step stands at one of these; none means any that a retry
            runs again.
        since: RFC 3339; only those that took place, or else arrived, then or later.
        dry_run: only tell what would be done.
        tell: told how far it is, in words.

    Raises:
        InvalidError: no such organization, or `since` is no date.
    """
    query = Query(error_code=code, step_statuses=statuses, since=_since(since))
    mine = parts.interactions.for_operator(parts.access.organization_id(organization))
    cursor, retried, left = None, 0, Counter[str]()
    while True:
        page = mine.retry_found(query, limit=PAGE, cursor=cursor, dry_run=dry_run)
        retried += page.retried
        left += Counter(page.left)
        cursor = page.next_cursor
        if cursor is None:
            return Retried(retried, left)
        tell(f"{retried} so far")


def _since(sent: str | None) -> datetime | None:
    try:
        return parse_interaction_date(sent).instant if sent else None
    except ValueError as error:
        raise InvalidError(Invalid("since", str(error))) from None
