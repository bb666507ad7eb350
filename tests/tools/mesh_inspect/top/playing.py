"""The screen without a terminal: keys that are pressed, and what it then shows as text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html import unescape
from typing import Final

from textual.pilot import Pilot

from mesh_inspect.top.app import Top
from mesh_inspect.view.rows import rows_of
from mesh_inspect.watching import Sight
from netmesh import Member, MeshSettings

ANSWERED_BY: Final = "10.0.0.1:17946"

_TEXT: Final = re.compile(r'<text [^>]* x="([\d.]+)" [^>]*-line-(\d+)\)">([^<]*)</text>')

_CHARACTER: Final = 12.2
"""Width of a character in rich's pictures."""


def text_of(svg: str) -> list[str]:
    """The lines of a screen's picture, without blanks at their ends."""
    lines: dict[int, str] = {}
    for x, line, text in _TEXT.findall(svg):
        so_far = lines.get(int(line), "").ljust(round(float(x) / _CHARACTER))
        lines[int(line)] = so_far + unescape(text).replace("\xa0", " ")
    return [lines.get(number, "").rstrip() for number in range(max(lines, default=-1) + 1)]


class Player:
    """Somebody at the screen, and the mesh behind it. Only `look` and `wait` move the clock."""

    def __init__(self, size: tuple[int, int] = (80, 24)) -> None:
        self.now_s = 100.0
        self.size = size
        self.app = Top(MeshSettings(name="prod"), lambda: self.now_s)
        self.pilot: Pilot[int] | None = None
        self._last = Sight(self.now_s, (), ())

    async def look(self, *members: Member) -> None:
        """The mesh answers with these members."""
        self.now_s += 1.0
        self._last = Sight(self.now_s, members, rows_of(members), answered_by=ANSWERED_BY)
        self.app.take(self._last)
        await self.settled()

    async def silence(self, reason: str = "no member of mesh 'prod' answered within 3 s") -> None:
        """A look that nobody answers."""
        self.now_s += 3.0
        self.app.take(replace(self._last, at=self.now_s, silence=reason))
        await self.settled()

    async def press(self, *keys: str) -> None:
        assert self.pilot is not None
        await self.pilot.press(*keys)
        await self.settled()

    async def settled(self) -> None:
        assert self.pilot is not None
        await self.pilot.pause()

    @property
    def lines(self) -> list[str]:
        """What the screen shows."""
        return text_of(self.app.export_screenshot())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def played(scene: Callable[[Player], Awaitable[None]], size: tuple[int, int] = (80, 24)) -> Player:
    """Play a scene from the start of the screen to its end."""

    async def play() -> Player:
        player = Player(size)
        async with player.app.run_test(size=size, notifications=True) as player.pilot:
            await scene(player)
        return player

    return asyncio.run(play())
