"""The map of two thousand members, behind a real socket, with 50 that load."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.forked import ForkedProcess, answer, start_mesh, tell

from .conftest import OpenPage
from .shown import web

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # two thousand adverts, and a server

MEMBERS = 2000
LOADING = 50

_DRAWS = """(seconds) => new Promise((done) => {
  const canvas = document.getElementById("moving");
  const context = canvas.getContext("2d");
  const clear = context.clearRect.bind(context);
  let frames = 0;
  context.clearRect = (x, y, width, height) => {
    if (x === 0 && y === 0) frames += 1;
    clear(x, y, width, height);
  };
  setTimeout(() => { delete context.clearRect; done(frames); }, seconds * 1000);
})"""


@pytest.fixture(scope="module")
def crowd() -> Iterator[tuple[ForkedProcess, str]]:
    """A mesh in which a second passes with each line that it is told, and where it is reached."""
    process = start_mesh(
        "tests.tools.mesh_inspect.moving", "crowd", str(MEMBERS), str(LOADING), "--by-line"
    )
    with process:
        yield process, answer(process).strip()


@pytest.fixture(scope="module")
def url(crowd: tuple[ForkedProcess, str]) -> Iterator[str]:
    with web("--mesh", "crowd", "--seed", crowd[1], "--timeout", "30") as url:
        yield url


@pytest.fixture
def page(url: str, open_page: OpenPage) -> Page:
    page = open_page(url)
    expect(page.locator("#mesh-size")).to_contain_text("members")
    return page


def test_everybody_is_there_and_the_page_stays_small(page: Page) -> None:
    expect(page.locator(".chip.s-loading .many")).to_have_text(str(LOADING))
    counted = sum(
        int(text.replace(",", "")) for text in page.locator("#states .many").all_inner_texts()
    )
    assert counted == MEMBERS
    page.keyboard.press("t")
    expect(page.locator("#table-scroll")).to_have_attribute("aria-rowcount", str(MEMBERS + 1))
    assert page.locator("#table-body [role=row]").count() < 60
    page.locator("#table-scroll").focus()
    page.keyboard.press("End")
    last = page.locator(f"#row-{MEMBERS - 1}")
    expect(last).to_be_in_viewport()
    assert page.locator("#table-body [role=row]").count() < 60


def test_somebody_is_found_among_them(page: Page) -> None:
    page.locator("#search").fill("host:10.0.0.77 state:ready")
    expect(page.locator("#found")).to_have_text(re.compile(rf"^[1-8] of {MEMBERS:,}$"))
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#facts")).to_contain_text("10.0.0.77")


def test_the_mesh_goes_on_and_the_page_with_it(
    page: Page, crowd: tuple[ForkedProcess, str]
) -> None:
    process, _ = crowd
    expect(page.locator("#nothing")).to_be_visible()
    for _ in range(8):
        tell(process, "")
        answer(process)
    expect(page.locator("#happened li").first).to_be_visible()
    expect(page.locator("#transfers")).to_have_text(re.compile(r"^\d+ transfers$"))
    # Bytes are under way, so frame follows frame.
    assert page.evaluate(_DRAWS, 1.0) > 1
