"""Pictures of the screen for the documentation, by textual's own export.

    python -m tests.tools.mesh_inspect.top.pictures

writes `docs/pictures/top-*.svg` anew. `test_pictures.py` compares what they say with the screen.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.tools.mesh_inspect.moving import MovingMesh
from tests.tools.mesh_inspect.top.playing import Player

FOLDER: Final = Path(__file__).parents[4] / "docs" / "pictures"

LOOKS: Final = 9
"""Of the mesh that is shown: so long its loads have gone on."""


@dataclass(frozen=True)
class Shot:
    """One picture."""

    keys: tuple[str, ...] = ()
    size: tuple[int, int] = (100, 28)
    light: bool = False


SHOTS: Final[Mapping[str, Shot]] = {
    "top-members": Shot(),
    "top-transfers": Shot(("2",)),
    "top-models": Shot(("3",)),
    "top-member": Shot(("2", "enter")),
    "top-match": Shot(("space", "down", "down", "space", "m"), (100, 9)),
    "top-light": Shot(("2",), light=True),
    "top-small": Shot(("2",), (40, 10)),
}

_FONT: Final = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)
_DARK: Final = {"#292929": "#ffffff", "#c5c8c6": "#24292f", "#868887": "#6e7781"}
"""rich's colours of a dark terminal, and those of a light one in their place."""


async def taken(shot: Shot) -> str:
    """The picture as SVG: nothing in it comes from elsewhere."""
    mesh = MovingMesh(48, 6)
    player = Player(shot.size)
    async with player.app.run_test(size=shot.size) as player.pilot:
        for _ in range(LOOKS):
            mesh.advance()
            await player.look(*mesh.members())
        await player.press(*shot.keys)
        svg = player.app.export_screenshot(title="mesh-inspect top")
    svg = _FONT.sub("\n", svg).replace("Fira Code, monospace", "monospace")
    for dark, light in _DARK.items() if shot.light else ():
        svg = svg.replace(dark, light)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()
    FOLDER.mkdir(exist_ok=True)
    for name, shot in SHOTS.items():
        (FOLDER / f"{name}.svg").write_text(asyncio.run(taken(shot)))
    print(f"{len(SHOTS)} pictures in {FOLDER}")


if __name__ == "__main__":
    main()
