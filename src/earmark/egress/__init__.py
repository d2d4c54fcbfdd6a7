"""How this service reaches others, and what it will not reach whoever asks.

Two ways out: `open_client` for addresses that the operator configured, and `Walls` for those
that a caller named. Nothing else of the service opens a connection.
"""

from earmark.egress.address import Destination, UnfitAddressError, parse_address
from earmark.egress.networks import Networks
from earmark.egress.operator import CONNECT_SECONDS, open_client
from earmark.egress.walls import BarredError, Walls

__all__ = [
    "CONNECT_SECONDS",
    "BarredError",
    "Destination",
    "Networks",
    "UnfitAddressError",
    "Walls",
    "open_client",
    "parse_address",
]
