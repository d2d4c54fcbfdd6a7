"""The page at `/docs` as a person uses it: signs in, fills in, sends, reads the answer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from browsing import said
from serving import until

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

PHONE = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
DESK = {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"}


def sign_in(page: Page, client: dict[str, str]) -> None:
    page.get_by_label("Client id").fill(client["CLIENT_ID"])
    page.get_by_label("Client secret").fill(client["CLIENT_SECRET"])
    page.get_by_role("button", name="Sign in").click()
    said(page.locator("#signed-in"), lambda text: text.startswith("Signed in as"))


def go_to(page: Page, operation: str) -> None:
    """Shows an operation, and waits until it is: the browser tells the page of it later."""
    page.evaluate("(name) => { location.hash = name }", operation)
    shown = page.locator(f'#menu a[href="#{operation}"][aria-current="page"]')
    shown.wait_for(state="attached")


def fill(page: Page, values: dict[str, str]) -> None:
    for name, value in values.items():
        field = page.locator(f'[data-field="{name}"]').locator("input, select, textarea")
        if field.evaluate("(one) => one.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def attach(page: Page, path: Path | str) -> None:
    page.locator('[data-field="file"] input').set_input_files(str(path))


def try_it(page: Page) -> str:
    """Sends, and returns status and time as the page says them."""
    page.get_by_role("button", name="Try It!").click()
    return said(page.locator("#try .outcome"), lambda text: re.match(r"\d{3} ", text))


def body(page: Page) -> Any:
    return json.loads(page.locator("#body").inner_text())


def processed(page: Page) -> Any:
    """The record that the page shows, once its processing ended; until then it asks again."""

    def ended() -> Any:
        assert try_it(page).startswith("200")
        record = body(page)
        return record["status"] != "processing" and record

    return until(ended, "processed")


def slowed(page: Page, bytes_per_second: int) -> None:
    """From now on what the page sends takes its time."""
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1}
    network.send(
        "Network.emulateNetworkConditions", {**slow, "uploadThroughput": bytes_per_second}
    )
