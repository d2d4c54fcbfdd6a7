"""Ids in paths."""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

from fastapi import Path

from earmark.errors import NotFoundError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

InteractionId = Annotated[
    str,
    Path(
        description="The `id` that the upload was answered with.",
        json_schema_extra={"format": "uuid"},
    ),
]


def uuid_of(sent: str) -> UUID:
    """The id in a path. What is no UUID is no interaction's, and is answered as any unknown."""
    if not _UUID.fullmatch(sent):
        raise NotFoundError(sent)
    return UUID(sent)
