"""What a caller would like, by `Prefer`. Source: RFC 7240."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from starlette.datastructures import Headers

# What is read is not tried again otherwise (`+`): 8 KB of spaces would take a second (measured).
_PREFERENCE = re.compile(
    r"\s*+([\w!#$%&'*+.^`|~-]++)\s*+(?:=\s*+\"?([^\",;]*+)\"?)?\s*+(?:;.*)?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Preference:
    """How long a caller likes to wait.

    Attributes:
        respond_async: whether an answer before the end is liked.
        patience_seconds: how long to wait for the end before that; None means to the end.
    """

    respond_async: bool
    patience_seconds: float | None

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Reads the preferences of a request; of one that comes twice the first counts."""
        told: dict[str, str] = {}
        for entry in ",".join(headers.getlist("prefer")).split(","):
            match = _PREFERENCE.fullmatch(entry)
            if match is not None:
                told.setdefault(match[1].lower(), (match[2] or "").strip())
        if "respond-async" not in told:
            return cls(respond_async=False, patience_seconds=None)
        wait = told.get("wait", "")
        seconds = float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else 0.0
        return cls(respond_async=True, patience_seconds=seconds)
