"""Client ids and secrets, and the keys derived from the operator's secret key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_PREFIX = "earmark_secret_"  # noqa: S105
"""Lets people and secret scanners see what has leaked."""

SECRET_BYTES = 32
"""256 bits cannot be guessed, so a fast keyed hash is enough: argon2 would cost 0.4 s a check."""


def derive(secret_key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose; keys of different purposes tell nothing of each other.

    Source: RFC 5869 section 3.2.
    """
    info = f"earmark {purpose}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret_key)


def new_client_id() -> str:
    """A random id that is easy to read out, of 80 bits: `client-4fzq-…`."""
    text = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(["client", *(text[start : start + 4] for start in range(0, 16, 4))])


class Secrets:
    """Makes client secrets and checks them against what is kept of them."""

    def __init__(self, secret_key: bytes) -> None:
        self._pepper = derive(secret_key, "client secret pepper v1")
        self.nobody = secrets.token_bytes(hashlib.sha256().digest_size)
        """The hash that stands in for an unknown client's: no secret is known for it."""

    def new(self) -> str:
        """A new secret, safe in URLs and forms."""
        return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)

    def hash(self, secret: str) -> bytes:
        """What is kept of a secret: useless without the operator's secret key."""
        return hmac.digest(self._pepper, secret.encode("utf-8", "surrogatepass"), "sha256")

    def matches(self, secret: str, *expected: bytes) -> bool:
        """Whether it is the secret of one of those hashes, in time that does not tell which."""
        sent = self.hash(secret)
        # A list, not a generator: every hash is compared, whichever is the one.
        return any([hmac.compare_digest(sent, one) for one in expected])  # noqa: C419
