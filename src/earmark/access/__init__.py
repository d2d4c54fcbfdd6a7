"""Who may call, and what for: organizations, API clients, grants, tokens, rate limits.

No HTTP and no SQL live here. A caller is known by an access token, which `Access.grant_token`
gives for a client's secret and `Access.authenticate` turns into a Principal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earmark.access.cache import Cache
from earmark.access.credentials import Secrets, new_client_id
from earmark.access.keys import SigningKeys
from earmark.access.rate import Limiter, Rate, RateState, parse_rate
from earmark.access.tokens import LIFETIME_SECONDS, SCOPE, Tokens, Verified
from earmark.database import clients as queries
from earmark.database import journal
from earmark.errors import ForbiddenError, Invalid, InvalidError, UnauthenticatedError
from earmark.model import DEFAULT_GRANTS, Client, Grant, Organization, Principal, now, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from uuid import UUID

    from earmark.database import Database, Scope

__all__ = [
    "LIFETIME_SECONDS",
    "SCOPE",
    "Access",
    "NewClient",
    "Rate",
    "RateState",
    "TokenGrant",
    "parse_rate",
]

FACTS_SECONDS = 1.0
"""How long a client's grants and its being enabled are believed: the contract's second."""

CACHED_CLIENTS = 10_000
"""Clients remembered at once, about 1 KiB each."""

MAX_NAME_CHARACTERS = 200
"""Names of organizations and clients: they are read by people, in lists."""


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client just made, with its secret, which can never be read again."""

    client: Client
    secret: str


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """An access token.

    Attributes:
        expires_in: seconds.
    """

    access_token: str
    expires_in: int
    scope: str


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the database said of a client, and when."""

    client: Client | None
    read_at: float


class Access:
    """Clients and their tokens. Safe to call from many threads.

    Only `recall`, `require` and `charge` never wait for the database.
    """

    def __init__(
        self,
        database: Database,
        *,
        secret_key: bytes,
        issuer: str,
        rate_limit: Rate | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet.

        Args:
            database: where organizations, clients and signing keys are.
            secret_key: what the pepper of client secrets and the key that wraps signing keys
                are derived from; the same in every process.
            issuer: the public base URL; `iss` and `aud` of every token.
            rate_limit: of one client in this process; None limits nobody.
            clock: seconds since 1970, for the times in tokens.
            timer: seconds that never run backwards, for freshness and rates.
        """
        self.issuer = issuer.rstrip("/")
        self.rate_limit = rate_limit
        self._database = database
        self._timer = timer
        self._secrets = Secrets(secret_key)
        self._keys = SigningKeys(database, secret_key, timer=timer)
        self._tokens = Tokens(self._keys, issuer=self.issuer, clock=clock)
        self._facts: Cache[str, _Facts] = Cache(CACHED_CLIENTS)
        self._limiter = None if rate_limit is None else Limiter(rate_limit, timer=timer)

    def create_client(
        self,
        *,
        organization: str,
        create_organization: bool,
        name: str,
        grants: Collection[Grant] = DEFAULT_GRANTS,
    ) -> NewClient:
        """Adds an API client to the organization of that name; its secret is shown only here.

        Raises:
            InvalidError: no such organization, and it was not to be created; a name that is
                empty, too long or not printable; no grant.
            SettingsError: the secret key is not the one that this database was used with. A
                client made with it could never sign in.
        """
        _check_names(organization, name, grants)
        self.check()
        secret = self._secrets.new()
        with self._database.write(None) as scope:
            organization_id = _organization(scope, organization, create=create_organization)
            client = Client(
                id=new_client_id(),
                organization_id=organization_id,
                organization_name=organization,
                name=name,
                grants=frozenset(grants),
                created_at=now(),
            )
            queries.add_client(scope, client, secret_hash=self._secrets.hash(secret))
            _audit(scope, organization_id, "client.create", client.id, {"grants": sorted(grants)})
        return NewClient(client, secret)

    def organizations(self) -> list[Organization]:
        """Every organization, by name."""
        with self._database.read(None) as scope:
            return queries.organizations(scope)

    def organization_id(self, organization: str) -> UUID:
        """The id of the organization of this name.

        Raises:
            InvalidError: no such organization.
        """
        with self._database.read(None) as scope:
            return _organization(scope, organization, create=False)

    def set_agent_channel(self, organization: str, channel: int) -> None:
        """Says on which channel an organization records its agents, from 0.

        Raises:
            InvalidError: no such organization.
        """
        with self._database.write(None) as scope:
            organization_id = _organization(scope, organization, create=False)
            queries.set_agent_channel(scope, organization_id, channel)
            detail = {"agent_channel": channel}
            _audit(scope, organization_id, "organization.set", str(organization_id), detail)

    def clients(self) -> Sequence[Client]:
        """Every client, by the name of its organization and then by age."""
        with self._database.read(None) as scope:
            return queries.all_clients(scope)

    def check(self) -> None:
        """Sees to it that tokens can be signed; makes the first signing key.

        Raises:
            SettingsError: the secret key is not the one that this database was used with.
        """
        self._keys.signer()

    def published_keys(self) -> Sequence[Mapping[str, Any]]:
        """The public JWK of every signing key. Source: RFC 7517."""
        return self._keys.published()

    def identify(self, client_id: str, secret: str) -> Client:
        """The client that knows the secret.

        Unknown, disabled and wrongly authenticated clients cost the same work, so that the time
        taken does not tell which ids exist.

        Raises:
            UnauthenticatedError: there is none.
        """
        with self._database.read(None) as scope:
            found = queries.find_client(scope, _findable(client_id))
        client, expected = found or (None, self._secrets.nobody)
        matches = self._secrets.matches(secret, expected)
        if client is None or not matches or client.disabled_at is not None:
            raise UnauthenticatedError("Unknown client or wrong secret.", presented=True)
        return client

    def grant_token(self, client_id: str, secret: str, scope: str = "") -> TokenGrant:
        """An access token for the client that knows the secret.

        Args:
            client_id: as given to the client.
            secret: likewise.
            scope: names separated by spaces; empty means `SCOPE`, the only one there is.

        Raises:
            UnauthenticatedError: no such client; judged before the scope.
            InvalidError: another scope.
        """
        client = self.identify(client_id, secret)
        if not set(scope.split()) <= {SCOPE}:
            raise InvalidError(Invalid("scope", f"The only scope is {SCOPE}."))
        return TokenGrant(self._tokens.sign(client), LIFETIME_SECONDS, SCOPE)

    def authenticate(self, token: str) -> Principal:
        """Who presents the token, with the grants that the client has now.

        A client that was disabled, or given other grants, is seen so within `FACTS_SECONDS`.

        Raises:
            UnauthenticatedError: not a valid token of an enabled client.
            ForbiddenError: a valid one without `SCOPE`.
        """
        verified = self._tokens.verify(token)
        return _principal(verified, self._client(verified.client_id))

    def recall(self, token: str) -> Principal | None:
        """As `authenticate`, from memory alone; None if that does not suffice.

        It takes microseconds, so that an event loop may call it; on None call `authenticate`
        in a thread.

        Raises:
            UnauthenticatedError: see `authenticate`.
            ForbiddenError: likewise.
        """
        verified = self._tokens.recall(token)
        facts = None if verified is None else self._fresh(verified.client_id)
        if verified is None or facts is None:
            return None
        return _principal(verified, facts.client)

    def require(self, principal: Principal, grant: Grant) -> None:
        """Lets pass who has the grant.

        Raises:
            ForbiddenError: the client has not; the message names the grant.
        """
        if grant not in principal.grants:
            raise ForbiddenError(f'This client does not hold the grant "{grant}".')

    def charge(self, client_id: str) -> RateState | None:
        """Counts one request of the client; None if there is no limit. See `Limiter`.

        Raises:
            RateLimitedError: the client must wait.
        """
        return None if self._limiter is None else self._limiter.charge(client_id)

    def _fresh(self, client_id: str) -> _Facts | None:
        facts = self._facts.get(client_id)
        if facts is not None and self._timer() - facts.read_at < FACTS_SECONDS:
            return facts
        return None

    def _client(self, client_id: str) -> Client | None:
        facts = self._fresh(client_id)
        if facts is None:
            read_at = self._timer()  # before the read: what changes meanwhile is seen next time
            with self._database.read(None) as scope:
                found = queries.find_client(scope, client_id)
            facts = _Facts(None if found is None else found[0], read_at)
            self._facts.put(client_id, facts)
        return facts.client


def _principal(verified: Verified, client: Client | None) -> Principal:
    if (
        client is None
        or client.disabled_at is not None
        or client.organization_id != verified.organization_id
    ):
        raise UnauthenticatedError("The token's client cannot call any more.", presented=True)
    if SCOPE not in verified.scopes:
        raise ForbiddenError(f'The token does not have the scope "{SCOPE}".')
    return Principal(client.organization_id, client.id, client.grants)


def _organization(scope: Scope, name: str, *, create: bool) -> UUID:
    added = create and queries.add_organization(scope, name)
    organization_id = queries.organization_named(scope, name)
    if organization_id is None:
        mend = "name one that exists, or ask for it to be created (--create-org)"
        raise InvalidError(Invalid("organization", f'There is no organization "{name}"; {mend}.'))
    if added:
        _audit(scope, organization_id, "organization.create", str(organization_id), {})
    return organization_id


def _audit(
    scope: Scope, organization_id: UUID, action: str, subject: str, detail: Mapping[str, Any]
) -> None:
    journal.record(
        queries.bound(scope, organization_id),
        actor="operator",
        action=action,
        subject=subject,
        detail=detail,
    )


def _check_names(organization: str, name: str, grants: Collection[Grant]) -> None:
    faults = [
        Invalid(field, f"Use 1 to {MAX_NAME_CHARACTERS} printable characters.")
        for field, value in (("organization", organization), ("name", name))
        if not (value.strip() and value.isprintable() and len(value) <= MAX_NAME_CHARACTERS)
    ]
    if not grants:
        faults.append(Invalid("grants", f"Give one or more of {', '.join(Grant)}."))
    if faults:
        raise InvalidError(*faults)


def _findable(client_id: str) -> str:
    """The id, or an id that nobody has for text that a database could refuse, such as NUL."""
    return client_id if storable(client_id) else ""
