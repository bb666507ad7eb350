"""Makes the screenshots of the live map.

    python -m tests.tools.mesh_inspect.web.pictures [NAME...]

They go to docs/pictures. The meshes are scripted, so that a picture shows at once what takes a real
mesh minutes; the page, its server and what it says of them are the real ones.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, expect
from tests.forked import ROOT

from mesh_inspect.view.rows import RankPlace, rows_of
from mesh_inspect.watching import Sight
from mesh_inspect.web.settings import WebSettings
from netloader.discovery.advert import Feed, Holding
from netmesh import Generation, Member, MemberId, Status

from ..moving import MovingMesh
from ..support import advert, holding
from .browser import launched, new_page
from .served import Screen, served
from .shown import record, web

PICTURES: Final = ROOT / "docs" / "pictures"

NOW: Final = 1_795_000_000.0
TICK: Final = WebSettings(period_s=0.1)

DENSE: Final = ("org/dense-70b", 8, 17_600_000_000)
CODER: Final = ("org/coder-32b", 4, 16_400_000_000)

COMES: Final = {3: 0, 4: 6, 5: 12}
"""Hosts of replicas, and after how many seconds each comes."""

FROM: Final = {3: (1, 2), 4: (1, 3), 5: (2, 4)}
"""Whom each host pulls from."""

Model = tuple[str, int, int]


STEP_S: Final = 3
"""Seconds between two looks: what takes a minute is seen in a second."""


class Night:
    """A swarm as it spreads. Two hosts of `DENSE` are there; three more come and feed each other,
    and one of `CODER` reads storage. Some seconds pass with each call of `members`."""

    def __init__(self) -> None:
        self._second = -STEP_S

    @property
    def now(self) -> float:
        return NOW + self._second

    def members(self) -> tuple[Member, ...]:
        """All members, some seconds later."""
        self._second += STEP_S
        return (
            *(self._source(host, rank, DENSE) for host in (1, 2) for rank in range(8)),
            *(self._replica(host, rank) for host in COMES for rank in range(8)),
            *(self._coder(rank) for rank in range(8) if self._second >= COMES[4]),
        )

    def _member(self, host: int, rank: int, one: Holding, **changes: object) -> Member:
        began_s = started_of(host)
        member = Member(
            MemberId(f"10.20.0.{host}:{17946 + rank}"),
            generation(host, rank),
            0,
            Status.ALIVE,
            int(self._second) + 10,
            advert(one),
            self.now - began_s,
        )
        return replace(member, **changes)  # type: ignore[arg-type]

    def _holding(self, host: int, rank: int, model: Model, **changes: object) -> Holding:
        name, size, nbytes = model
        made: dict[str, object] = {
            "endpoint": endpoint(host, rank),
            "transports": ("nccl", "tcp"),
            "nbytes": nbytes,
            "origin": "peers",
            "carried": ("nccl",),
        }
        place = RankPlace(size, rank % size, 1, 0, 1, 0)
        return holding(name, place, **(made | changes))

    def _source(self, host: int, rank: int, model: Model) -> Member:
        status = Status.ALIVE
        if (host, rank) == (2, 6) and self._second > 20:
            status = Status.DEAD
        if (host, rank) == (1, 5) and self._second > 15:
            status = Status.STALLED
        one = self._holding(host, rank, model, serving=2 if status is Status.ALIVE else 0)
        return self._member(host, rank, one, status=status, incarnation=int(self._second > 15))

    def _replica(self, host: int, rank: int) -> Member:
        total = DENSE[2]
        passed_s = max(0, self._second - COMES[host])
        pace = total * (0.019 + 0.0007 * ((rank * 5 + host) % 7))
        held = min(total, int(pace * passed_s))
        if held == total:
            return self._source(host, rank, DENSE)
        fed = [one for one in FROM[host] if (one, rank) not in ((2, 6), (1, 5))]
        swing = 1 + 0.25 * math.sin(self._second / 5 + rank)
        rate = int(pace * swing / len(fed)) if passed_s else 0
        feeds = tuple(
            Feed(
                endpoint=endpoint(one, rank),
                generation=int(generation(one, rank)),
                nbytes=held // len(fed),
                rate=rate,
            )
            for one in fed
        )
        one = self._loading(
            host, rank, DENSE, held, rate * len(fed), feeds=feeds, sharing=True, pulling=len(fed)
        )
        return self._member(host, rank, one)

    def _coder(self, rank: int) -> Member:
        total = CODER[2]
        if rank < 4:
            pace = total * (0.012 + 0.001 * rank)
            held = int(pace * (self._second - COMES[4]))
            one = self._loading(6, rank, CODER, held, int(pace), storage="reading")
        else:
            one = self._loading(6, rank, CODER, 0, 0, awaits=(f"10.20.0.6:{17946 + rank - 4}",))
        return self._member(6, rank, one)

    def _loading(
        self, host: int, rank: int, model: Model, held: int, rate: int, **changes: object
    ) -> Holding:
        made: dict[str, object] = {
            "state": "loading",
            "nbytes": 0,
            "origin": "",
            "carried": (),
            "total": model[2],
            "held": held,
            "rate": rate,
        }
        return self._holding(host, rank, model, **(made | changes))


def endpoint(host: int, rank: int) -> str:
    return f"10.20.0.{host}:{31000 + rank}"


def started_of(host: int) -> float:
    """When the processes of a host began, in seconds since the epoch."""
    return NOW - 9000 - 700 * host if host < 3 else NOW + COMES.get(host, COMES[4]) - 1


def generation(host: int, rank: int) -> Generation:
    return Generation((int(started_of(host) * 1000) << 22) | (host * 8 + rank))


def sight(members: tuple[Member, ...], at: float) -> Sight:
    ordered = tuple(sorted(members, key=lambda one: one.id))
    return Sight(at, ordered, rows_of(ordered), None)


def play(page: Page, screen: Screen, looks: Iterable[Sight]) -> None:
    """Let the mesh go on before the eyes of the page."""
    for look in looks:
        screen.show(look)
        screen.looked(2)
        page.wait_for_timeout(120)


@contextmanager
def night(browser: Browser, **wishes: Any) -> Iterator[Page]:
    """A page on which a swarm has spread for a while."""
    scripted = Night()
    screen = Screen(sight(scripted.members(), scripted.now))
    with served(screen, TICK, mesh="default") as server:
        page = new_page(browser, **wishes)
        page.goto(f"http://{server.host}/")
        expect(page.locator("#mesh-size")).to_contain_text("members")
        play(page, screen, (sight(scripted.members(), scripted.now) for _ in range(13)))
        yield page
        page.context.close()


def shoot(page: Page, name: str) -> None:
    """Take the picture once nothing is on its way to its place any more."""
    page.mouse.move(2, 2)
    page.evaluate("() => document.activeElement.blur()")
    page.wait_for_timeout(900)
    path = PICTURES / name
    # Of thousands of small things a PNG would have half a megabyte.
    quality = 82 if path.suffix == ".jpg" else None
    page.screenshot(path=path, type="jpeg" if quality else "png", quality=quality)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def choose(page: Page, *ids: str) -> None:
    """Choose members by the address of the page, as a link from somebody would."""
    page.evaluate(
        "(place) => { location.hash = place; }", urlencode([("member", id) for id in ids])
    )
    expect(page.locator("#panel")).to_be_visible()


def map_dark(browser: Browser) -> None:
    with night(browser) as page:
        shoot(page, "map.png")


def map_light(browser: Browser) -> None:
    with night(browser, look="light") as page:
        choose(page, "10.20.0.4:17949")
        shoot(page, "map-light.png")


def map_match(browser: Browser) -> None:
    with night(browser) as page:
        choose(page, "10.20.0.1:17946", "10.20.0.6:17948")
        expect(page.locator("#match-ba .verdict")).to_be_visible()
        shoot(page, "map-match.png")


def map_crowd(browser: Browser) -> None:
    mesh = MovingMesh(2000, 50, now_s=NOW)
    for _ in range(6):
        mesh.advance()
    screen = Screen(sight(mesh.members(), mesh.now_s))

    def goes_on() -> Iterator[Sight]:
        for _ in range(8):
            mesh.advance()
            yield sight(mesh.members(), mesh.now_s)

    with served(screen, TICK, mesh="default") as server:
        page = new_page(browser)
        page.goto(f"http://{server.host}/")
        expect(page.locator("#mesh-size")).to_contain_text("members")
        play(page, screen, goes_on())
        shoot(page, "map-crowd.jpg")
        page.context.close()


def map_replay(browser: Browser) -> None:
    scripted = Night()
    moments = {}
    for _ in range(26):
        members = tuple(sorted(scripted.members(), key=lambda one: one.id))
        moments[scripted.now] = members
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder) / "night.rec", "default", moments)
        with web("--replay", str(Path(folder) / "night.rec")) as url:
            page = new_page(browser, look="light")
            page.goto(url)
            expect(page.locator("#replay")).to_be_visible()
            page.keyboard.press("p")
            page.get_by_label("Time in the recording").fill(str(NOW + 42))
            page.keyboard.press("g")
            shoot(page, "map-replay.png")
            page.context.close()


ALL: Final[dict[str, Callable[[Browser], None]]] = {
    "map": map_dark,
    "map-light": map_light,
    "map-match": map_match,
    "map-crowd": map_crowd,
    "map-replay": map_replay,
}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with launched() as browser:
        for name in sys.argv[1:] or ALL:
            ALL[name](browser)


if __name__ == "__main__":
    main()
