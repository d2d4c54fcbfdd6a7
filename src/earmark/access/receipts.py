"""Receipts: signed statements that an upload was kept, which anybody can verify offline.

They are signed by a key of their own, which never signs anything else and stays published for
good: keys of tokens come and go, and a receipt must be good for years. It is an Ed25519 key, whose
signatures are deterministic: an interaction has the same receipt each time. To sign takes 40 µs.
"""

from __future__ import annotations

import base64
import hmac
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc.jwk import OKPKey

from earmark.access.seal import Seal
from earmark.access.tokens import once
from earmark.database import receipts as queries
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from earmark.database import Database
    from earmark.model import Accepted

HEADER = "Earmark-Receipt"
MEDIA_TYPE = "application/jwt"
"""Source: RFC 7519 section 10.3.1."""

ALGORITHM = "EdDSA"
"""Source: RFC 8037. RFC 9864 would have it called `Ed25519`, which fewer readers know yet."""

CURVE: Final = "Ed25519"

TYPE = "earmark-receipt+jwt"
"""So no receipt passes as an access token, and no token as a receipt. Source: RFC 8725
section 3.11."""

MAX_CHARACTERS = 16 * 1024
"""The longest have about 3,000: a name of 1,024 bytes, escaped, in base64."""


class ReceiptError(Exception):
    """Something is no receipt of that service; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says.

    Attributes:
        issuer: the public address of the service.
        id: of the interaction.
        sha256: 32 bytes, of the file.
        received_at: to the second.
    """

    issuer: str
    id: UUID
    organization_id: UUID
    file_name: str
    sha256: bytes
    size_bytes: int
    received_at: datetime
    kid: str


@dataclass(frozen=True, slots=True)
class _Signer:
    """The key, and the first part of everything that it signs."""

    key: Ed25519PrivateKey
    head: str


class Receipts:
    """Signs. The key is made when it is first asked for; all processes get the same."""

    def __init__(self, database: Database, secret_key: bytes, *, issuer: str) -> None:
        """Opens nothing yet."""
        self._database = database
        self._seal = Seal(secret_key, "receipt key wrap v1")
        self._issuer = issuer
        self._lock = threading.Lock()
        self._signer: _Signer | None = None
        self._published: Sequence[Mapping[str, Any]] = ()

    @property
    def is_open(self) -> bool:
        """Whether `sign` can be called."""
        return self._signer is not None

    def open(self) -> None:
        """Gets the key ready. Blocks.

        Raises:
            SettingsError: the secret key does not open it.
            UnavailableError: the database cannot serve.
        """
        with self._lock:
            if self._signer is not None:
                return
            stored = self._stored()
            private = self._seal.open(stored.wrapped_private_key, stored.id.encode())
            head = {"alg": ALGORITHM, "typ": TYPE, "kid": stored.id}
            key: Any = OKPKey.import_key(json.loads(private)).private_key
            self._published = [stored.public_jwk]
            self._signer = _Signer(key, _encoded(_json(head)))

    def published(self) -> Sequence[Mapping[str, Any]]:
        """The public JWK. Source: RFC 7517, RFC 8037. Blocks until it is there."""
        self.open()
        return self._published

    def sign(self, accepted: Accepted, organization_id: UUID) -> str:
        """The receipt of an upload; the same one each time. It takes microseconds."""
        if self._signer is None:
            raise RuntimeError("receipts are not open")
        claims = {
            "iss": self._issuer,
            "sub": str(accepted.id),
            "iat": int(accepted.received_at.timestamp()),
            "org": str(organization_id),
            "file_name": accepted.file_name,
            "sha256": accepted.sha256.hex(),
            "size_bytes": accepted.size_bytes,
        }
        signed = f"{self._signer.head}.{_encoded(_json(claims))}"
        return f"{signed}.{_encoded(self._signer.key.sign(signed.encode()))}"

    def _stored(self) -> queries.StoredKey:
        with self._database.read(None) as scope:
            found = queries.key(scope)
        if found is not None:
            return found
        with self._database.write(None) as scope:
            return queries.ensure_key(scope, self._make)

    def _make(self) -> queries.StoredKey:
        key = OKPKey.generate_key(CURVE, parameters={"use": "sig", "alg": ALGORITHM})
        kid = key.thumbprint()
        private = json.dumps(key.as_dict(private=True)).encode()
        return queries.StoredKey(
            id=kid,
            public_jwk={**key.as_dict(private=False), "kid": kid},
            wrapped_private_key=self._seal.close(private, kid.encode()),
            created_at=now(),
        )


def verify(text: str, keys: Mapping[str, Any]) -> Receipt:
    """What a receipt says, once it is sure that it was signed by one of the keys.

    Args:
        text: the compact JWS; white space around it does not matter.
        keys: a JWK set, as the service publishes it.

    Raises:
        ReceiptError: it is none, or was not signed by any of the keys.
    """
    text = text.strip()
    head, signed, signature = _parts(text)
    kid = head.get("kid")
    if not isinstance(kid, str) or head != {"alg": ALGORITHM, "typ": TYPE, "kid": kid}:
        raise ReceiptError("This is no receipt of Earmark: its header is that of something else.")
    key = _public_key(keys, kid)
    try:
        key.verify(signature, signed.encode())
    except InvalidSignature:
        raise ReceiptError("The signature does not fit: something was changed.") from None
    return _read(_object(signed.partition(".")[2]), kid)


def same_file(receipt: Receipt, sha256: bytes) -> bool:
    """Whether the receipt is of a file with that SHA-256."""
    return hmac.compare_digest(receipt.sha256, sha256)


def _parts(text: str) -> tuple[Mapping[str, Any], str, bytes]:
    parts = text.split(".")
    if len(text) > MAX_CHARACTERS or len(parts) != 3:  # noqa: PLR2004 - a compact JWS
        raise ReceiptError("This is no receipt: one has three parts with full stops between them.")
    return _object(parts[0]), f"{parts[0]}.{parts[1]}", _decoded(parts[2])


def _public_key(keys: Mapping[str, Any], kid: str) -> Ed25519PublicKey:
    listed = keys.get("keys")
    for jwk in listed if isinstance(listed, list) else ():
        if isinstance(jwk, dict) and jwk.get("kid") == kid and jwk.get("crv") == CURVE:
            try:
                return Ed25519PublicKey.from_public_bytes(_decoded(str(jwk.get("x"))))
            except ValueError:
                raise ReceiptError("The key that signed it is malformed in the key set.") from None
    raise ReceiptError(f"It was signed by the key {kid!a}, which is none of those given.")


def _read(claims: Mapping[str, Any], kid: str) -> Receipt:
    try:
        return Receipt(
            issuer=str(claims["iss"]),
            id=UUID(claims["sub"]),
            organization_id=UUID(claims["org"]),
            file_name=str(claims["file_name"]),
            sha256=bytes.fromhex(claims["sha256"]),
            size_bytes=int(claims["size_bytes"]),
            received_at=datetime.fromtimestamp(int(claims["iat"]), UTC),
            kid=kid,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError):
        raise ReceiptError("It was signed, but by another version: a value is missing.") from None


def _object(encoded: str) -> Mapping[str, Any]:
    try:
        value = json.loads(_decoded(encoded), object_pairs_hook=once)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ReceiptError("This is no receipt: a part of it is no JSON object.")
    return value


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(encoded: str) -> bytes:
    try:
        padding = "=" * (-len(encoded) % 4)
        return base64.b64decode(encoded + padding, altchars="-_", validate=True)
    except ValueError:
        raise ReceiptError("This is no receipt: a part of it is no base64url.") from None
