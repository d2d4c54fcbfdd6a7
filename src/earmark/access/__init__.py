"""Who may call, and what for: organizations, API clients, grants, tokens, rate limits.

No HTTP and no SQL live here. A caller is known by an access token, which `Access.grant_token`
gives for a client's secret and `Access.authenticate` turns into a Principal.
"""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from earmark.access.cache import Cache
from earmark.access.credentials import Secrets, new_client_id
from earmark.access.issuer import External, Issuer
from earmark.access.keys import LIFETIME_SECONDS, PUBLISH_SECONDS, KeyFacts, KeyState, SigningKeys
from earmark.access.lockout import Keys, Lockout
from earmark.access.quotas import Quotas
from earmark.access.rate import Limiter, Rate, RateState, parse_rate
from earmark.access.receipts import Receipts
from earmark.access.revision import POLL_SECONDS, Revision
from earmark.access.tokens import SCOPE, Tokens, Verified, earliest_issue
from earmark.database import clients as queries
from earmark.database import journal
from earmark.database.rates import Rates
from earmark.database.reservations import Reservations
from earmark.errors import (
    ForbiddenError,
    Invalid,
    InvalidError,
    UnauthenticatedError,
)
from earmark.model import (
    DEFAULT_GRANTS,
    Client,
    Grant,
    Organization,
    Principal,
    Quota,
    Usage,
    now,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from uuid import UUID

    from earmark.database import Database, Scope

__all__ = [
    "LIFETIME_SECONDS",
    "POLL_SECONDS",
    "PUBLISH_SECONDS",
    "SCOPE",
    "Access",
    "KeyFacts",
    "KeyState",
    "NewClient",
    "Oidc",
    "Rate",
    "RateState",
    "TokenGrant",
    "parse_rate",
]

CACHED_CLIENTS = 10_000
"""Clients remembered at once, about 1 KiB each."""

MAX_NAME_CHARACTERS = 200
"""Names of organizations and clients: they are read by people, in lists."""

MAX_QUOTA = Quota(1 << 60, 1_000_000, 1_000_000)
"""The most that a quota says; more could not be told from no limit."""

FORGET_RATES_SECONDS = 86_400.0
"""When a bucket that nobody has touched is removed; by then all but the strangest are empty."""


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client just made, or with a new secret, which can never be read again."""

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
class Oidc:
    """Another issuer of access tokens.

    Attributes:
        issuer: its `iss`; its documents are found under this address.
        audience: what `aud` must hold; "" means our own issuer.
        claim: in which a token's client stands.
    """

    issuer: str
    audience: str = ""
    claim: str = "client_id"


_UNLIMITED = Quota()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the database said of a client at a revision."""

    client: Client | None
    revision: int


class Access:
    """Clients and their tokens. Safe to call from many threads.

    Only `recall`, `require` and `recall_rate` never wait for the database.
    """

    def __init__(
        self,
        database: Database,
        *,
        secret_key: bytes,
        issuer: str,
        rate_limit: Rate | None = None,
        token_rate_limit: Rate | None = None,
        quota: Quota = _UNLIMITED,
        oidc: Oidc | None = None,
        clock: Callable[[], float] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet.

        Args:
            database: where organizations, clients and signing keys are.
            secret_key: what the pepper of client secrets and the key that wraps signing keys
                are derived from; the same in every process.
            issuer: the public base URL; `iss` and `aud` of every token.
            rate_limit: of one client; None limits nobody.
            token_rate_limit: of the token requests of one address, and of those of one client;
                None limits nobody.
            quota: of each organization of which nothing else is said.
            oidc: another issuer whose tokens count too; None if there is none.
            clock: seconds since 1970, for the times in tokens; None means this machine's, and
                for rates the one that all machines share.
            timer: seconds that never run backwards, for freshness and leases.
        """
        self.issuer = issuer.rstrip("/")
        self.rate_limit = rate_limit
        self._database = database
        self._clock = clock or time.time
        self._secrets = Secrets(secret_key)
        self._revision = Revision(database, timer=timer)
        self._keys = SigningKeys(database, secret_key, revision=self._revision, clock=self._clock)
        self.receipts = Receipts(database, secret_key, issuer=self.issuer)
        self._tokens = Tokens(self._keys, issuer=self.issuer, clock=self._clock)
        self._facts: Cache[tuple[str, bool], _Facts] = Cache(CACHED_CLIENTS)
        self._rates = Rates(database, clock=clock)
        buckets = Keys(secret_key)
        self._lockout = Lockout(self._rates, buckets, token_rate=token_rate_limit)
        self._external: Issuer | None = None
        if oidc is not None:
            self._external = Issuer(
                oidc.issuer,
                audience=oidc.audience or self.issuer,
                claim=oidc.claim,
                clock=self._clock,
                timer=timer,
            )
        self._limiter: Limiter | None = None
        if rate_limit is not None:
            key = functools.partial(buckets, "client")
            self._limiter = Limiter(rate_limit, self._rates, key=key, timer=timer)
        uploads = functools.partial(buckets, "uploads")
        self.quotas = Quotas(
            database,
            quota,
            revision=self._revision,
            limiter=lambda rate: Limiter(rate, self._rates, key=uploads, timer=timer),
        )

    def create_client(
        self,
        *,
        organization: str,
        create_organization: bool,
        name: str,
        grants: Collection[Grant] = DEFAULT_GRANTS,
        external_id: str | None = None,
    ) -> NewClient:
        """Adds an API client to the organization of that name; its secret is shown only here.

        Args:
            organization: its name.
            create_organization: whether to make one of that name if there is none.
            name: a label, to tell clients apart.
            grants: what it may do.
            external_id: what another issuer of tokens calls it; no two have the same.

        Raises:
            InvalidError: no such organization, and it was not to be created; a name that is
                empty, too long or not printable; no grant.
            SettingsError: the secret key is not the one that this database was used with. A
                client made with it could never sign in.
        """
        _check_names(organization, name, grants, external_id)
        self.check()
        secret = self._secrets.new()
        with self._database.write(None) as scope:
            organization_id = _organization(scope, organization, create=create_organization)
            if external_id is not None and queries.find_external(scope, external_id) is not None:
                raise InvalidError(Invalid("external_id", "Another client has it already."))
            client = Client(
                id=new_client_id(),
                organization_id=organization_id,
                organization_name=organization,
                name=name,
                grants=frozenset(grants),
                created_at=now(),
                external_id=external_id,
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

    def set_quota(self, organization: str, **changes: int | None) -> Quota:
        """Says what an organization may use, and returns all that is said of it then.

        Args:
            organization: its name.
            changes: fields of Quota with their new values.

        Raises:
            InvalidError: no such organization, or a value that is negative or too large.
        """
        _check_quota(changes)
        with self._database.write(None) as scope:
            organization_id = _organization(scope, organization, create=False)
            scope.serialise("quota", str(organization_id))
            before = queries.quota(scope, organization_id)
            quota = replace(before, **changes)
            if quota != before:
                queries.set_quota(scope, organization_id, quota)
                detail = {f"quota_{name}": value for name, value in changes.items()}
                _audit(scope, organization_id, "organization.set", str(organization_id), detail)
        self._revision.forget()
        return quota

    def usage(self, organization_id: UUID) -> Usage:
        """What an organization stores, and what it has on its way."""
        return Reservations(self._database).usage(organization_id)

    def clients(self) -> Sequence[Client]:
        """Every client, by the name of its organization and then by age."""
        with self._database.read(None) as scope:
            return queries.all_clients(scope)

    def rotate_secret(self, client_id: str, *, keep_seconds: float | None = None) -> NewClient:
        """Gives a client a new secret; the one it has counts beside it for a while.

        Args:
            client_id: whose.
            keep_seconds: when the old one ends by itself. None: not before `finish_rotation`.
                0: at once, with every token of the client: for a secret that has leaked.

        Raises:
            InvalidError: no such client, or a rotation is under way: its third secret would
                silently end one that may be in use.
        """
        self.check()
        secret, moment = self._secrets.new(), self._now()
        with self._database.write(None) as scope:
            client, secrets = self._demand_client(scope, client_id)
            if keep_seconds != 0 and self._previous(client, secrets) is not None:
                mend = (
                    "A rotation is under way; finish it first: `earmark client rotate --finish`."
                )
                raise InvalidError(Invalid("client_id", mend))
            values: dict[str, Any] = {
                "previous_secret_hash": None if keep_seconds == 0 else secrets.current,
                "previous_secret_until": moment + timedelta(seconds=keep_seconds)
                if keep_seconds
                else None,
                "secret_hash": self._secrets.hash(secret),
            }
            if keep_seconds == 0:
                values["tokens_after"] = moment
            self._change(scope, client, "client.rotate", values, keep_seconds=keep_seconds)
        return NewClient(client, secret)

    def finish_rotation(self, client_id: str) -> None:
        """Ends the old secret of a client; tokens that it gave live on until they expire.

        Raises:
            InvalidError: no such client, or no rotation is under way.
        """
        with self._database.write(None) as scope:
            client, secrets = self._demand_client(scope, client_id)
            if self._previous(client, secrets) is None:
                raise InvalidError(Invalid("client_id", "No rotation is under way."))
            ended = {"previous_secret_hash": None, "previous_secret_until": None}
            self._change(scope, client, "client.rotate_finish", ended)

    def disable_client(self, client_id: str) -> None:
        """Shuts a client out: within `POLL_SECONDS` every process refuses its secrets and tokens.

        Raises:
            InvalidError: no such client.
        """
        moment = self._now()
        with self._database.write(None) as scope:
            client, _ = self._demand_client(scope, client_id)
            if client.disabled_at is None:
                ended = {"disabled_at": moment, "tokens_after": moment}
                self._change(scope, client, "client.disable", ended)

    def enable_client(self, client_id: str) -> None:
        """Lets a client in again, by its secret; tokens from before stay ended.

        Raises:
            InvalidError: no such client.
        """
        with self._database.write(None) as scope:
            client, _ = self._demand_client(scope, client_id)
            if client.disabled_at is not None:
                self._change(scope, client, "client.enable", {"disabled_at": None})

    def signing_keys(self) -> list[KeyFacts]:
        """Every signing key with its state, that which signs last first."""
        return self._keys.listed()

    def rotate_key(
        self, *, publish_seconds: float = PUBLISH_SECONDS, actor: str = "operator"
    ) -> KeyFacts:
        """Makes the next signing key, which is published at once and signs after as long.

        Raises:
            InvalidError: another one waits already, or the time is too short.
        """
        self.check()
        with self._database.write(None) as scope:
            made = self._keys.rotate(scope, publish_seconds=publish_seconds)
            journal.record(scope, actor=actor, action="key.rotate", subject=made.id)
        self._revision.forget()
        return made

    def revoke_key(self, kid: str) -> None:
        """Ends a signing key that leaked: its tokens are refused, and clients get new ones.

        Raises:
            InvalidError: there is none of that id.
        """
        with self._database.write(None) as scope:
            self._keys.revoke(scope, kid)
            journal.record(scope, actor="operator", action="key.revoke", subject=kid)
        self._revision.forget()

    def tidy(self, *, key_age_seconds: float) -> None:
        """What is to be done now and then: a worker calls it.

        Args:
            key_age_seconds: after which a signing key gets its successor; 0 means never.
        """
        self._rates.forget(older_than_seconds=FORGET_RATES_SECONDS)
        states = {key.state for key in self._keys.listed()}
        due = key_age_seconds > 0 and self._keys.is_due(max_age_seconds=key_age_seconds)
        if due and KeyState.NEXT not in states:
            try:
                self.rotate_key(actor="worker")
            except InvalidError:
                return  # another worker was first

    def check(self) -> None:
        """Sees to it that tokens can be signed; makes the first signing key.

        Raises:
            SettingsError: the secret key is not the one that this database was used with.
        """
        self._keys.signer()

    def published_keys(self) -> Sequence[Mapping[str, Any]]:
        """The public JWK of every key that signs tokens or receipts. Source: RFC 7517."""
        return [*self._keys.published(), *self.receipts.published()]

    def identify(self, client_id: str, secret: str, *, address: str = "") -> Client:
        """The client that knows the secret.

        Unknown, disabled and wrongly authenticated clients cost the same work, so that the time
        taken does not tell which ids exist.

        Args:
            client_id: as given to the client.
            secret: likewise.
            address: from which it is tried; see `lockout`.

        Raises:
            UnauthenticatedError: there is none.
            RateLimitedError: too many were tried from that address, or too many wrong ones.
        """
        self._lockout.admit(client_id, address)
        with self._database.read(None) as scope:
            found = queries.find_client(scope, _findable(client_id))
        client = found[0] if found else None
        matches = self._secrets.matches(secret, *self._expected(found))
        if client is None or not matches or client.disabled_at is not None:
            self._lockout.failed(client_id, address)
            raise UnauthenticatedError("Unknown client or wrong secret.", presented=True)
        return client

    def grant_token(
        self, client_id: str, secret: str, scope: str = "", *, address: str = ""
    ) -> TokenGrant:
        """An access token for the client that knows the secret.

        Args:
            client_id: as given to the client.
            secret: likewise.
            scope: names separated by spaces; empty means `SCOPE`, the only one there is.
            address: from which it is asked for.

        Raises:
            UnauthenticatedError: no such client; judged before the scope.
            InvalidError: another scope.
            RateLimitedError: see `identify`; or the client asks for too many.
        """
        client = self.identify(client_id, secret, address=address)
        if not set(scope.split()) <= {SCOPE}:
            raise InvalidError(Invalid("scope", f"The only scope is {SCOPE}."))
        self._lockout.granted(client.id)
        return TokenGrant(self._tokens.sign(client), LIFETIME_SECONDS, SCOPE)

    def authenticate(self, token: str) -> Principal:
        """Who presents the token, with the grants that the client has now.

        A client that was disabled, or given other grants, is seen so within `POLL_SECONDS`.

        Raises:
            UnauthenticatedError: not a valid token of an enabled client.
            ForbiddenError: a valid one of ours without `SCOPE`.
            UnavailableError: the database or another issuer cannot be asked.
        """
        if self._external is not None and self._external.claims(token):
            external = self._external.verify(token)
            return _external_principal(external, self._client(external.external_id, external=True))
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
        revision = self._revision.recent()
        external = self._external and self._external.recall(token)
        if revision is not None and external:
            facts = self._facts.get((external.external_id, True))
            if facts is None or facts.revision != revision:
                return None
            return _external_principal(external, facts.client)
        if revision is None or self._keys.revision != revision:
            return None
        verified = self._tokens.recall(token)
        facts = None if verified is None else self._facts.get((verified.client_id, False))
        if verified is None or facts is None or facts.revision != revision:
            return None
        return _principal(verified, facts.client)

    def require(self, principal: Principal, grant: Grant) -> None:
        """Lets pass who has the grant.

        Raises:
            ForbiddenError: the client has not; the message names the grant.
        """
        if grant not in principal.grants:
            raise ForbiddenError(f'This client does not hold the grant "{grant}".')

    def recall_rate(self, client_id: str) -> RateState | None:
        """Counts one request of the client from memory; None if that does not suffice.

        Raises:
            RateLimitedError: the client must wait.
        """
        return None if self._limiter is None else self._limiter.recall(client_id)

    def charge(self, client_id: str) -> RateState | None:
        """Counts one request of the client; None if there is no limit. See `Limiter`.

        Raises:
            RateLimitedError: the client must wait.
            UnavailableError: the database cannot serve.
        """
        return None if self._limiter is None else self._limiter.charge(client_id)

    def _client(self, client_id: str, *, external: bool = False) -> Client | None:
        """The client of that id, ours or the other issuer's, as it is now."""
        revision = self._revision.current()
        facts = self._facts.get((client_id, external))
        if facts is None or facts.revision != revision:
            with self._database.read(None) as scope:
                if external:
                    client = queries.find_external(scope, _findable(client_id))
                else:
                    found = queries.find_client(scope, client_id)
                    client = found[0] if found else None
            facts = _Facts(client, revision)
            self._facts.put((client_id, external), facts)
        return facts.client

    def _expected(self, found: tuple[Client, queries.StoredSecrets] | None) -> tuple[bytes, bytes]:
        """Two hashes to compare with, for any client; nobody's where there is none."""
        if found is None:
            return self._secrets.nobody, self._secrets.nobody
        client, secrets = found
        return secrets.current, self._previous(client, secrets) or self._secrets.nobody

    def _previous(self, client: Client, secrets: queries.StoredSecrets) -> bytes | None:
        """The hash of the old secret, while it counts."""
        until = client.previous_secret_until
        return secrets.previous if until is None or self._now() < until else None

    def _demand_client(self, scope: Scope, client_id: str) -> tuple[Client, queries.StoredSecrets]:
        scope.serialise("client", client_id)
        found = queries.find_client(scope, _findable(client_id))
        if found is None:
            raise InvalidError(Invalid("client_id", f'There is no client "{client_id}".'))
        return found

    def _change(
        self,
        scope: Scope,
        client: Client,
        action: str,
        values: Mapping[str, Any],
        **detail: float | None,
    ) -> None:
        queries.change_client(scope, client.id, **values)
        _audit(scope, client.organization_id, action, client.id, detail)
        self._revision.forget()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _external_principal(external: External, client: Client | None) -> Principal:
    """The scopes of another issuer are its own affair; what a client may do is said by us."""
    if (
        client is None
        or client.disabled_at is not None
        or external.issued_at < earliest_issue(client)
    ):
        raise UnauthenticatedError("The token's client cannot call here.", presented=True)
    return Principal(client.organization_id, client.id, client.grants)


def _principal(verified: Verified, client: Client | None) -> Principal:
    if (
        client is None
        or client.disabled_at is not None
        or client.organization_id != verified.organization_id
        or verified.issued_at < earliest_issue(client)
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


def _check_quota(changes: Mapping[str, int | None]) -> None:
    most = asdict(MAX_QUOTA)
    faults = [
        Invalid(name, f"Use a whole number up to {most[name]:,}; 0 is no limit.")
        for name, value in changes.items()
        if value is not None and not 0 <= value <= most[name]
    ]
    if faults:
        raise InvalidError(*faults)


_READABLE = f"Use 1 to {MAX_NAME_CHARACTERS} printable characters."


def _readable(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and len(text) <= MAX_NAME_CHARACTERS


def _check_names(
    organization: str, name: str, grants: Collection[Grant], external_id: str | None
) -> None:
    faults = [
        Invalid(field, _READABLE)
        for field, value in (("organization", organization), ("name", name))
        if not _readable(value)
    ]
    if external_id is not None and not _readable(external_id):
        faults.append(Invalid("external_id", _READABLE))
    if not grants:
        faults.append(Invalid("grants", f"Give one or more of {', '.join(Grant)}."))
    if faults:
        raise InvalidError(*faults)


def _findable(client_id: str) -> str:
    """The id, or an id that nobody has for text that a database could refuse, such as NUL."""
    return client_id if storable(client_id) else ""
