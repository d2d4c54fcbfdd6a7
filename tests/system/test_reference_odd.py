"""The reference page when something goes wrong on the way: it says what, and what became of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from browsing import chromium, said, visiting
from reference_page import DESK, attach, fill, go_to, sign_in, slowed, try_it
from serving import RECORDING, Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, Route

    from serving import Caller

LIMIT_BYTES = 30_000_000
BYTES_PER_SECOND = 300_000
"""So slow that 20 MB take a minute."""


@pytest.fixture(scope="module")
def server(new_server: Callable[..., Server]) -> Iterator[Server]:
    """Without a worker: nothing here waits for processing."""
    made = new_server("sqlite", "--no-worker", max_upload_bytes=LIMIT_BYTES)
    with serving(made) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: Server) -> dict[str, str]:
    made = server.create_client("Reader")
    return {"CLIENT_ID": made.client.id, "CLIENT_SECRET": made.secret}


@pytest.fixture(scope="module")
def caller(server: Server, client: dict[str, str]) -> Caller:
    return server.sign_in(client["CLIENT_ID"], client["CLIENT_SECRET"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def page(browser: Browser, server: Server, client: dict[str, str]) -> Iterator[Page]:
    """The reference, signed in."""
    with visiting(browser, server.base, **DESK) as visited:
        visited.clock.install()
        visited.goto("/docs")
        visited.wait_for_selector("#sample code")
        sign_in(visited, client)
        yield visited


def large(folder: Path, size_bytes: int) -> Path:
    path = folder / "large.wav"
    path.write_bytes(RECORDING.read_bytes() + bytes(size_bytes))
    return path


def begin(page: Page, file: Path, name: str) -> None:
    """Begins an upload, and waits until some of it is under way."""
    attach(page, file)
    fill(page, {"FileName": name})
    page.get_by_role("button", name="Try It!").click()
    said(page.locator("#sent"), lambda text: re.match(r"(?!0\.0)[\d.]+ of", text))


def test_a_token_is_renewed_before_its_end(page: Page) -> None:
    go_to(page, "list_interactions")
    tokens: list[str] = []
    page.on("request", lambda one: "/connect/token" in one.url and tokens.append(one.method))
    assert try_it(page).startswith("200")
    assert tokens == []
    page.clock.fast_forward("59:30")
    assert try_it(page).startswith("200")
    assert tokens == ["POST"]


def test_a_token_that_is_refused_before_its_time_is_renewed_and_the_upload_sent_again(
    page: Page, caller: Caller
) -> None:
    sent: list[str] = []

    def spoilt_once(route: Route) -> None:
        headers = dict(route.request.headers)
        sent.append(headers["authorization"])
        if len(sent) == 1:
            headers["authorization"] = "Bearer of.another.key"
        route.continue_(headers=headers)

    page.route("**/Media/Upload", spoilt_once)
    attach(page, RECORDING)
    fill(page, {"FileName": "odd/renewed.wav"})
    assert try_it(page).startswith("200")
    assert len(sent) == 2
    found = caller.http.get("/v1/interactions", params={"prefix": "odd/renewed"}).json()["items"]
    assert len(found) == 1


def test_a_client_that_is_no_more_is_told_so_and_led_to_the_page(page: Page) -> None:
    def always_spoilt(route: Route) -> None:
        route.continue_(headers={**route.request.headers, "authorization": "Bearer no"})

    def refused(route: Route) -> None:
        route.continue_(post_data="grant_type=client_credentials&client_id=a&client_secret=b")

    page.route("**/v1/interactions", always_spoilt)
    page.route("**/connect/token", refused)
    go_to(page, "list_interactions")
    page.get_by_role("button", name="Try It!").click()
    said(page.locator("#try .outcome"), "Unknown client or wrong secret.".__eq__)
    assert page.locator("#help").get_attribute("href") == "/docs/errors/invalid_client"


def test_what_is_too_large_is_refused_with_its_page(page: Page, tmp_path: Path) -> None:
    attach(page, large(tmp_path, LIMIT_BYTES + 2_000_000))
    fill(page, {"FileName": "odd/too-large.wav"})
    assert try_it(page).startswith("413")
    assert page.locator("#help").get_attribute("href") == "/docs/errors/too_large"
    assert page.locator("#body").inner_text().endswith("At most 30,000,000 bytes are taken.")


def test_an_upload_that_is_cancelled_halfway_leaves_nothing_and_the_page_says_so(
    page: Page, server: Server, caller: Caller, tmp_path: Path
) -> None:
    slowed(page, BYTES_PER_SECOND)
    begin(page, large(tmp_path, 20_000_000), "odd/cancelled.wav")
    page.get_by_role("button", name="Cancel").click()
    told = said(page.locator("#try .outcome"), lambda text: text.startswith("Cancelled after"))
    assert told.endswith("It was not sent whole, so nothing of it is kept.")
    found = caller.http.get("/v1/interactions", params={"prefix": "odd/cancelled"})
    assert found.json()["items"] == []
    staging = server.data / "storage" / "staging"
    assert staging.is_dir()
    until(lambda: not [*staging.iterdir()], "nothing is left of it")


def test_an_upload_that_is_cancelled_when_all_of_it_left_may_be_kept_and_the_page_says_so(
    page: Page,
) -> None:
    page.route("**/Media/Upload", lambda _route: None)  # no answer comes
    attach(page, RECORDING)
    fill(page, {"FileName": "odd/whole.wav"})
    page.evaluate(
        """() => XMLHttpRequest.prototype.abort = ((abort) => function () {
             this.upload.dispatchEvent(new ProgressEvent("progress", { loaded: 9, total: 9 }));
             abort.call(this);
           })(XMLHttpRequest.prototype.abort)"""
    )
    page.get_by_role("button", name="Try It!").click()
    page.get_by_role("button", name="Cancel").click()
    told = said(page.locator("#try .outcome"), lambda text: text.startswith("Cancelled after"))
    assert told.endswith("look for its name before you send it again.")


def test_a_server_that_goes_while_something_is_sent_is_told_of(
    browser: Browser, new_server: Callable[..., Server], tmp_path: Path
) -> None:
    with serving(new_server("sqlite", "--no-worker")) as gone:
        made = gone.create_client("Reader")
        with visiting(browser, gone.base, **DESK) as page:
            page.goto("/docs")
            page.wait_for_selector("#sample code")
            sign_in(page, {"CLIENT_ID": made.client.id, "CLIENT_SECRET": made.secret})
            slowed(page, BYTES_PER_SECOND)
            begin(page, large(tmp_path, 20_000_000), "odd/gone.wav")
            gone.kill()
            told = said(page.locator("#try .outcome"), lambda text: text.startswith("No answer"))
            assert "The server is gone, the connection broke" in told
            assert told.endswith("It was not sent whole, so nothing of it is kept.")
            assert page.get_by_role("button", name="Try It!").is_enabled()
            assert "curl" in page.locator("#curl").inner_text()
            page.get_by_label("Client secret").fill("whatever")
            page.get_by_role("button", name="Sign in").click()
            said(page.locator("#signed-in"), lambda text: text.startswith("No answer came from"))
