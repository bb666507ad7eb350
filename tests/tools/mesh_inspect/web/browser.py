"""A Chromium that shows the page of the live map."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from tests.fastest import HANG_S

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")

REQUIRED: Final = os.environ.get("NETLOADER_TEST_BROWSER") == "required"
"""Whether a host without a browser is a fault, as in CI."""

_ARGUMENTS: Final = (
    "--no-sandbox",  # A container has no user namespaces for it, and the page is ours.
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--no-first-run",
)

Look = Literal["dark", "light"]


def executable() -> str | None:
    """The browser of this host."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser of this host, without a window. Raises RuntimeError where there is none."""
    path = executable()
    if path is None:
        raise RuntimeError(f"none of {', '.join(NAMES)} is on PATH: install Chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Complaints:
    """What a page says on its console and should not: errors, warnings, what its policy refuses."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.found.append(f"thrown: {error}"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.found.append(f"{message.type}: {message.text}")


def new_page(
    browser: Browser,
    *,
    look: Look = "dark",
    width: int = 1280,
    height: int = 800,
    still: bool = False,
    density: float = 1.0,
) -> Page:
    """A page as a person would have it; `still`: one who wants nothing to move."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=look,
        reduced_motion="reduce" if still else "no-preference",
        device_scale_factor=density,
        locale="en-GB",
        timezone_id="UTC",
    )
    context.set_default_timeout(HANG_S * 1000)
    expect.set_options(timeout=HANG_S * 1000)
    return context.new_page()


def call(page: Page, module: str, script: str, argument: object = None) -> Any:
    """The value of a script in which `m` is one of the page's modules and `a` the argument."""
    return page.evaluate(
        f"async (a) => {{ const m = await import('/static/{module}'); return {script}; }}", argument
    )
