"""The keys that sign tokens: made on first need, kept wrapped, published all.

The newest signs. A rotation only has to add a row, and to drop one when no token needs it.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from joserfc.jwk import ECKey

from earmark.access.seal import Seal
from earmark.database import clients as queries
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from earmark.database import Database
    from earmark.database.clients import StoredKey

ALGORITHM = "ES256"
CURVE = "P-256"

REREAD_SECONDS = 3.0
"""How soon a key that another process made is seen; bounds the reads that bad tokens cause."""


class SigningKeys:
    """Every signing key of the database."""

    def __init__(
        self, database: Database, secret_key: bytes, *, timer: Callable[[], float]
    ) -> None:
        self._database = database
        self._seal = Seal(secret_key, "signing key wrap v1")
        self._timer = timer
        self._lock = threading.Lock()
        self._stored: Sequence[StoredKey] = ()
        self._public: Mapping[str, ECKey] = {}
        self._opened: tuple[str, ECKey] | None = None
        self._read_at = -REREAD_SECONDS

    def signer(self) -> tuple[str, ECKey]:
        """The id and the private key that signs now.

        Raises:
            SettingsError: the secret key does not open it.
        """
        newest = self._current()[0]
        opened = self._opened
        if opened is None or opened[0] != newest.id:
            self._opened = opened = (newest.id, self._unwrap(newest))
        return opened

    def verifier(self, kid: str) -> ECKey | None:
        """The public key of that id; None if there is none."""
        known = self._public.get(kid)
        if known is None:
            self._current()
            known = self._public.get(kid)
        return known

    def published(self) -> Sequence[Mapping[str, Any]]:
        """The public JWK of each, the newest first."""
        return [stored.public_jwk for stored in self._current()]

    def _current(self) -> Sequence[StoredKey]:
        """Every key, the newest first, as read at most `REREAD_SECONDS` ago; never empty."""
        with self._lock:
            if not self._stored or self._timer() - self._read_at >= REREAD_SECONDS:
                self._read_at = self._timer()
                self._stored = self._read()
                self._public = {
                    stored.id: ECKey.import_key(dict(stored.public_jwk)) for stored in self._stored
                }
            return self._stored

    def _read(self) -> Sequence[StoredKey]:
        with self._database.read(None) as scope:
            found = queries.signing_keys(scope)
        if found:
            return found
        with self._database.write(None) as scope:
            return queries.ensure_signing_key(scope, self._make)

    def _make(self) -> StoredKey:
        key = ECKey.generate_key(CURVE, parameters={"use": "sig", "alg": ALGORITHM})
        kid = key.thumbprint()
        return queries.StoredKey(
            id=kid,
            public_jwk={**key.as_dict(private=False), "kid": kid},
            wrapped_private_key=self._wrap(kid, key),
            created_at=now(),
        )

    def _wrap(self, kid: str, key: ECKey) -> bytes:
        private = json.dumps(key.as_dict(private=True)).encode()
        return self._seal.close(private, kid.encode())

    def _unwrap(self, stored: StoredKey) -> ECKey:
        private = self._seal.open(stored.wrapped_private_key, stored.id.encode())
        return ECKey.import_key(json.loads(private))
