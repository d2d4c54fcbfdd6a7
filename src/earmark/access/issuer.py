"""Access tokens that another issuer signed, such as an organization's own identity provider.

Its keys are found by OpenID Connect Discovery and kept, so that an outage of the issuer shuts out
nobody who has a token. Who the tokens' clients are here, their organization and grants, is ours to
say: each is bound to an Earmark client by its external id.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from earmark import egress
from earmark.access.cache import Cache
from earmark.access.tokens import once
from earmark.errors import UnauthenticatedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Key = RSAKey | ECKey

PATH = "/.well-known/openid-configuration"

ALGORITHMS: Mapping[str, str] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
}
"""What a token may be signed with → the type of its key. Nothing symmetric: keys are public."""

_KEYS: Mapping[str, type[Key]] = {"RSA": RSAKey, "EC": ECKey}

TYPES = (None, "JWT", "at+jwt", "application/at+jwt")
"""Of RFC 9068, and what issuers from before it write."""

FRESH_SECONDS = 300.0
"""How soon a key that the issuer withdrew stops to count, while the issuer can be reached."""

AGAIN_SECONDS = 10.0
"""Between looks for a key that is not known: tokens with invented ones cause no more requests."""

OUTAGE_SECONDS = 86_400.0
"""How long keys count that cannot be asked for any more."""

READ_SECONDS = 5.0

FIRST_SECONDS = 2.0
"""How long others wait for the first look, before anything is known."""

CLOCK_SKEW_SECONDS = 60
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_CHARACTERS = 8192
CACHED_TOKENS = 10_000

log = structlog.get_logger("earmark.issuer")


@dataclass(frozen=True, slots=True)
class External:
    """What a valid token of the other issuer says.

    Attributes:
        external_id: what the issuer calls the client.
        issued_at: seconds since 1970.
        expires_at: likewise.
        kid: the key that signed it.
    """

    external_id: str
    issued_at: float
    expires_at: float
    kid: str


@dataclass(frozen=True, slots=True)
class _Keys:
    """The issuer's keys by id, and when they were read, by the timer."""

    keys: Mapping[str, Key]
    read_at: float


class Issuer:
    """One other issuer. Safe among threads."""

    def __init__(
        self,
        issuer: str,
        *,
        audience: str,
        claim: str,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        """Asks nobody yet.

        Args:
            issuer: its `iss`, as it writes it itself; its documents are under this address.
            audience: what `aud` must be or hold.
            claim: in which the client stands.
            clock: seconds since 1970.
            timer: seconds that never run backwards.
        """
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        self._clock = clock
        self._timer = timer
        self._known = _Keys({}, -math.inf)
        self._tried_at = -math.inf
        self._lock = threading.Lock()
        self._verified: Cache[bytes, External] = Cache(CACHED_TOKENS)

    def claims(self, token: str) -> bool:
        """Whether the token says that it is of this issuer; nothing is verified here."""
        if len(token) > MAX_CHARACTERS:
            return False
        try:
            return bool(_part(token, 1).get("iss") == self._issuer)
        except ValueError:
            return False

    def recall(self, token: str) -> External | None:
        """What a token says that was verified before, if it and its key still hold; else None."""
        known = self._verified.get(_digest(token)) if len(token) <= MAX_CHARACTERS else None
        if known is None or known.expires_at <= self._clock():
            return None
        if self._is_stale() or self._is_too_old():
            return None
        return known if known.kid in self._known.keys else None

    def verify(self, token: str) -> External:
        """What a token says. May ask the issuer for its keys.

        Raises:
            UnauthenticatedError: not a valid token of this issuer for this service.
            UnavailableError: its keys were never read, or not for `OUTAGE_SECONDS`.
        """
        try:
            header = _part(token, 0)
        except ValueError:
            raise _invalid() from None
        kid, key = self._key(header)
        try:
            claims = jwt.decode(token, key, algorithms=[str(header["alg"])]).claims
        except (JoseError, ValueError):
            raise _invalid() from None
        verified = self._read(claims, kid)
        self._verified.put(_digest(token), verified)
        return verified

    def _key(self, header: Mapping[str, Any]) -> tuple[str, Key]:
        algorithm, kid, kind = header.get("alg"), header.get("kid", ""), header.get("typ")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or "crit" in header:
            raise _invalid()
        if kind not in TYPES or not isinstance(kid, str):
            raise _invalid()
        keys = self._current(kid)
        if not kid and len(keys) == 1:  # an issuer with one key need not name it
            (kid,) = keys
        key = keys.get(kid)
        if key is None or key.key_type != ALGORITHMS[algorithm]:
            raise _invalid()
        return kid, key

    def _read(self, claims: Mapping[str, Any], kid: str) -> External:
        audience, moment = claims.get("aud"), self._clock()
        if claims.get("iss") != self._issuer:
            raise _invalid()
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise _invalid()
        issued_at, expires_at = _number(claims.get("iat")), _number(claims.get("exp"))
        begins_at = _number(claims.get("nbf", issued_at))
        if max(issued_at, begins_at) > moment + CLOCK_SKEW_SECONDS:
            raise _invalid()
        if expires_at <= moment:
            raise UnauthenticatedError("The access token has expired.", presented=True)
        external_id = claims.get(self._claim)
        if not isinstance(external_id, str) or not external_id:
            raise _invalid()
        return External(external_id, issued_at, expires_at, kid)

    def _current(self, kid: str) -> Mapping[str, Key]:
        """The keys, asked for anew if they are old or this one is not among them.

        One thread asks; the others go on with what is known, unless nothing is.
        """
        known = self._known
        if not self._is_stale() and (kid in known.keys or not kid):
            return known.keys
        if self._lock.acquire(timeout=0 if known.keys else FIRST_SECONDS):
            try:
                if self._timer() - self._tried_at >= AGAIN_SECONDS:
                    self._tried_at = self._timer()
                    self._ask()
            finally:
                self._lock.release()
        if self._is_too_old():
            raise UnavailableError("the issuer of this token cannot be asked for its keys")
        return self._known.keys

    def _is_stale(self) -> bool:
        """Whether the keys should be asked for anew, and have not just been."""
        now = self._timer()
        return now - self._known.read_at >= FRESH_SECONDS and now - self._tried_at >= AGAIN_SECONDS

    def _is_too_old(self) -> bool:
        return self._timer() - self._known.read_at > OUTAGE_SECONDS

    def _ask(self) -> None:
        """Reads the keys; an issuer that cannot be reached leaves those that are known."""
        try:
            with egress.open_client(read_seconds=READ_SECONDS) as http:
                found = _document(http, self._issuer.rstrip("/") + PATH)
                keys = _keys(_document(http, self._key_address(found)))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, JoseError) as error:
            log.warning("issuer not reached", issuer=self._issuer, error=str(error))
            return
        self._known = _Keys(keys, self._timer())

    def _key_address(self, found: Mapping[str, Any]) -> str:
        """Where the keys are; never less safe than the issuer's own address."""
        if found.get("issuer") != self._issuer:
            raise ValueError("its document names another issuer")
        address = str(found.get("jwks_uri"))
        scheme = urlsplit(address).scheme
        if scheme != "https" and scheme != urlsplit(self._issuer).scheme:
            raise ValueError("its keys are at no safe address")
        return address


def _document(http: httpx.Client, address: str) -> Mapping[str, Any]:
    """A JSON object of bounded size."""
    body = bytearray()
    with http.stream("GET", address) as answer:
        if answer.status_code != httpx.codes.OK:
            raise ValueError(f"it answered {answer.status_code}")
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise ValueError("its document is too long")
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("its document is no object")  # noqa: TRY004 - what was sent is wrong
    return document


def _keys(document: Mapping[str, Any]) -> dict[str, Key]:
    """The keys that may verify signatures, by id; of other kinds none."""
    listed = document.get("keys")
    found = {}
    for jwk in listed if isinstance(listed, list) else []:
        if isinstance(jwk, dict) and (key := _usable(jwk)) is not None:
            found[str(jwk.get("kid", ""))] = key
    if not found:
        raise ValueError("it has no usable key")
    return found


def _usable(jwk: dict[str, Any]) -> Key | None:
    kind = _KEYS.get(str(jwk.get("kty")))
    if kind is None or jwk.get("use", "sig") != "sig":
        return None
    try:
        return kind.import_key(jwk)
    except (JoseError, ValueError, KeyError, TypeError):
        return None  # one that is damaged does not shut out the others


def _part(token: str, index: int) -> Mapping[str, Any]:
    """The header (0) or the claims (1), not verified. Raises ValueError."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - RFC 7515 section 3.1
        raise ValueError("no token")
    try:
        text = base64.urlsafe_b64decode(parts[index] + "=" * (-len(parts[index]) % 4))
        fields = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(fields, dict):
        raise ValueError("no object")  # noqa: TRY004 - what was sent is wrong
    return fields


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid()
    return float(value)


def _invalid() -> UnauthenticatedError:
    return UnauthenticatedError("The access token is not valid.", presented=True)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
