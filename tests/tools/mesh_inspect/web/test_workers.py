"""The map of a real mesh: a swarm of real workers, of which one is stopped and one is killed."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import OpenPage
from .shown import web
from .workers import WORKERS, RealWorkers, host, real_workers

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # eight processes with torch

PULLING = (3, 4, 5, 6)
STOPPED, KILLED = 7, 8


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorkers]:
    with real_workers(tmp_path_factory.mktemp("workers")) as workers:
        yield workers


def option(page: Page, number: int) -> Locator:
    return page.locator("#members [role=option]").filter(has_text=f"{host(number)}:")


def test_a_swarm_a_stalled_and_a_dead_worker_are_shown(
    workers: RealWorkers, open_page: OpenPage
) -> None:
    with web("--mesh", workers.mesh, "--seed", workers.seed, env=workers.env) as url:
        page = open_page(url)
        expect(page.locator("#members [role=option]")).to_have_count(WORKERS)
        expect(option(page, 1)).to_contain_text("ready")
        workers.pull(*PULLING)
        for number in PULLING:
            # Tanks fill: some of it is there, and not all.
            filling = re.compile(r"loading, [1-9]\d?% of 48\.0 MiB")
            expect(option(page, number)).to_have_text(filling)
        page.get_by_role("button", name="Table").click()
        line = page.locator("#table-body [role=row]").filter(has_text=f"{host(3)}:")
        expect(line).to_contain_text(re.compile(r"\d+ sources"))
        line.click()
        # A swarm: replicas are sources of each other.
        sources = page.locator("#flow-from-list button")
        others = re.compile("|".join(re.escape(host(number)) for number in PULLING[1:]))
        expect(sources.filter(has_text=others).first).to_be_visible()
        expect(page.locator("#rate")).to_have_text(re.compile(r"^[\d.]+ [KM]iB/s$"))

        workers.signal(KILLED, signal.SIGKILL)
        dead = page.locator("#table-body [role=row]").filter(has_text=f"{host(KILLED)}:")
        expect(dead).to_contain_text("dead")
        workers.signal(STOPPED, signal.SIGSTOP)
        stalled = page.locator("#table-body [role=row]").filter(has_text=f"{host(STOPPED)}:")
        expect(stalled).to_contain_text("stalled")
        happened = page.locator("#happened li")
        expect(happened.filter(has_text="died")).to_contain_text(host(KILLED))
        expect(happened.filter(has_text="stalled")).to_contain_text(host(STOPPED))
        workers.signal(STOPPED, signal.SIGCONT)
        expect(stalled).not_to_contain_text("stalled")
        page.close()
