"""Which of several forms an answer has, by `Accept`. Source: RFC 9110, section 12.5.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The offered media type that the caller likes best, or None if none is acceptable.

    Of two that are liked the same, the one that the caller names first wins; of those that one
    wildcard covers, the one that is offered first. Whoever says nothing takes everything.

    Args:
        accept: the header's value, several joined by commas; "" if there is none.
        offers: media types without parameters, the usual one first.
    """
    ranges = list(_ranges(accept or "*/*"))
    refused = {name for name, quality in ranges if not quality}
    acceptable = [offer for offer in offers if offer not in refused]
    best, found = 0.0, None
    for name, quality in ranges:
        offer = next((one for one in acceptable if _covers(name, one)), None)
        if offer is not None and quality > best:
            best, found = quality, offer
    return found


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for entry in accept.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        told = [one[2:] for one in parameters if one.startswith("q=")]
        yield name, _quality(told[-1]) if told else 1.0


def _covers(name: str, offer: str) -> bool:
    return name in {offer, "*/*", f"{offer.partition('/')[0]}/*"}


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0  # also false for nan
