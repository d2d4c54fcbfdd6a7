"""Addresses that callers send: read strictly, so that no two readers see two hosts in one.

What is refused here is never looked up and never dialled. The rest of the request, the target,
is kept byte for byte, or its signature would not hold.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

HTTPS_PORT = 443

MAX_ADDRESS_CHARACTERS = 16 * 1024
"""The longest signed addresses in use carry a session token of some 2 KiB."""

MAX_HOST_CHARACTERS = 253

_FORM = re.compile(r"https://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC_END = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""What a last label looks like where a reader takes the host for an IPv4 address.

Source: WHATWG URL, "ends in a number".
"""
_QUAD = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")


class UnfitAddressError(ValueError):
    """No address that can be used; the message is one sentence and holds no part of it."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a request goes. It prints as its host alone: the target is a credential.

    Attributes:
        host: in lower case, without brackets.
        target: path and query exactly as sent.
        literal: the host, if it is an address itself.
    """

    host: str
    target: bytes = field(repr=False)
    literal: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None

    @property
    def host_header(self) -> bytes:
        """The host as HTTP has it."""
        return (f"[{self.host}]" if ":" in self.host else self.host).encode()

    def follow(self, location: str) -> Destination:
        """Where a redirect from here leads: another address, or another target on this host.

        Raises:
            UnfitAddressError: as `parse_address`, or it is relative in another way.
        """
        if location.startswith("/") and not location.startswith("//"):
            location = f"https://{self.host_header.decode()}{location}"
        return parse_address(location)


def parse_address(sent: str) -> Destination:
    """Reads an https address.

    Raises:
        UnfitAddressError: it is no address that can be used.
    """
    if len(sent) > MAX_ADDRESS_CHARACTERS:
        raise UnfitAddressError(f"Send at most {MAX_ADDRESS_CHARACTERS:,} characters.")
    if not re.fullmatch(r"[\x21-\x7e]+", sent):
        raise UnfitAddressError(
            "Percent-encode all but visible ASCII, and send names as A-labels."
        )
    form = _FORM.fullmatch(sent)
    if form is None:
        raise UnfitAddressError("Send an absolute address that begins with https://.")
    authority = _AUTHORITY.fullmatch(form["authority"])
    if authority is None:
        raise UnfitAddressError("Between https:// and the path stands a host alone.")
    if authority["port"] not in {None, str(HTTPS_PORT)}:
        raise UnfitAddressError(f"Only port {HTTPS_PORT} is used.")
    target = form["target"]
    if not target.startswith("/"):
        target = f"/{target}"
    host, literal = _host(authority["v6"], authority["name"])
    return Destination(host, target.encode("ascii"), literal)


def _host(
    v6: str | None, name: str | None
) -> tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address | None]:
    try:
        if v6 is not None:
            address = ipaddress.IPv6Address(v6)
            return str(address), address
        host = (name or "").lower()
        labels = host.split(".")
        if _NUMERIC_END.fullmatch(labels[-1]):
            if not _QUAD.fullmatch(host):
                raise UnfitAddressError("Write a numeric host as four plain decimal numbers.")
            return host, ipaddress.IPv4Address(host)
    except ipaddress.AddressValueError:
        raise UnfitAddressError("The numeric host is no address.") from None
    if len(host) > MAX_HOST_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise UnfitAddressError("The host is no full name.")
    if len(labels) == 1:
        raise UnfitAddressError("Write the host's full name, with its domain.")
    return host, None
