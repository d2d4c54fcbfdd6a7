"""Organizations, their API clients, and the keys that sign tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.scope import Scope
from earmark.database.tables import access_revision, client, organization, signing_key
from earmark.model import Client, Grant, Organization, Quota, new_id, now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One signing key as it is kept.

    Attributes:
        id: the `kid` of tokens.
        public_jwk: as it is published.
        wrapped_private_key: encrypted; only `access` can open it.
        signs_from: when it begins to sign; the first one does at once.
    """

    id: str
    public_jwk: Mapping[str, Any]
    wrapped_private_key: bytes
    created_at: datetime
    signs_from: datetime


@dataclass(frozen=True, slots=True)
class StoredSecrets:
    """What is kept of a client's secrets: keyed hashes.

    Attributes:
        previous: of the secret that still counts while a rotation is under way; else None.
    """

    current: bytes
    previous: bytes | None = None


def revision(scope: Scope) -> int:
    """How often clients, quotas and signing keys were changed."""
    row = scope.row(sa.select(access_revision.c.number))
    return 0 if row is None else int(row.number)


def _count_change(scope: Scope) -> None:
    """Lets every process know that what it remembers of clients and keys is old."""
    changed = sa.update(access_revision).values(number=access_revision.c.number + 1)
    if not scope.run(changed) and not scope.insert_if_absent(
        access_revision, {"id": 1, "number": 1}
    ):
        scope.run(changed)


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


def quota(scope: Scope, organization_id: UUID) -> Quota:
    """What was said of an organization; nothing, if there is none of that id."""
    row = scope.row(sa.select(organization).where(organization.c.id == organization_id))
    return Quota() if row is None else _quota(row)


def set_quota(scope: Scope, organization_id: UUID, quota: Quota) -> None:
    """Says what an organization may use; every process sees it as it does a changed client."""
    mine = sa.update(organization).where(organization.c.id == organization_id)
    scope.run(mine.values({f"quota_{name}": value for name, value in asdict(quota).items()}))
    _count_change(scope)


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
    found = Scope(scope.connection, organization_id)
    found.after_commit = scope.after_commit
    return found


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
            "external_id": added.external_id,
        },
    )
    _count_change(scope)


def all_clients(scope: Scope) -> Sequence[Client]:
    """Every client, by the name of its organization and then by age."""
    ordered = _CLIENTS.order_by(organization.c.name, client.c.created_at, client.c.id)
    return [_client(row) for row in scope.rows(ordered)]


def find_client(scope: Scope, client_id: str) -> tuple[Client, StoredSecrets] | None:
    """A client with the hashes of its secrets; None if there is none of that id."""
    row = scope.row(_CLIENTS.where(client.c.id == client_id))
    if row is None:
        return None
    return _client(row), StoredSecrets(row.secret_hash, row.previous_secret_hash)


def find_external(scope: Scope, external_id: str) -> Client | None:
    """The client that another issuer calls by that name; None if there is none."""
    row = scope.row(_CLIENTS.where(client.c.external_id == external_id))
    return None if row is None else _client(row)


def change_client(scope: Scope, client_id: str, **values: Any) -> None:
    """Writes columns of a client; every process sees it within `access.POLL_SECONDS`."""
    scope.run(sa.update(client).where(client.c.id == client_id).values(**values))
    _count_change(scope)


def signing_keys(scope: Scope) -> Sequence[StoredKey]:
    """Every signing key, that which signs last first."""
    found = [_stored_key(row) for row in scope.rows(sa.select(signing_key))]
    return sorted(found, key=lambda key: (key.signs_from, key.created_at, key.id), reverse=True)


def ensure_signing_key(scope: Scope, make: Callable[[], StoredKey]) -> Sequence[StoredKey]:
    """Every signing key, that which signs last first; makes one if there is none.

    Of processes that ask at once, one makes it and all get it.
    """
    serialise_keys(scope)
    if not signing_keys(scope):
        add_signing_key(scope, make())
    return signing_keys(scope)


def serialise_keys(scope: Scope) -> None:
    """Waits for others who add or remove signing keys."""
    scope.serialise("signing_key")


def add_signing_key(scope: Scope, made: StoredKey) -> None:
    """Adds a signing key."""
    scope.insert(
        signing_key,
        {
            "id": made.id,
            "public_jwk": dict(made.public_jwk),
            "wrapped_private_key": made.wrapped_private_key,
            "created_at": made.created_at,
            "signs_from": made.signs_from,
        },
    )
    _count_change(scope)


def remove_signing_keys(scope: Scope, ids: Collection[str]) -> None:
    """Removes signing keys; what they signed verifies no more."""
    if ids:
        scope.run(sa.delete(signing_key).where(signing_key.c.id.in_(ids)))
        _count_change(scope)


_ORGANIZATIONS = sa.select(organization)
_CLIENTS = sa.select(client, organization.c.name.label("organization_name")).join(organization)


def _organization(row: sa.Row[Any]) -> Organization:
    return Organization(row.id, row.name, row.agent_channel, _quota(row))


def _quota(row: sa.Row[Any]) -> Quota:
    return Quota(row.quota_stored_bytes, row.quota_uploads_at_once, row.quota_uploads_per_minute)


def _stored_key(row: sa.Row[Any]) -> StoredKey:
    return StoredKey(
        id=row.id,
        public_jwk=row.public_jwk,
        wrapped_private_key=row.wrapped_private_key,
        created_at=row.created_at,
        signs_from=row.signs_from or row.created_at,
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
        external_id=row.external_id,
        tokens_after=row.tokens_after,
        rotating=row.previous_secret_hash is not None,
        previous_secret_until=row.previous_secret_until,
    )
