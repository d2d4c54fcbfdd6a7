"""How the errors of `/v1` are documented. Their words are made in `web.errors`."""

from __future__ import annotations

from typing import Any

from earmark.web.errors import PROBLEM

_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "description": "An RFC 9457 problem.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "description": "urn:earmark:error: and the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What to change, for a person."},
        "code": {"type": "string", "description": "Stable, for programs."},
        "errors": {
            "type": "array",
            "description": "Every wrong value, where values were wrong.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}

_REASONS = {
    400: "A value is wrong; every one is named.",
    401: "No valid access token.",
    403: "The client lacks the grant that this needs.",
    404: "The organization has no such thing.",
    406: "`Accept` allows none of the forms that there are.",
    409: "The interaction is not in a state that allows this.",
    413: "The body is too large.",
    416: "The range lies outside the media; `Content-Range` has its size.",
    429: "Too many requests; retry after `Retry-After` seconds.",
    503: "Storage or database cannot serve now; retry after `Retry-After` seconds.",
}

_ALWAYS = (401, 403, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer these statuses, beside those that any may."""
    return {
        status: {"description": _REASONS[status], "content": {PROBLEM: {"schema": _SCHEMA}}}
        for status in sorted({*statuses, *_ALWAYS})
    }
