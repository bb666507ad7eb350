"""How the page of the live map looks: dark and light, calm, small, to a screen reader, replayed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from netloader.discovery.advert import Accused
from netmesh import Member

from ..support import GENERATION, member
from .conftest import OpenPage
from .played_page import (
    NOW,
    address,
    chip,
    newer,
    replica,
    sight,
    source,
    to_member,
)
from .served import Screen, ServedMap
from .shown import record, web

pytestmark = pytest.mark.browser


def test_dark_and_light(server: ServedMap, open_page: OpenPage) -> None:
    page = open_page(f"http://{server.host}/", look="light")
    colour = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark or light").click()
    dark = page.evaluate(colour)
    assert light != dark
    page.reload()
    assert page.evaluate(colour) == dark
    other = open_page(f"http://{server.host}/", look="dark")
    assert other.evaluate(colour) == dark


MOVES = """() => new Promise((done) => {
  const canvas = document.getElementById("moving");
  const first = canvas.toDataURL();
  let left = 10;
  const look = () => {
    left -= 1;
    if (canvas.toDataURL() !== first) done(true);
    else if (left === 0) done(false);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""


@pytest.mark.parametrize("still", [False, True])
def test_bytes_move_unless_somebody_wants_it_calm(
    server: ServedMap, open_page: OpenPage, still: bool
) -> None:
    page = open_page(f"http://{server.host}/", still=still)
    expect(page.locator("#transfers")).to_have_text("2 transfers, 1 storage read")
    if still:
        # A frame in which the tanks reach their level, and the rest of them.
        page.evaluate(MOVES)
    assert page.evaluate(MOVES) is not still


@pytest.mark.parametrize(
    ("width", "height", "density"), [(1280, 800, 1), (640, 400, 2), (390, 844, 2), (320, 568, 2)]
)
def test_nothing_is_cut_off_on_a_small_page(
    server: ServedMap, open_page: OpenPage, width: int, height: int, density: float
) -> None:
    """640 by 400 is what a page of 1280 by 800 has at 200 %."""
    page = open_page(f"http://{server.host}/", width=width, height=height, density=density)
    expect(page.locator("#members [role=option]")).to_have_count(9)
    wide = "() => document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    to_member(page, address(3))
    page.keyboard.press("Enter")
    expect(page.locator("#panel-title")).to_be_in_viewport()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_in_viewport()
    assert page.evaluate(wide) <= 0


def test_letters_are_keys_only_while_somebody_wants_that(page: Page) -> None:
    page.keyboard.press("?")
    page.locator("#letters").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("t")
    expect(page.locator("#table")).to_be_hidden()


@pytest.mark.parametrize("look", ["dark", "light"])
def test_an_accessibility_checker_finds_nothing_serious(
    server: ServedMap, open_page: OpenPage, look: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # The checker is a script of another: the page's own policy does not let it in.
    page = open_page(f"http://{server.host}/", look=look)
    expect(page.locator("#members [role=option]")).to_have_count(9)
    found: list[tuple[str, str, str]] = []

    def check(where: str) -> None:
        violations = Axe().run(page).response["violations"]
        found.extend(
            (where, one["id"], node["html"][:120])
            for one in violations
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        )

    check("map")
    to_member(page, address(3))
    page.keyboard.press("Enter")
    expect(page.locator("#record")).not_to_be_empty()
    check("panel")
    page.keyboard.press("m")
    to_member(page, address(6))
    page.keyboard.press("Enter")
    expect(page.locator("#match-ba .verdict")).to_have_count(1)
    check("match")
    page.keyboard.press("t")
    check("table")
    page.keyboard.press("?")
    check("help")
    assert found == []


def test_an_accused_source_is_named_so(page: Page, screen: Screen) -> None:
    wronged = source(2, accuses=(Accused(endpoint="10.0.0.1:31000", generation=int(GENERATION)),))
    screen.show(sight(member(source(1), id=address(1)), newer(member(wronged, id=address(2)))))
    expect(chip(page, "accused").locator(".many")).to_have_text("1")
    to_member(page, address(1))
    page.keyboard.press("Enter")
    expect(page.locator("#panel-reason")).to_have_text("sent wrong bytes to 1 member")


def test_a_recording_is_played_paused_and_wound(tmp_path: Path, open_page: OpenPage) -> None:
    def grown(held: int, version: int) -> Member:
        return replace(member(replica(3, held, 1), id=address(3)), version=version)

    one = member(source(1), id=address(1))
    moments = {NOW + 10 * step: (one, grown(step * (100 << 20), step + 1)) for step in range(9)}
    record(tmp_path / "night.rec", "nightly", moments)
    with web("--replay", str(tmp_path / "night.rec")) as url:
        page = open_page(url)
        expect(page).to_have_title(re.compile("^nightly"))
        expect(page.locator("#replay")).to_be_visible()
        page.keyboard.press("p")
        expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
        seek = page.get_by_label("Time in the recording")
        seek.fill(str(NOW + 40))
        expect(page.locator("#replay-at")).to_have_text("2026-09-21 14:14:00")
        to_member(page, address(3))
        page.keyboard.press("Enter")
        expect(page.locator("#tank-bytes")).to_have_text("400 MiB of 1000 MiB")
        page.get_by_label("Speed").select_option("60")
        page.keyboard.press("Escape")
        page.locator("#play").click()
        expect(page.locator("#replay-at")).to_have_text("2026-09-21 14:14:40")
        page.close()
