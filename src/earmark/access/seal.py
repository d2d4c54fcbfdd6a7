"""Secrets that the database keeps: sealed with a key that it does not have."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from earmark.access.credentials import derive
from earmark.errors import SettingsError

NONCE_BYTES = 12
"""Random, as AES-GCM recommends; one key seals far fewer than 2^32. Source: NIST SP 800-38D."""


class Seal:
    """Seals and opens what serves one purpose."""

    def __init__(self, secret_key: bytes, purpose: str) -> None:
        """Derives the key of this purpose from the operator's secret key."""
        self._cipher = AESGCM(derive(secret_key, purpose))

    def close(self, content: bytes, owner: bytes) -> bytes:
        """What may be kept in the place of the content; of use to this owner alone."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, owner)

    def open(self, sealed: bytes, owner: bytes) -> bytes:
        """The content.

        Raises:
            SettingsError: the secret key is another one, or it was not sealed for this owner.
        """
        nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, content, owner)
        except InvalidTag:
            raise SettingsError(
                "EARMARK_SECRET_KEY is not the one that this database was first used with; "
                "set that one again."
            ) from None
