"""Nothing private is reached, whatever an address, a name or a redirect says; each is counted."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from walled.network import ON_SITE, OTHER, PRIVATE, STORE, STORE_V6, THIRD
from walled.world import CONTENT, STORE_NAME

if TYPE_CHECKING:
    import asyncio

    from walled.world import World

INVALID, REFUSED = "signed_url_invalid", "signed_url_refused"

UNFIT = [
    "",
    "x",
    "/file.wav",
    "//store.example.test/file.wav",
    f"http://{STORE_NAME}/file.wav",
    f"HTTP://{STORE_NAME}/file.wav",
    f"ftp://{STORE_NAME}/file.wav",
    "file:///etc/passwd",
    f"gopher://{STORE_NAME}/file.wav",
    "data:audio/wav;base64,UklGRg==",
    "javascript:alert(1)",
    f"https:{STORE_NAME}/file.wav",
    f"https:/{STORE_NAME}/file.wav",
    "https:///file.wav",
    "https://",
    "https://?x=y",
    f" https://{STORE_NAME}/file.wav",
    f"https://{STORE_NAME}/file wav",
    f"https://{STORE_NAME}/file.wav\r\nHost: 10.0.0.5",
    f"https://{STORE_NAME}/\tfile.wav",
    f"https://{STORE_NAME}/\x00file.wav",
    f"https://{STORE_NAME}\\@10.0.0.5/file.wav",
    f"https://10.0.0.5\\@{STORE_NAME}/file.wav",
    f"https://{STORE_NAME}@10.0.0.5/file.wav",
    f"https://10.0.0.5@{STORE_NAME}/file.wav",
    f"https://user:word@{STORE_NAME}/file.wav",
    f"https://:@{STORE_NAME}/file.wav",
    f"https://{STORE_NAME}:80/file.wav",
    f"https://{STORE_NAME}:22/file.wav",
    f"https://{STORE_NAME}:8443/file.wav",
    f"https://{STORE_NAME}:8080/file.wav",
    f"https://{STORE_NAME}:/file.wav",
    f"https://{STORE_NAME}:0443/file.wav",
    f"https://{STORE_NAME}:443443/file.wav",
    f"https://{STORE_NAME}:+443/file.wav",
    f"https://{STORE_NAME}:-1/file.wav",
    f"https://{STORE_NAME}:443@10.0.0.5/file.wav",
    f"https://{STORE_NAME}./file.wav",
    f"https://{STORE_NAME}../file.wav",
    "https://store..example.test/file.wav",
    "https://.store.example.test/file.wav",
    "https://-store.example.test/file.wav",
    "https://store-.example.test/file.wav",
    f"https://{'a' * 64}.example.test/file.wav",
    f"https://{'a.' * 130}test/file.wav",
    "https://store%2eexample%2etest/file.wav",
    "https://10%2e0.0.5/file.wav",
    "https://%31%30.0.0.5/file.wav",
    "https://store.example.test%00.example/file.wav",
    "https://stör.example.test/file.wav",
    "https://store。example。test/file.wav",
    "https://ⓢtore.example.test/file.wav",
    "https://\uff11\uff10.0.0.5/file.wav",
    "https://10。0。0。5/file.wav",
    "https://store.example.test\u200b/file.wav",
    "https://localhost/file.wav",
    "https://localhost./file.wav",
    "https://metadata/file.wav",
    "https://intranet/file.wav",
    "https://127.1/file.wav",
    "https://127.0.1/file.wav",
    "https://0/file.wav",
    "https://2130706433/file.wav",
    "https://0x7f000001/file.wav",
    "https://0x7f.0.0.1/file.wav",
    "https://0X7F.0x0.0x0.0x1/file.wav",
    "https://017700000001/file.wav",
    "https://0177.0.0.1/file.wav",
    "https://127.0.0.01/file.wav",
    "https://127.0.0.1./file.wav",
    "https://127.0.0.256/file.wav",
    "https://127.0.0.1.1/file.wav",
    "https://1.2.3/file.wav",
    "https://10.5/file.wav",
    "https://10.0.5/file.wav",
    "https://167772165/file.wav",
    "https://store.example.0x7f/file.wav",
    "https://store.example.1/file.wav",
    "https://0x/file.wav",
    "https://[::1/file.wav",
    "https://::1/file.wav",
    "https://[::1]x/file.wav",
    "https://[::1%25lo]/file.wav",
    "https://[fe80::1%lo]/file.wav",
    "https://[::ffff:10.0.0.256]/file.wav",
    "https://[v1.fe80]/file.wav",
    "https://[10.0.0.5]/file.wav",
    "https://[]/file.wav",
    "https://[::1]@store.example.test/file.wav",
    f"https://{STORE_NAME}/" + "a" * 17_000,
]
"""No address that can be used."""

NOT_PUBLIC = [
    *PRIVATE,
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
    "::ffff:10.0.0.5",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    f"::ffff:{STORE}",
    "::ffff:0:10.0.0.5",
    "::127.0.0.1",
]
"""Addresses that nobody may reach unless an operator opened them."""


def host_of(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.mark.parametrize("address", UNFIT)
def test_an_unfit_address_is_refused_unseen(world: World, runner: asyncio.Runner, address: str):
    asked = world.names.asked.total()
    got = runner.run(world.fetch(address))
    assert (got.code, got.connections) == (INVALID, 0)
    assert world.names.asked.total() == asked, "it was looked up"


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_not_dialled(
    world: World, runner: asyncio.Runner, address: str
):
    got = runner.run(world.fetch(f"https://{host_of(address)}/file.wav"))
    assert (got.code, got.connections) == (REFUSED, 0)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_of_such_an_address_is_not_dialled(
    world: World, runner: asyncio.Runner, address: str
):
    name = world.resolve(f"n{int(ipaddress.ip_address(address)):x}.example.test", [address])
    got = runner.run(world.fetch(f"https://{name}/file.wav"))
    assert (got.code, got.connections) == (REFUSED, 0)
    assert world.names.asked.total()


@pytest.mark.parametrize(
    "answers",
    [
        [STORE, "10.0.0.5"],
        ["10.0.0.5", STORE],
        [STORE, "::1"],
        [STORE_V6, "127.0.0.1"],
        [STORE, OTHER, "169.254.169.254"],
        [STORE, "64:ff9b::a00:5"],
        [STORE, "2002:a00:5::1"],
    ],
)
def test_one_bad_answer_refuses_all(world: World, runner: asyncio.Runner, answers: list[str]):
    name = world.resolve(f"mixed{hash(tuple(answers)) & 0xFFFF}.example.test", answers)
    got = runner.run(world.fetch(f"https://{name}/file.wav"))
    assert (got.code, got.connections) == (REFUSED, 0)


def test_a_name_with_more_answers_than_any_store_is_refused(world: World, runner: asyncio.Runner):
    many = [f"93.184.217.{number}" for number in range(40)]
    name = world.resolve("many.example.test", many)
    assert runner.run(world.fetch(f"https://{name}/file.wav")).code == REFUSED


def test_a_name_is_resolved_once_so_that_it_cannot_turn(world: World, runner: asyncio.Runner):
    name = world.resolve("turning.example.test", [OTHER], ["10.0.0.5"], ["127.0.0.1"])
    before = dict(world.listeners.connections)
    got = runner.run(world.fetch(f"https://{name}/file.wav"))
    # Its certificate is not for this name; what matters is where it went.
    assert (got.code, got.connections) == ("signed_url_failed", 1)
    assert world.listeners.connections[OTHER, 443] == before.get((OTHER, 443), 0) + 1
    assert world.names.asked[f"{name}/4"] == 1
    assert runner.run(world.fetch(f"https://{name}/file.wav")).code == REFUSED


@pytest.mark.parametrize("name", ["nowhere.example.test", "silence.example.test"])
def test_a_name_that_says_nothing_is_refused_like_one_inside(
    world: World, runner: asyncio.Runner, name: str
):
    world.resolve("silence.example.test", ["silence"])
    world.resolve("inside.example.test", ["10.0.0.5"])
    got = runner.run(world.fetch(f"https://{name}/file.wav"))
    inside = runner.run(world.fetch("https://inside.example.test/file.wav"))
    assert got.connections == inside.connections == 0
    assert got.error is not None
    assert inside.error is not None
    assert got.error.faults == inside.error.faults


GOOD = [
    f"https://{STORE_NAME}/file.wav",
    f"HTTPS://{STORE_NAME.upper()}/file.wav",
    f"https://{STORE_NAME}:443/file.wav",
    f"https://{STORE_NAME}/file.wav?sig=a%2Fb#fragment",
    f"https://{STORE}/file.wav",
    f"https://[{STORE_V6}]/file.wav",
    "https://[2606:2800:0220:0001:0000:0000:0000:0034]/file.wav",
    "https://both.example.test/file.wav",
    "https://six.example.test/file.wav",
]


@pytest.mark.parametrize("address", GOOD)
def test_a_public_store_is_reached(world: World, runner: asyncio.Runner, address: str):
    got = runner.run(world.fetch(address))
    assert (got.code, got.content, got.connections) == ("received", CONTENT, 1)


def test_the_next_address_of_a_name_is_tried(world: World, runner: asyncio.Runner):
    world.names.known["store.example.test"] = [["93.184.216.98", STORE]]
    try:
        assert runner.run(world.fetch(GOOD[0])).content == CONTENT
    finally:
        world.names.known["store.example.test"] = [[STORE]]


# What an operator allows.


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (f"https://{STORE_NAME}/file.wav", "received"),
        ("https://under.store.example.test/file.wav", "received"),
        ("https://notstore.example.test/file.wav", REFUSED),
        ("https://other.example.test/file.wav", REFUSED),
        ("https://store.example.test.evil.example.test/file.wav", REFUSED),
        (f"https://{STORE}/file.wav", REFUSED),
        (f"https://{OTHER}/file.wav", REFUSED),
    ],
)
def test_only_allowed_hosts_are_reached(
    world: World, runner: asyncio.Runner, address: str, code: str
):
    got = runner.run(world.fetch(address, world.walls(hosts=[STORE_NAME])))
    assert (got.code, got.connections) == (code, int(code == "received"))


OPENED = ["10.0.0.0/8", "fd00::/8", "100.64.0.0/10", "0.0.0.0/0", "::/0"]


def test_an_opened_network_is_reached(world: World, runner: asyncio.Runner):
    walls = world.walls(networks=["10.20.30.0/24"])
    for host in (ON_SITE, "on-site.example.test"):
        assert runner.run(world.fetch(f"https://{host}/file.wav", walls)).content == CONTENT
    assert runner.run(world.fetch("https://10.0.0.5/file.wav", walls)).code == REFUSED


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "::",
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:7f00:1::1",
        "2001:0:a9fe:a9fe::1",
        "::127.0.0.1",
    ],
)
def test_whatever_is_opened_these_are_never_reached(
    world: World, runner: asyncio.Runner, address: str
):
    walls = world.walls(networks=OPENED)
    got = runner.run(world.fetch(f"https://{host_of(address)}/file.wav", walls))
    assert (got.code, got.connections) == (REFUSED, 0)


def test_a_translator_leads_no_further_than_its_inner_address_may(
    world: World, runner: asyncio.Runner
):
    walls = world.walls(networks=["64:ff9b::/96"])
    got = runner.run(world.fetch("https://[64:ff9b::a00:5]/file.wav", walls))
    assert (got.code, got.connections) == (REFUSED, 0)
    # The translated public address is dialled; nobody here has a certificate for it.
    got = runner.run(world.fetch("https://[64:ff9b::5db8:d822]/file.wav", walls))
    assert (got.code, got.connections) == ("signed_url_failed", 1)


# Redirects.


def redirect(to: str, host: str = STORE_NAME, **fields: str) -> str:
    more = "".join(f"&{name}={value}" for name, value in fields.items())
    return f"https://{host}/redirect.wav?to={quote(to, safe='')}{more}"


@pytest.mark.parametrize("code", ["301", "302", "303", "307", "308"])
def test_no_redirect_is_followed_unless_an_operator_says_so(
    world: World, runner: asyncio.Runner, code: str
):
    address = redirect(f"https://{STORE_NAME}/file.wav", code=code)
    got = runner.run(world.fetch(address))
    assert (got.code, got.connections) == ("signed_url_failed", 1)
    got = runner.run(world.fetch(address, redirects=1))
    assert (got.content, got.connections) == (CONTENT, 2)


def test_as_many_redirects_are_followed_as_an_operator_says(world: World, runner: asyncio.Runner):
    address = f"https://{STORE_NAME}/file.wav"
    for _ in range(3):
        address = redirect(address)
    assert runner.run(world.fetch(address, redirects=2)).code == "signed_url_failed"
    assert runner.run(world.fetch(address, redirects=3)).content == CONTENT


def test_a_redirect_may_name_a_path_alone(world: World, runner: asyncio.Runner):
    assert runner.run(world.fetch(redirect("/file.wav"), redirects=1)).content == CONTENT


@pytest.mark.parametrize(
    ("to", "code"),
    [
        ("https://10.0.0.5/file.wav", REFUSED),
        ("https://127.0.0.1/file.wav", REFUSED),
        ("https://[::1]/file.wav", REFUSED),
        ("https://169.254.169.254/latest/meta-data/", REFUSED),
        ("https://on-site.example.test/file.wav", REFUSED),
        ("http://169.254.169.254/latest/meta-data/", "signed_url_failed"),
        ("http://store.example.test/file.wav", "signed_url_failed"),
        ("//10.0.0.5/file.wav", "signed_url_failed"),
        ("file:///etc/passwd", "signed_url_failed"),
        ("https://store.example.test:8443/file.wav", "signed_url_failed"),
        ("https://store.example.test@10.0.0.5/file.wav", "signed_url_failed"),
        ("https://0x7f.1/file.wav", "signed_url_failed"),
        ("file.wav", "signed_url_failed"),
        ("", "signed_url_failed"),
    ],
)
def test_a_redirect_is_judged_like_the_address_itself(
    world: World, runner: asyncio.Runner, to: str, code: str
):
    got = runner.run(world.fetch(redirect(to), redirects=3))
    assert (got.code, got.connections) == (code, 1)


def test_a_redirect_leads_to_allowed_hosts_only(world: World, runner: asyncio.Runner):
    address = redirect("https://other.example.test/file.wav")
    got = runner.run(world.fetch(address, world.walls(hosts=[STORE_NAME]), redirects=3))
    assert (got.code, got.connections) == (REFUSED, 1)


# What the environment says.


@pytest.mark.parametrize(
    "name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY"]
)
def test_no_proxy_of_the_environment_is_used(
    world: World, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv(name, "http://10.0.0.5:8080")
    got = runner.run(world.fetch(f"https://{STORE_NAME}/file.wav"))
    assert (got.content, got.connections) == (CONTENT, 1)
    assert world.listeners.connections["10.0.0.5", 8080] == 0


def test_nothing_private_was_reached_in_all_of_this(world: World):
    reached = {address for address, _ in world.listeners.connections}
    opened_by_tests = {ON_SITE, "64:ff9b::5db8:d822"}
    assert reached - opened_by_tests <= {STORE, STORE_V6, OTHER, THIRD}
    assert {port for _, port in world.listeners.connections} == {443}
