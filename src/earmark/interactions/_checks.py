"""What may be asked for, and what a correction may say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earmark.errors import Invalid
from earmark.model import LOCALES, MAX_INDEXED_CHARACTERS, META, storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.model import ArrivalQuery, Correction, Query

MAX_LIMIT = 1000
"""Interactions of one page."""

MAX_CLIENT_CALL_IDS = 100
"""Asked for at once: each is looked up."""

MAX_TEXT_CHARACTERS = 64 * 1024
"""Of one text that is corrected: a quarter of what an upload may say in all."""


def query_faults(query: Query) -> Iterator[Invalid]:
    if query.locale is not None and query.locale not in LOCALES:
        yield Invalid("locale", f"Send one of: {', '.join(sorted(LOCALES))}.")
    for name in ("agent_code", "client_call_id", "prefix", "error_code", "q"):
        if not storable(getattr(query, name) or ""):
            yield Invalid(name, _UNSTORABLE)


def arrival_faults(query: ArrivalQuery, limit: int) -> Iterator[Invalid]:
    if not 1 <= limit <= MAX_LIMIT:
        yield Invalid("limit", f"Send a number from 1 to {MAX_LIMIT}.")
    if query.since and query.until and query.until < query.since:
        yield Invalid("until", "Send an instant that is not before the beginning.")
    if len(query.client_call_ids) > MAX_CLIENT_CALL_IDS:
        yield Invalid("client_call_ids", f"Send at most {MAX_CLIENT_CALL_IDS} of them.")
    if not all(storable(call) for call in query.client_call_ids):
        yield Invalid("client_call_ids", _UNSTORABLE)


def correction_faults(correction: Correction) -> Iterator[Invalid]:
    if correction.locale is not None and correction.locale not in LOCALES:
        yield Invalid("locale", f"Send one of: {', '.join(sorted(LOCALES))}.")
    texts: dict[str, tuple[str, int]] = {
        "phone": (correction.phone or "", MAX_TEXT_CHARACTERS),
        "client_call_id": (correction.client_call_id or "", MAX_INDEXED_CHARACTERS),
        **{name: (text, MAX_TEXT_CHARACTERS) for name, text in correction.meta.items()},
    }
    for name, (text, longest) in texts.items():
        if not storable(text):
            yield Invalid(name, _UNSTORABLE)
        if len(text) > longest:
            yield Invalid(name, f"Send at most {longest:,} characters.")
    if not set(correction.meta) <= set(META):
        yield Invalid("meta", f"There are {', '.join(META)} only.")
    if not _keepable(correction.extended):
        yield Invalid("extended", _UNSTORABLE)


_UNSTORABLE = "Send text without NUL and without half surrogate pairs."


def _keepable(value: Any) -> bool:
    """Whether a JSON value holds only text that can be kept."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return all(storable(key) and _keepable(item) for key, item in value.items())
    return not isinstance(value, list) or all(map(_keepable, value))
