"""A real browser, Debian's Chromium, that notes whatever a page should not do."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

from serving import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator, Page

WATCH = """
document.addEventListener("securitypolicyviolation", (event) =>
  window.violated(`${event.violatedDirective} ${event.blockedURI}`));
"""
"""Runs in every document before its own scripts."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Root, as in a container, has no sandbox of Chromium's."""
    program = shutil.which("chromium")
    assert program is not None, "Chromium is missing; ./run test installs it"
    sandboxed = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*sandboxed, "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(browser: Browser, base: str, **options: Any) -> Iterator[Page]:
    """A visit; fails if a request left the site, its policy was violated or a script failed."""
    context = browser.new_context(base_url=base, **options)
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    asked: list[str] = []
    failed: list[str] = []

    def violated(what: str) -> None:
        failed.append(what)

    context.expose_function("violated", violated)
    context.add_init_script(WATCH)
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: failed.append(str(error.error)))
    page = context.new_page()
    yield page
    page.evaluate("0")  # what was told before has come by then
    context.close()
    assert [url for url in asked if not url.startswith((f"{base}/", f"blob:{base}/"))] == []
    assert asked
    assert failed == []


def said(place: Locator, holds: Callable[[str], Any]) -> str:
    """What a place says, once that holds."""
    text: str = until(lambda: holds(text := place.inner_text()) and text, str(place))
    return text
