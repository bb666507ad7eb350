"""Which columns of a list fit a screen, and how wide they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

GAP: Final = 2
"""Between two columns."""


@dataclass(frozen=True, slots=True)
class ColumnRoom:
    """The room that one column asks for."""

    width: int
    """What its cells take."""
    least: int
    """Narrower it says nothing."""
    drop: int
    """Where there is no room, the column with the highest number goes first; 0: it stays."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A column on the screen."""

    index: int
    """Among those that asked."""
    start: int
    width: int


def placed(columns: Sequence[ColumnRoom], screen: int) -> tuple[Placed, ...]:
    """The columns that fit `screen`, in their order.

    A column gives up width, the widest first, down to its least. If that is not enough, columns go.
    One stays, however narrow the screen is.
    """
    staying = list(range(len(columns)))
    while _least([columns[n] for n in staying]) > screen and len(staying) > 1:
        droppable = [n for n in staying if columns[n].drop] or staying[-1:]
        staying.remove(max(droppable, key=lambda n: columns[n].drop))
    widths = {n: max(columns[n].width, columns[n].least) for n in staying}
    excess = sum(widths.values()) + GAP * (len(staying) - 1) - screen
    for _ in range(max(0, excess)):
        n = max(staying, key=lambda n: (widths[n] - columns[n].least, widths[n]))
        if widths[n] <= columns[n].least:
            break
        widths[n] -= 1
    found, start = [], 0
    for n in staying:
        width = min(widths[n], screen - start)
        if width <= 0:
            break
        found.append(Placed(n, start, width))
        start += width + GAP
    return tuple(found)


def _least(columns: Sequence[ColumnRoom]) -> int:
    return sum(one.least for one in columns) + GAP * (len(columns) - 1)
