"""How fast the page of the live map is, measured in Chromium.

    python -m tests.tools.mesh_inspect.web.measure [--seconds 10]

Prints a table for docs/mesh-inspect.md. The mesh of two thousand is behind a real socket, and 50 of
its members load; the eight are real workers, of which one is killed and one is stopped. The browser
draws without a GPU, as it does in a container: a frame of a person's own machine costs less. The
fastest of five tries counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect
from tests.forked import answer, start_mesh

from .browser import Complaints, launched, new_page
from .shown import web
from .workers import host, real_workers

MEMBERS: Final = 2000
LOADING: Final = 50

TRIES: Final = 5
"""Of so many the fastest counts: a busy machine makes some slow, a slow page all of them."""

_MARKS = """() => Object.fromEntries(performance.getEntries()
  .filter((one) => one.entryType === "paint" || one.entryType === "mark")
  .map((one) => [one.name, one.startTime / 1000]))"""

_FRAMES = """(seconds) => new Promise((done) => {
  const times = [];
  const frame = (now) => {
    times.push(now);
    if (now - times[0] < seconds * 1000) requestAnimationFrame(frame);
    else done(times);
  };
  requestAnimationFrame(frame);
})"""


def frames(page: Page, seconds: float) -> str:
    """Frames a second, and how long is between two: of some tries the fastest."""
    tries = [_gaps(page, seconds / TRIES) for _ in range(TRIES)]
    gaps = min(tries, key=lambda one: sum(one) / len(one))
    rate = 1000 * len(gaps) / sum(gaps)
    ordered = sorted(gaps)
    middle, late = ordered[len(gaps) // 2], ordered[int(0.99 * len(gaps))]
    return f"{rate:.0f} frames/s (median {middle:.0f} ms, 99 of 100 within {late:.0f} ms)"


def _gaps(page: Page, seconds: float) -> list[float]:
    """Milliseconds between frames."""
    times: list[float] = page.evaluate(_FRAMES, seconds)
    return [later - earlier for earlier, later in pairwise(times)]


def opened(browser: Browser, url: str) -> dict[str, float]:
    """When what was there, in seconds from the request of the page."""
    page = new_page(browser)
    page.goto(url)
    expect(page.locator("#mesh-size")).to_contain_text("members")
    # Until whatever the beginning cost is over.
    _gaps(page, 1.0)
    marks: dict[str, float] = page.evaluate(_MARKS)
    page.context.close()
    return marks


@contextmanager
def crowd() -> Iterator[str]:
    """The address of a map of the mesh of thousands."""
    command = ["crowd", str(MEMBERS), str(LOADING)]
    with ExitStack() as stack:
        process = stack.enter_context(start_mesh("tests.tools.mesh_inspect.moving", *command))
        seed = answer(process).strip()
        yield stack.enter_context(web("--mesh", "crowd", "--seed", seed, "--timeout", "30"))


def of_thousands(browser: Browser, seconds: float) -> Iterator[tuple[str, str]]:
    """What the page of the simulated mesh does."""
    with crowd() as url:
        # The first load waits for the server's first look at the mesh, which no other does.
        loads = [opened(browser, url) for _ in range(1 + TRIES)][1:]
        marks = min(loads, key=lambda one: one["interactive"])
        yield "first paint", f"{marks['first-contentful-paint']:.2f} s"
        yield "all modules run", f"{marks['page-ready']:.2f} s"
        yield f"{MEMBERS:,} members drawn", f"{marks['mesh-shown']:.2f} s"
        yield "time to interactive", f"{marks['interactive']:.2f} s"
        page = new_page(browser)
        complaints = Complaints(page)
        page.goto(url)
        expect(page.locator("#mesh-size")).to_contain_text("members")
        yield "transfers under way", page.locator("#transfers").inner_text()
        yield "the whole map", frames(page, seconds)
        page.mouse.dblclick(500, 300)
        yield "one host", frames(page, seconds)
        page.keyboard.press("t")
        yield "the table", frames(page, seconds)
        yield "errors on the console", str(len(complaints.found))
        page.context.close()


def of_workers(browser: Browser) -> Iterator[tuple[str, str]]:
    """How long the page of real workers takes to say what has become of one."""
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = stack.enter_context(real_workers(logs))
        arguments = ("--mesh", workers.mesh, "--seed", workers.seed)
        page = new_page(browser)
        page.goto(stack.enter_context(web(*arguments, env=workers.env)))
        page.get_by_role("button", name="Table").click()

        def until(number: int, text: str) -> str:
            line = page.locator("#table-body [role=row]").filter(has_text=f"{host(number)}:")
            began = time.monotonic()
            expect(line).to_contain_text(text)
            return f"{time.monotonic() - began:.1f} s"

        until(3, "loading")
        workers.pull(3, 4, 5)
        yield "a pull begins", until(3, "source")
        workers.signal(8, signal.SIGKILL)
        yield "a worker is killed", until(8, "dead")
        workers.signal(7, signal.SIGSTOP)
        yield "a worker is stopped", until(7, "stalled")
        workers.signal(7, signal.SIGCONT)
        yield "it goes on", until(7, "loading")
        page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with launched() as browser:
        print(f"Chromium {browser.version}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print("\n| 2,000 members, 50 loading | |\n|---|---|")
        for what, figure in of_thousands(browser, options.seconds):
            print(f"| {what} | {figure} |", flush=True)
        print("\n| 8 real workers | the page says so after |\n|---|---|")
        for what, figure in of_workers(browser):
            print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
