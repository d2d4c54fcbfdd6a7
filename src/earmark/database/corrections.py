"""What people correct of an interaction, and what has to be found out anew because of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database import search_index
from earmark.database.interactions import OF_WHAT_IS_SAID, forget_steps, receive_again
from earmark.database.tables import interaction
from earmark.model import Status

if TYPE_CHECKING:
    from earmark.database.scope import Scope
    from earmark.model import Correction, Interaction

OF_THE_LOCALE = frozenset({"language_mismatch"})
"""Warnings that hold for one locale only."""


def changes(before: Interaction, correction: Correction) -> dict[str, Any]:
    """The fields of an interaction that a correction changes, with their new values."""
    wanted: dict[str, Any] = {
        "interaction_date": correction.interaction_date or before.interaction_date,
        "direction": correction.direction or before.direction,
        "phone": _text(before.customer.phone, correction.phone),
        "client_call_id": _text(before.client_call_id, correction.client_call_id),
        "locale": correction.locale or before.locale,
        "extended": {**before.extended, **correction.extended},
        "meta": {**before.meta, **correction.meta},
    }
    kept = {
        "interaction_date": before.interaction_date,
        "direction": before.direction,
        "phone": before.customer.phone,
        "client_call_id": before.client_call_id,
        "locale": before.locale,
        "extended": before.extended,
        "meta": before.meta,
    }
    return {name: value for name, value in wanted.items() if value != kept[name]}


def _text(before: str | None, sent: str | None) -> str | None:
    return before if sent is None else sent or None


def write(scope: Scope, before: Interaction, changed: dict[str, Any]) -> None:
    """Writes what `changes` found, of an interaction that is kept from others."""
    values = dict(changed)
    if "phone" in values:
        values["customer_phone"] = values.pop("phone")
    date = values.pop("interaction_date", None)
    if date is not None:
        values |= {
            "occurred_at": date.instant,
            "interaction_at": date.instant,
            "interaction_offset_minutes": date.offset_minutes,
            "interaction_date_sent": date.sent,
        }
    mine = sa.update(interaction).where(interaction.c.id == before.id)
    scope.run(mine.values(values))


def outdate(scope: Scope, before: Interaction) -> int | None:
    """Has all that depends on what people say about an interaction found out anew.

    The one that nobody has begun with is left to its turn; for one in processing another round
    follows, so that never two work at it at once; for one at its end a round begins now.

    Args:
        scope: the transaction, in which the interaction is kept from others.
        before: the interaction as it is.

    Returns:
        the number of the round that begins now; None if none does.
    """
    processed = before.status is Status.PROCESSING
    others = [
        {"code": warning.code, "message": warning.message}
        for warning in before.warnings
        if warning.code not in OF_THE_LOCALE
    ]
    mine = sa.update(interaction).where(interaction.c.id == before.id)
    scope.run(mine.values(transcript=None, warnings=others, outdated=processed))
    search_index.forget(scope, before.id)
    if processed:
        return None
    forget_steps(scope, before.id, OF_WHAT_IS_SAID)
    return None if before.status is Status.RECEIVED else receive_again(scope, before.id)
