"""Keeps guessers of secrets out, and their victims in.

Counted are wrong secrets by client and address together, and by address alone; never by client
alone, or anybody could keep a client out by guessing at its name from elsewhere. Guessing itself
is hopeless at 256 bits: what is bounded here is the noise and the work that it makes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING

from earmark.access.credentials import derive
from earmark.access.rate import Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark.database.rates import Level, Rates

CLIENT_FAILURES = Rate(10, 600)
"""Wrong secrets for one client from one address: ten at once, then one a minute."""

ADDRESS_FAILURES = Rate(50, 600)
"""Wrong secrets for any clients from one address: several clients may share it."""

IPV6_PREFIX = 64
"""The part of an IPv6 address that is one subscriber's. Source: RFC 6177."""


class Keys:
    """The names of buckets: keyed hashes, so that the table tells of no address and no client."""

    def __init__(self, secret_key: bytes) -> None:
        self._key = derive(secret_key, "rate bucket v1")

    def __call__(self, kind: str, *parts: str) -> bytes:
        """The name of the bucket of one kind for those parts."""
        digest = hmac.new(self._key, kind.encode(), hashlib.sha256)
        for part in parts:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.digest()


class Lockout:
    """The counts of token requests and of wrong secrets, shared by all processes."""

    def __init__(self, rates: Rates, keys: Keys, *, token_rate: Rate | None) -> None:
        """Keeps its collaborators.

        Args:
            rates: where all processes count.
            keys: the names of the buckets there.
            token_rate: of one address, and of one client; None limits nobody.
        """
        self._rates = rates
        self._keys = keys
        self._token_rate = token_rate

    def admit(self, client_id: str, address: str) -> None:
        """Counts a token request, and lets pass who may try. The work is the same for any client.

        Raises:
            RateLimitedError: too many requests, or too many wrong secrets.
            UnavailableError: the database cannot serve.
        """
        network = network_of(address)
        token_rate = self._token_rate

        def step(now: float, levels: Sequence[Level]) -> Sequence[Level]:
            asked, pair, alone = levels
            if token_rate is not None:
                token_rate.demand(asked, now)
                asked = token_rate.charged(asked, now)
            CLIENT_FAILURES.demand(pair, now)
            ADDRESS_FAILURES.demand(alone, now)
            return asked, pair, alone

        self._rates.change(
            [self._keys("token", network), *self._failures(client_id, network)], step
        )

    def granted(self, client_id: str) -> None:
        """Counts a token request of a client that has shown its secret, wherever it came from.

        Not before it has: or anybody could use up what is another's.

        Raises:
            RateLimitedError: too many requests.
            UnavailableError: the database cannot serve.
        """
        token_rate = self._token_rate
        if token_rate is None:
            return

        def step(now: float, levels: Sequence[Level]) -> Sequence[Level]:
            token_rate.demand(levels[0], now)
            return [token_rate.charged(levels[0], now)]

        self._rates.change([self._keys("client token", client_id)], step)

    def failed(self, client_id: str, address: str) -> None:
        """Counts a wrong secret; whether the client exists makes no difference.

        Raises:
            UnavailableError: the database cannot serve.
        """

        def step(now: float, levels: Sequence[Level]) -> Sequence[Level]:
            pair, alone = levels
            return CLIENT_FAILURES.charged(pair, now), ADDRESS_FAILURES.charged(alone, now)

        self._rates.change(self._failures(client_id, network_of(address)), step)

    def _failures(self, client_id: str, network: str) -> list[bytes]:
        return [self._keys("client failure", client_id, network), self._keys("failure", network)]


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the first 64 bits of an IPv6 one."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # of a Unix socket, or of none
    if isinstance(known, ipaddress.IPv4Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, IPV6_PREFIX), strict=False))
