"""A browser for the tests of the page: one for all of them, and a page for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from .browser import NAMES, REQUIRED, Complaints, executable, launched, new_page
from .played_page import FAST, sight, swarm
from .served import Screen, ServedMap, served

OpenPage = Callable[..., Page]

_MISSING: Final = f"none of {', '.join(NAMES)} is on PATH"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if executable() is None:
        if REQUIRED:
            pytest.fail(f"{_MISSING}, and NETLOADER_TEST_BROWSER is `required`")
        pytest.skip(_MISSING)
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages, of which none may complain on its console."""
    heard: list[Complaints] = []
    opened: list[Page] = []

    def make(url: str, *, complains: bool = False, **wishes: object) -> Page:
        page = new_page(browser, **wishes)  # type: ignore[arg-type]
        opened.append(page)
        if not complains:
            heard.append(Complaints(page))
        page.goto(url)
        return page

    yield make
    for page in opened:
        page.context.close()
    assert [text for one in heard for text in one.found] == []


@pytest.fixture
def screen() -> Screen:
    return Screen(sight(*swarm()))


@pytest.fixture
def server(screen: Screen) -> Iterator[ServedMap]:
    with served(screen, FAST) as made:
        yield made


@pytest.fixture
def page(server: ServedMap, open_page: OpenPage) -> Page:
    page = open_page(f"http://{server.host}/")
    expect(page.locator("#members [role=option]").first).to_be_attached()
    return page
