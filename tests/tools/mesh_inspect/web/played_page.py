"""A mesh that is what a test says, and what a test does to its page in a browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from playwright.sync_api import Page

from mesh_inspect.view.rows import RankPlace, rows_of
from mesh_inspect.watching import Sight
from mesh_inspect.web.settings import WebSettings
from netloader.discovery.advert import Feed, Holding
from netmesh import Member, Status

from ..support import GENERATION, holding, member

NOW = 1.79e9
FAST = WebSettings(period_s=0.05)
MODEL = "Qwen/Qwen3-8B"


def rank(number: int, of: int = 2) -> RankPlace:
    return RankPlace(of, number, 1, 0, 1, 0)


def address(host: int, port: int = 17946) -> str:
    return f"10.0.0.{host}:{port}"


def source(host: int, tp: int = 0, **changes: object) -> Holding:
    made = {"endpoint": f"10.0.0.{host}:{31000 + tp}", "transports": ("tcp",)} | changes
    return holding(MODEL, rank(tp), **made)


def replica(host: int, held: int, *sources: int, **changes: object) -> Holding:
    feeds = tuple(
        Feed(
            endpoint=f"10.0.0.{one}:31000",
            generation=int(GENERATION),
            nbytes=held // len(sources),
            rate=30 << 20,
        )
        for one in sources
    )
    made = {
        "state": "loading",
        "nbytes": 0,
        "total": 1000 << 20,
        "held": held,
        "rate": len(sources) * (30 << 20),
        "feeds": feeds,
        "pulling": len(sources),
        "origin": "",
        "endpoint": f"10.0.0.{host}:31000",
    } | changes
    return source(host, **made)


def swarm() -> list[Member]:
    """Two sources, a replica of both, one that waits for who reads storage, and some in trouble."""
    return [
        member(source(1), id=address(1), age_s=7000),
        member(source(2, serving=1), id=address(2), age_s=7000),
        member(replica(3, 420 << 20, 1, 2), id=address(3), age_s=9),
        member(replica(4, 100 << 20, storage="reading", rate=50 << 20), id=address(4), age_s=9),
        member(replica(5, 0, awaits=(address(4),), total=0), id=address(5), age_s=9),
        member(source(6, 1), id=address(6), status=Status.STALLED),
        member(source(7, 1), id=address(7), status=Status.DEAD),
        member(source(8, 1, state="unavailable", reason="its weights change"), id=address(8)),
        member(id=address(9)),
    ]


def newer(one: Member) -> Member:
    """The same with news: a version says what an observer need not read again."""
    return replace(one, version=one.version + 1)


def sight(*members: Member, silence: str | None = None, at: float = NOW) -> Sight:
    return Sight(at, members, rows_of(members), silence)


def options(page: Page) -> list[str]:
    return page.locator("#members [role=option]").all_text_contents()


def chip(page: Page, state: str) -> Any:
    return page.locator(f".chip.s-{state}")


def current(page: Page) -> str:
    """What a screen reader says about the member at the cursor."""
    number = page.locator("#members").get_attribute("aria-activedescendant")
    return page.locator(f"#{number}").inner_text()


def to_member(page: Page, id: str) -> None:
    """Move the cursor of the map to a member, by keys alone."""
    page.locator("#members").focus()
    page.keyboard.press("Home")
    for _ in range(len(options(page))):
        if current(page).endswith(id):
            return
        page.keyboard.press("PageDown")
    raise AssertionError(f"no key leads to {id}")


def point_of(page: Page, id: str) -> tuple[float, float]:
    """A point of the map at which the pointer is told of this member."""
    box = page.locator("#members").bounding_box()
    assert box is not None
    for down in (0.5, 0.4, 0.6):
        for across in range(20, int(box["width"]), 40):
            point = box["x"] + across, box["y"] + box["height"] * down
            page.mouse.move(*point)
            if id in page.locator("#hint").inner_text():
                return point
    raise AssertionError(f"{id} is nowhere on the map")
