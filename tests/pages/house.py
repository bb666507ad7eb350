"""The picture of parts and layers, drawn from the table that `tests/test_layers.py` holds."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

from tests.layers import LAYERS
from tests.pages.drawing import PALE, Picture, lines

_REPOSITORY: Final = Path(__file__).parents[2]
_ROOTS: Final = {"tools": "amber", "loader": "blue", "mesh": "green"}
_WIDTH, _LEFT, _GAP = 760, 78, 6

_FACE: Final = "netmesh.mesh"
"""Of floors that have no folder, only that of the mesh's face is shown."""


def picture() -> str:
    drawing = Picture(_WIDTH, "The rooms of the repository, each floor above those that it imports")
    y: float = 10
    before = ""
    for floor in LAYERS:
        rooms = [room for room in floor if _place(room).is_dir()]
        rooms = [room for room in rooms if room not in ("netloader", "netmesh")]
        if _FACE in floor:
            rooms = list(floor)
        if not rooms:
            continue
        root = _place(rooms[0]).relative_to(_REPOSITORY).parts[0]
        if root != before:
            y += 0 if not before else 14
            drawing.text((10, y + 20), f"{root}/", bold=True, ink=PALE)
            before = root
        wide = (_WIDTH - _LEFT - 10 - _GAP * (len(rooms) - 1)) / len(rooms)
        said = {room: _said(room) for room in rooms}
        high = 24 + 15 * max(len(lines(text, wide - 16)) for text in said.values())
        for number, room in enumerate(rooms):
            name = room.removeprefix("netloader.").removeprefix("netmesh.")
            at = (_LEFT + number * (wide + _GAP), y)
            drawing.box(at, (wide, high), _ROOTS[root], name, said[room])
        y += high + _GAP
    return drawing.svg(y + 4)


def _place(room: str) -> Path:
    path = Path(room.replace(".", "/"))
    found = [_REPOSITORY / root / path for root in _ROOTS if (_REPOSITORY / root / path).is_dir()]
    files = [_REPOSITORY / root / path.with_suffix(".py") for root in _ROOTS]
    return next(iter([*found, *(file for file in files if file.exists())]))


def _said(room: str) -> str:
    """The first sentence of a room's docstring."""
    place = _place(room)
    source = (place / "__init__.py" if place.is_dir() else place).read_text()
    said = " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())
    return said.replace("`", "").split(". ")[0].removesuffix(".")
