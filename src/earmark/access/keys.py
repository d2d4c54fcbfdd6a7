"""The keys that sign tokens: one signs, the next is published before it does, old ones verify.

What a key is for follows from its row and the time alone, so that every process sees the same and
nobody has to do anything at the moment of change.
"""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from joserfc.jwk import ECKey

from earmark.access.seal import Seal
from earmark.database import clients as queries
from earmark.errors import Invalid, InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from earmark.access.revision import Revision
    from earmark.database import Database, Scope
    from earmark.database.clients import StoredKey

ALGORITHM = "ES256"
CURVE = "P-256"

LIFETIME_SECONDS = 3600
"""The `expires_in` of the contract."""

PUBLISH_SECONDS = 600
"""How long a key is published before it signs: twice as long as others may keep the key set
(`Cache-Control` of the JWKS address)."""

LEAST_PUBLISH_SECONDS = 2
"""Our own processes learn of a key within half a second."""

CLOCKS_SECONDS = 120
"""How far apart the clocks of our machines may be: one that runs late signs with the old key for
as much longer."""


class KeyState(StrEnum):
    """What a key is for now."""

    NEXT = "next"
    """Published, and will sign."""
    ACTIVE = "active"
    """Signs."""
    RETIRED = "retired"
    """Verifies until the last token that it signed has expired."""
    ENDED = "ended"
    """Verifies no more; to be removed."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One signing key, for people.

    Attributes:
        ends_at: until when it verifies; None while no later one is there.
    """

    id: str
    state: KeyState
    created_at: datetime
    signs_from: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Known:
    """Every key as read at a revision, that which signs last first.

    Attributes:
        public: the public key of each, and until when it verifies, in seconds since 1970.
    """

    revision: int
    stored: Sequence[StoredKey]
    public: Mapping[str, tuple[ECKey, float]]


class SigningKeys:
    """Every signing key of the database."""

    def __init__(
        self,
        database: Database,
        secret_key: bytes,
        *,
        revision: Revision,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._seal = Seal(secret_key, "signing key wrap v1")
        self._revision = revision
        self._clock = clock
        self._lock = threading.Lock()
        self._known = _Known(-1, (), {})
        self._opened: tuple[str, ECKey] | None = None

    @property
    def revision(self) -> int:
        """That of what is remembered of the keys; -1 before the first look."""
        return self._known.revision

    def signer(self) -> tuple[str, ECKey]:
        """The id and the private key that signs now.

        Raises:
            SettingsError: the secret key does not open it.
        """
        stored = self._current().stored
        states = [facts.state for facts in self._facts(stored)]
        active = stored[states.index(KeyState.ACTIVE)]
        opened = self._opened
        if opened is None or opened[0] != active.id:
            self._opened = opened = (active.id, self._unwrap(active))
        return opened

    def verifier(self, kid: str) -> ECKey | None:
        """The public key of that id; None if there is none, or it has ended."""
        self._current()
        return self.remembered(kid)

    def remembered(self, kid: str) -> ECKey | None:
        """As `verifier`, from memory alone."""
        key, until = self._known.public.get(kid, (None, 0.0))
        return key if self._clock() < until else None

    def published(self) -> Sequence[Mapping[str, Any]]:
        """The public JWK of each that verifies or will."""
        stored = self._current().stored
        ended = self._ended(stored)
        return [key.public_jwk for key in stored if key.id not in ended]

    def listed(self) -> list[KeyFacts]:
        """Every key with its state, that which signs last first."""
        return self._facts(self._current().stored)

    def rotate(self, scope: Scope, *, publish_seconds: float = PUBLISH_SECONDS) -> KeyFacts:
        """Makes the key that signs after as many seconds; removes those that ended.

        Raises:
            InvalidError: another one waits already, or the time is too short.
            SettingsError: the secret key is not the one that this database was used with.
        """
        if publish_seconds < LEAST_PUBLISH_SECONDS:
            mend = f"Publish a key at least {LEAST_PUBLISH_SECONDS} s before it signs."
            raise InvalidError(Invalid("publish_seconds", mend))
        queries.serialise_keys(scope)
        facts = self._checked(scope)
        if any(one.state is KeyState.NEXT for one in facts):
            raise InvalidError(Invalid("key", "The next key waits already; let it sign first."))
        made = self._make(signs_in_seconds=publish_seconds)
        queries.add_signing_key(scope, made)
        self._remove_ended(scope)
        return self._facts([made])[0]

    def revoke(self, scope: Scope, kid: str) -> None:
        """Ends a key that leaked, at once: what it signed is refused, and another signs.

        Raises:
            InvalidError: there is none of that id.
        """
        queries.serialise_keys(scope)
        stored = queries.signing_keys(scope)
        if kid not in {key.id for key in stored}:
            raise InvalidError(Invalid("key", f"There is no key {kid}."))
        states = {one.id: one.state for one in self._facts(stored)}
        queries.remove_signing_keys(scope, [kid])
        if states[kid] is KeyState.ACTIVE:
            # A key that waits goes with it: whoever had the one may have had the other.
            waiting = [key for key, state in states.items() if state is KeyState.NEXT]
            queries.remove_signing_keys(scope, waiting)
            queries.add_signing_key(scope, self._make())

    def is_due(self, *, max_age_seconds: float) -> bool:
        """Whether the newest key has signed for so long that another should."""
        newest = self._current().stored[0]
        return self._now() - newest.signs_from >= timedelta(seconds=max_age_seconds)

    def _remove_ended(self, scope: Scope) -> None:
        queries.remove_signing_keys(scope, self._ended(queries.signing_keys(scope)))

    def _checked(self, scope: Scope) -> list[KeyFacts]:
        """The facts, once it is sure that the secret key opens the newest."""
        stored = queries.signing_keys(scope)
        if stored:
            self._unwrap(stored[0])
        return self._facts(stored)

    def _facts(self, stored: Sequence[StoredKey]) -> list[KeyFacts]:
        now = self._now()
        began = [key.id for key in stored if key.signs_from <= now]
        # Before any began, by a clock that runs late, the first one signs.
        active = began[0] if began else (stored[-1].id if stored else "")
        facts: list[KeyFacts] = []
        for key in stored:
            later = facts[-1].signs_from if facts else None
            ends_at = later + _RETIRED if later else None
            state = KeyState.RETIRED
            if key.id == active:
                state = KeyState.ACTIVE
            elif key.id not in began:
                state = KeyState.NEXT
            elif ends_at is not None and ends_at <= now:
                state = KeyState.ENDED
            facts.append(KeyFacts(key.id, state, key.created_at, key.signs_from, ends_at))
        return facts

    def _ended(self, stored: Sequence[StoredKey]) -> set[str]:
        return {one.id for one in self._facts(stored) if one.state is KeyState.ENDED}

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _current(self) -> _Known:
        """Every key as it is at the current revision; never empty."""
        with self._lock:
            revision = self._revision.current()
            if self._known.revision != revision or not self._known.stored:
                stored = self._read()
                self._known = _Known(revision, stored, self._public(stored))
            return self._known

    def _public(self, stored: Sequence[StoredKey]) -> dict[str, tuple[ECKey, float]]:
        return {
            key.id: (
                ECKey.import_key(dict(key.public_jwk)),
                facts.ends_at.timestamp() if facts.ends_at else math.inf,
            )
            for key, facts in zip(stored, self._facts(stored), strict=True)
        }

    def _read(self) -> Sequence[StoredKey]:
        with self._database.read(None) as scope:
            found = queries.signing_keys(scope)
        if found:
            return found
        with self._database.write(None) as scope:
            return queries.ensure_signing_key(scope, self._make)

    def _make(self, *, signs_in_seconds: float = 0) -> StoredKey:
        key = ECKey.generate_key(CURVE, parameters={"use": "sig", "alg": ALGORITHM})
        kid = key.thumbprint()
        created_at = self._now()
        return queries.StoredKey(
            id=kid,
            public_jwk={**key.as_dict(private=False), "kid": kid},
            wrapped_private_key=self._wrap(kid, key),
            created_at=created_at,
            signs_from=created_at + timedelta(seconds=signs_in_seconds),
        )

    def _wrap(self, kid: str, key: ECKey) -> bytes:
        private = json.dumps(key.as_dict(private=True)).encode()
        return self._seal.close(private, kid.encode())

    def _unwrap(self, stored: StoredKey) -> ECKey:
        private = self._seal.open(stored.wrapped_private_key, stored.id.encode())
        return ECKey.import_key(json.loads(private))


_RETIRED = timedelta(seconds=LIFETIME_SECONDS + CLOCKS_SECONDS)
