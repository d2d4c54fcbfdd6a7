"""Access tokens: signed JWTs of RFC 9068, and a memory of those already verified."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError

from earmark.access.cache import Cache
from earmark.access.keys import ALGORITHM, LIFETIME_SECONDS
from earmark.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from joserfc.jwk import ECKey

    from earmark.access.keys import SigningKeys
    from earmark.model import Client

SCOPE = "acxapi"
"""The one scope of the contract."""

TYPE = "at+jwt"
"""No other JWT of the same keys passes as an access token. Source: RFC 9068 section 2.1."""

CLOCK_SKEW_SECONDS = 60
"""How far ahead the clock of another process, which issued the token, may be."""

MAX_CHARACTERS = 8192
"""Ours have about 700; what is longer is not even hashed."""

MAX_HEADER_CHARACTERS = 512
"""Ours have about 110. JSON this short cannot nest past Python's recursion limit."""

CACHED_TOKENS = 10_000
"""Verified tokens remembered at once, about 1 KiB each."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a valid token says.

    Attributes:
        kid: the key that signed it.
        issued_at: seconds since 1970.
        expires_at: likewise.
    """

    kid: str
    client_id: str
    organization_id: UUID
    scopes: frozenset[str]
    issued_at: int
    expires_at: int


class Tokens:
    """Signs and verifies. The raw token is kept nowhere: the cache knows its SHA-256."""

    def __init__(self, keys: SigningKeys, *, issuer: str, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._issuer = issuer
        self._clock = clock
        self._verified: Cache[bytes, Verified] = Cache(CACHED_TOKENS)

    def sign(self, client: Client) -> str:
        """A token for the client. Source: RFC 9068 section 2.2."""
        kid, key = self._keys.signer()
        issued_at = max(int(self._clock()), earliest_issue(client))
        claims = {
            "iss": self._issuer,
            "aud": self._issuer,
            "sub": client.id,
            "client_id": client.id,
            "org": str(client.organization_id),
            "scope": SCOPE,
            "iat": issued_at,
            "exp": issued_at + LIFETIME_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": kid}
        return jwt.encode(header, claims, key, algorithms=[ALGORITHM])

    def recall(self, token: str) -> Verified | None:
        """What a token says that was verified before, if it and its key still hold; else None."""
        if len(token) > MAX_CHARACTERS:
            return None
        digest = _digest(token)
        known = self._verified.get(digest)
        if known is None:
            return None
        if known.expires_at <= self._clock() or self._keys.remembered(known.kid) is None:
            self._verified.forget(digest)
            return None
        return known

    def verify(self, token: str) -> Verified:
        """What a token says.

        Raises:
            UnauthenticatedError: not a valid access token of ours. The message says no more than
                that or its expiry.
        """
        if len(token) > MAX_CHARACTERS:
            raise _invalid()
        kid = _kid(token)
        key = self._keys.verifier(kid)  # before memory is asked: it may be one that was revoked
        if key is None:
            raise _invalid()
        known = self.recall(token)
        if known is None:
            known = self._read(kid, self._claims(token, key))
            self._verified.put(_digest(token), known)
        return known

    def _claims(self, token: str, key: ECKey) -> Mapping[str, Any]:
        """The claims of a token that the key signed."""
        try:
            return jwt.decode(token, key, algorithms=[ALGORITHM]).claims
        except (JoseError, ValueError):
            raise _invalid() from None

    def _read(self, kid: str, claims: Mapping[str, Any]) -> Verified:
        if claims.get("iss") != self._issuer or claims.get("aud") != self._issuer:
            raise _invalid()
        issued_at, expires_at = claims.get("iat"), claims.get("exp")
        if not isinstance(issued_at, int) or not isinstance(expires_at, int):
            raise _invalid()
        if issued_at > self._clock() + CLOCK_SKEW_SECONDS:
            raise _invalid()
        if expires_at <= self._clock():
            raise UnauthenticatedError("The access token has expired.", presented=True)
        try:
            return Verified(
                kid=kid,
                client_id=str(claims["client_id"]),
                organization_id=UUID(str(claims["org"])),
                scopes=frozenset(str(claims["scope"]).split()),
                issued_at=issued_at,
                expires_at=expires_at,
            )
        except (KeyError, ValueError):
            raise _invalid() from None


def _kid(token: str) -> str:
    """The key id of something that says it is an access token of ours.

    Reading the header before any library does keeps hostile ones from it: no other algorithm,
    type or parameter gets further.
    """
    header, dot, _ = token.partition(".")
    if not dot or len(header) > MAX_HEADER_CHARACTERS:
        raise _invalid()
    try:
        padding = "=" * (-len(header) % 4)
        fields = json.loads(base64.urlsafe_b64decode(header + padding), object_pairs_hook=once)
    except ValueError:
        raise _invalid() from None
    kid = fields.get("kid") if isinstance(fields, dict) else None
    if not isinstance(kid, str) or fields != {"alg": ALGORITHM, "typ": TYPE, "kid": kid}:
        raise _invalid()
    return kid


def earliest_issue(client: Client) -> int:
    """The first second in which a token of the client may be issued, since 1970.

    Tokens count whole seconds. One that is issued in the very second in which earlier ones were
    ended is dated into the next, which `CLOCK_SKEW_SECONDS` allows.
    """
    return 0 if client.tokens_after is None else int(client.tokens_after.timestamp()) + 1


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that names nothing twice: readers differ about which of two counts."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name comes twice")
    return fields


def _invalid() -> UnauthenticatedError:
    return UnauthenticatedError("The access token is not valid.", presented=True)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
