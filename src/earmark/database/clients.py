"""Organizations, their API clients, and the keys that sign tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.core import Scope
from earmark.database.tables import client, organization, signing_key
from earmark.model import Client, Grant, Organization, new_id, now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One signing key as it is kept.

    Attributes:
        id: the `kid` of tokens.
        public_jwk: as it is published.
        wrapped_private_key: encrypted; only `access` can open it.
    """

    id: str
    public_jwk: Mapping[str, Any]
    wrapped_private_key: bytes
    created_at: datetime


def organizations(scope: Scope) -> list[Organization]:
    """Every organization, by name."""
    found = _ORGANIZATIONS.order_by(organization.c.name)
    return [_organization(row) for row in scope.rows(found)]


def own_organization(scope: Scope) -> Organization:
    """The organization to which the transaction is bound."""
    (row,) = scope.rows(_ORGANIZATIONS.where(organization.c.id == scope.organization_id))
    return _organization(row)


def set_agent_channel(scope: Scope, organization_id: UUID, channel: int) -> None:
    """Says on which channel an organization records its agents."""
    mine = organization.c.id == organization_id
    scope.run(sa.update(organization).where(mine).values(agent_channel=channel))


def organization_named(scope: Scope, name: str) -> UUID | None:
    """The id of the organization of that name, if there is one."""
    row = scope.row(sa.select(organization.c.id).where(organization.c.name == name))
    return None if row is None else row.id


def add_organization(scope: Scope, name: str) -> bool:
    """Adds an organization unless one of that name stands; says whether it was added."""
    values = {"id": new_id(), "name": name, "created_at": now()}
    return scope.insert_if_absent(organization, values)


def bound(scope: Scope, organization_id: UUID) -> Scope:
    """The same transaction, bound to an organization that was found or added in it."""
    return Scope(scope.connection, organization_id)


def add_client(scope: Scope, added: Client, *, secret_hash: bytes) -> None:
    """Adds an API client to its organization."""
    scope.insert(
        client,
        {
            "id": added.id,
            "organization_id": added.organization_id,
            "name": added.name,
            "secret_hash": secret_hash,
            "grants": sorted(added.grants),
            "created_at": added.created_at,
            "disabled_at": added.disabled_at,
        },
    )


def all_clients(scope: Scope) -> Sequence[Client]:
    """Every client, by the name of its organization and then by age."""
    ordered = _CLIENTS.order_by(organization.c.name, client.c.created_at, client.c.id)
    return [_client(row) for row in scope.rows(ordered)]


def find_client(scope: Scope, client_id: str) -> tuple[Client, bytes] | None:
    """A client with the hash of its secret; None if there is none of that id."""
    row = scope.row(_CLIENTS.where(client.c.id == client_id))
    return None if row is None else (_client(row), row.secret_hash)


def signing_keys(scope: Scope) -> Sequence[StoredKey]:
    """Every signing key, the newest first."""
    newest = sa.select(signing_key).order_by(
        signing_key.c.created_at.desc(), signing_key.c.id.desc()
    )
    return [_stored_key(row) for row in scope.rows(newest)]


def ensure_signing_key(scope: Scope, make: Callable[[], StoredKey]) -> Sequence[StoredKey]:
    """Every signing key, the newest first; makes one if there is none.

    Of processes that ask at once, one makes it and all get it.
    """
    scope.serialise("signing_key")
    if not signing_keys(scope):
        made = make()
        scope.insert(
            signing_key,
            {
                "id": made.id,
                "public_jwk": dict(made.public_jwk),
                "wrapped_private_key": made.wrapped_private_key,
                "created_at": made.created_at,
            },
        )
    return signing_keys(scope)


_ORGANIZATIONS = sa.select(organization.c.id, organization.c.name, organization.c.agent_channel)
_CLIENTS = sa.select(client, organization.c.name.label("organization_name")).join(organization)


def _organization(row: sa.Row[Any]) -> Organization:
    return Organization(row.id, row.name, row.agent_channel)


def _stored_key(row: sa.Row[Any]) -> StoredKey:
    return StoredKey(
        id=row.id,
        public_jwk=row.public_jwk,
        wrapped_private_key=row.wrapped_private_key,
        created_at=row.created_at,
    )


def _client(row: sa.Row[Any]) -> Client:
    return Client(
        id=row.id,
        organization_id=row.organization_id,
        organization_name=row.organization_name,
        name=row.name,
        grants=frozenset(Grant(grant) for grant in row.grants),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )
