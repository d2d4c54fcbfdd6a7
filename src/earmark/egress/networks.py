"""Which addresses of networks may be reached. No names, no sockets.

The table is our own: `ipaddress.is_private` and `is_global` differ between Python releases, and
neither knows where clouds answer with their machines' credentials.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


NEVER = _networks(
    "0.0.0.0/8",  # this host; Linux takes it for loopback
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local, with the metadata of most clouds at 169.254.169.254
    "168.63.129.16/32",  # Azure's host: metadata, DNS, health
    "100.100.100.200/32",  # Alibaba Cloud's metadata
    "192.0.0.192/32",  # Oracle Cloud's old metadata
    "224.0.0.0/4",  # multicast
    "255.255.255.255/32",  # broadcast
    "::/128",  # unspecified; Linux takes it for loopback
    "::1/128",  # loopback
    "fe80::/10",  # link-local
    "fd00:ec2::254/128",  # AWS's metadata
    "fd20:ce::254/128",  # Google Cloud's metadata
    "ff00::/8",  # multicast
)
"""Reached by nobody, whatever is set."""

SPECIAL = _networks(
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # carrier-grade NAT
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # the old 6to4 relays
    "192.168.0.0/16",  # private
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "240.0.0.0/4",  # reserved
    "2001::/23",  # protocol assignments, Teredo among them
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
"""Not public; an operator may open parts of it.

Source: the IANA special-purpose registries of IPv4 and IPv6. What they call globally reachable
but is no place for a store (AS112, AMT) is here too.
"""

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is public lies in it; the rest is not, whether or not it is in a table."""

_LOW_32_BITS = 0xFFFFFFFF


class Networks:
    """What may be reached: all that is public, and what the operator opened beside it."""

    def __init__(self, opened: Iterable[str] = ()) -> None:
        """Keeps the opened networks.

        Raises:
            ValueError: one is no network, or lies whole in what nobody may reach.
        """
        self._opened = _networks(*opened)
        for network in self._opened:
            if any(_within(network, never) for never in NEVER):
                raise ValueError(f"{network} is never reached, whatever is set")

    def admit(self, address: Address) -> bool:
        """Whether a connection to it may be made.

        An address that carries another one inside, for a translator on the way, is as good as
        that one at best; and such ways are taken only where the operator opened them.
        """
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            return False  # a zone is one of this machine's own links
        if _in(address, NEVER) or any(_in(inner, NEVER) for inner in _carried(address)):
            return False
        return is_public(address) or self._has_opened(address)

    def _has_opened(self, address: Address) -> bool:
        if not _in(address, self._opened):
            return False
        carried = _carried(address)
        return not carried or any(is_public(one) or _in(one, self._opened) for one in carried)


def is_public(address: Address) -> bool:
    """Whether it is anybody's on the internet, and reached without a translator."""
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    return not _in(address, NEVER) and not _in(address, SPECIAL)


def _in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == one.version and address in one for one in networks)


def _within(network: Network, other: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)


def _carried(address: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for, by every mapping in use."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    whole, found = int(address), []
    if any(address in one for one in _LOW_CARRIERS):
        found.append(whole & _LOW_32_BITS)
    if address in _SIX_TO_FOUR:
        found.append(whole >> 80 & _LOW_32_BITS)
    if address in _TEREDO:
        found += [whole >> 64 & _LOW_32_BITS, ~whole & _LOW_32_BITS]
    return [ipaddress.IPv4Address(one) for one in found]


_LOW_CARRIERS = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, deprecated
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
        "64:ff9b::/96",  # NAT64, RFC 6052
        "64:ff9b:1::/48",  # NAT64 of local use, RFC 8215
    )
)
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_TEREDO = ipaddress.IPv6Network("2001::/32")
