"""Which addresses may be reached, and how those that callers send are read."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

import httpcore2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from earmark import egress
from earmark.egress import walls
from earmark.egress.networks import Networks

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBLIC = ipaddress.ip_address("93.184.216.34")
v4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
near_v6 = st.builds(
    lambda network, inner: network[inner % network.num_addresses],
    st.sampled_from(
        [
            ipaddress.IPv6Network(text)
            for text in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "2000::/3", "2001::/23")
        ]
    ),
    st.integers(0, 2**128 - 1),
)


@given(address=v4 | v6 | near_v6)
@example(ipaddress.ip_address("192.88.99.1"))
def test_what_python_calls_private_is_not_reached(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    private = address.is_private or address.is_loopback or address.is_link_local
    if private or address.is_multicast or address.is_reserved or address.is_unspecified:
        assert not Networks().admit(address)


@given(address=v4)
def test_an_address_inside_another_is_not_reached(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for carrier in (
        number,
        0xFFFF << 32 | number,
        0xFFFF << 48 | number,
        0x64FF9B << 96 | number,
        0x64FF9B0001 << 80 | number,
        0x2002 << 112 | number << 80 | 1,
        0x20010000 << 96 | number << 64,
    ):
        inside = ipaddress.IPv6Address(carrier)
        assert not Networks().admit(inside)
        if not Networks(["0.0.0.0/0"]).admit(address):  # one of those that nobody reaches
            assert not Networks(["::/0", "0.0.0.0/0"]).admit(inside)


@pytest.mark.parametrize("address", ["1.1.1.1", "52.216.0.1", "2606:2800:220:1::34", "2a00::1"])
def test_what_is_public_is_reached(address: str) -> None:
    assert Networks().admit(ipaddress.ip_address(address))


def test_an_address_with_a_zone_is_not_reached() -> None:
    assert not Networks().admit(ipaddress.ip_address("2606:2800:220:1::34%1"))


@given(text=st.text(st.characters(max_codepoint=0x17F), max_size=60))
def test_whatever_is_sent_is_read_or_refused(text: str) -> None:
    for address in (text, f"https://{text}", f"https://store.example.test{text}"):
        with suppress(egress.UnfitAddressError):
            read = egress.parse_address(address)
            assert address.isascii()
            assert read.target.startswith(b"/")
            assert read.target.decode() in f"{address.partition('#')[0]}/" or "?" in address
            assert read.host == read.host.lower()


@pytest.mark.parametrize(
    "address",
    [
        "https://secret@store.example.test/a",
        "https://store.example.test:8443/secret",
        "https://secret/",
        "https://1.2.secret.4/",
        "https://0x7f.secret.1/",
        "secret",
        "https://store.example.test/ secret",
        "https://[secret]/",
    ],
)
def test_no_part_of_an_unfit_address_is_told(address: str) -> None:
    with pytest.raises(egress.UnfitAddressError) as caught:
        egress.parse_address(address)
    assert "secret" not in str(caught.value)


def test_a_destination_prints_without_its_credential() -> None:
    read = egress.parse_address("https://store.example.test/a?sig=secret")
    assert "secret" not in repr(read) + str(read)
    assert "store.example.test" in repr(read)


def dialler(addresses: Sequence[str], network: httpcore2.AsyncNetworkBackend) -> walls._Dialler:
    made = walls._Dialler("store.example.test", [ipaddress.ip_address(one) for one in addresses])
    made._network = network
    return made


class _Elsewhere(httpcore2.AsyncNetworkBackend):
    """A network in which every connection ends somewhere else."""

    def __init__(self, end: object) -> None:
        self.end = end
        self.closed = False

    async def connect_tcp(self, *_: object, **__: object) -> httpcore2.AsyncNetworkStream:
        network = self

        class Stream(httpcore2.AsyncNetworkStream):
            def get_extra_info(self, info: str) -> object:
                return network.end if info == "server_addr" else None

            async def aclose(self) -> None:
                network.closed = True

        return Stream()


@pytest.mark.parametrize("end", [("10.0.0.5", 443), ("nonsense", 443), None, ()])
def test_a_connection_that_ends_elsewhere_is_closed_unused(end: object) -> None:
    network = _Elsewhere(end)
    with pytest.raises(egress.BarredError):
        asyncio.run(dialler([str(PUBLIC)], network).connect_tcp("store.example.test", 443))
    assert network.closed


def test_a_connection_that_ends_where_it_should_is_used() -> None:
    network = _Elsewhere((str(PUBLIC), 443))
    asyncio.run(dialler([str(PUBLIC)], network).connect_tcp("store.example.test", 443))
    assert not network.closed


@pytest.mark.parametrize(
    ("host", "port"), [("other.example.test", 443), ("store.example.test", 80)]
)
def test_nothing_else_is_dialled(host: str, port: int) -> None:
    network = _Elsewhere((str(PUBLIC), port))
    with pytest.raises(egress.BarredError):
        asyncio.run(dialler([str(PUBLIC)], network).connect_tcp(host, port))


def test_no_local_socket_is_dialled() -> None:
    network = _Elsewhere(None)
    with pytest.raises(egress.BarredError):
        asyncio.run(dialler([str(PUBLIC)], network).connect_unix_socket("/run/docker.sock"))


@pytest.mark.parametrize("answers", [[], ["nonsense"], ["10.0.0.5"], [str(PUBLIC), "::1"]])
def test_a_name_with_no_good_answer_is_barred(answers: list[str]) -> None:
    async def resolve(_host: str) -> list[str]:
        return answers

    made = egress.Walls(resolve=resolve)
    destination = egress.parse_address("https://store.example.test/a")
    with pytest.raises(egress.BarredError):
        asyncio.run(made.addresses(destination))


def test_every_address_of_a_good_name_is_told_once() -> None:
    async def resolve(_host: str) -> list[str]:
        return [str(PUBLIC), str(PUBLIC), "2606:2800:220:1::34"]

    made = egress.Walls(resolve=resolve)
    found = asyncio.run(made.addresses(egress.parse_address("https://store.example.test/a")))
    assert found == [PUBLIC, ipaddress.ip_address("2606:2800:220:1::34")]
