"""The key that signs receipts. It is added once, and neither changed nor removed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.tables import receipt_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from earmark.database.scope import Scope


@dataclass(frozen=True, slots=True)
class StoredKey:
    """The key as it is kept.

    Attributes:
        id: the `kid` of receipts.
        public_jwk: as it is published.
        wrapped_private_key: encrypted; only `access` can open it.
    """

    id: str
    public_jwk: Mapping[str, Any]
    wrapped_private_key: bytes
    created_at: datetime


def key(scope: Scope) -> StoredKey | None:
    """The key; None if none was made yet."""
    row = scope.row(sa.select(receipt_key))
    return StoredKey(**row._mapping) if row else None  # noqa: SLF001 - SQLAlchemy's public name


def ensure_key(scope: Scope, make: Callable[[], StoredKey]) -> StoredKey:
    """The key; makes it if there is none. Of processes that ask at once, one makes it."""
    scope.serialise("receipt_key")
    found = key(scope)
    if found is None:
        found = make()
        scope.insert(receipt_key, {**asdict(found), "public_jwk": dict(found.public_jwk)})
    return found
