"""A picture of boxes, arrows and texts, as SVG.

It stands on white, so that it reads in a dark page as well. Widths of texts are estimates: a
browser's own font decides.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from html import escape
from typing import Final

INK: Final = "#263238"
PALE: Final = "#546e7a"
FILLS: Final = {
    "grey": ("#eceff1", "#90a4ae"),
    "blue": ("#e3f2fd", "#64b5f6"),
    "green": ("#e8f5e9", "#66bb6a"),
    "amber": ("#fff8e1", "#ffb74d"),
    "red": ("#ffebee", "#e57373"),
}
"""Fill and border by name."""

_WIDE: Final = 0.53
"""Mean width of a letter by the size of its font, for sans-serif ones."""


@dataclass
class Picture:
    """Shapes are drawn in the order in which they are added; units are pixels."""

    width: float
    title: str
    parts: list[str] = field(default_factory=list)

    def box(
        self,
        at: tuple[float, float],
        size: tuple[float, float],
        fill: str,
        name: str,
        text: str = "",
    ) -> None:
        """A rectangle with a name, and with a text below it that is broken into lines."""
        (x, y), (wide, high) = at, size
        inside, border = FILLS[fill]
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="5" '
            f'fill="{inside}" stroke="{border}"/>'
        )
        rows = lines(text, wide - 16)
        top = y + (high - 15 * (1 + len(rows))) / 2 + 12
        self.text((x + wide / 2, top), name, anchor="middle", bold=True)
        for number, row in enumerate(rows, 1):
            self.text((x + wide / 2, top + 15 * number), row, anchor="middle", size=11, ink=PALE)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        *,
        anchor: str = "start",
        size: int = 13,
        bold: bool = False,
        ink: str = INK,
    ) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{at[0]:g}" y="{at[1]:g}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{ink}"{weight}>{escape(text)}</text>'
        )

    def bar(self, at: tuple[float, float], size: tuple[float, float], fill: str) -> None:
        self.parts.append(
            f'<rect x="{at[0]:g}" y="{at[1]:g}" width="{size[0]:.1f}" height="{size[1]:g}" '
            f'fill="{FILLS[fill][1]}"/>'
        )

    def arrow(
        self, path: str, *, thick: float = 1.5, dashed: bool = False, ink: str = PALE
    ) -> None:
        """A line with a head at its end; `path` as in SVG: `M x,y L x,y`."""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{ink}" stroke-width="{thick:g}"{dashes} '
            f'marker-end="url(#head)"/>'
        )

    def svg(self, height: float) -> str:
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {height:g}" '
                f'width="{self.width:g}" font-family="sans-serif" role="img">',
                f"<title>{escape(self.title)}</title>",
                '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
                'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
                f'<path d="M0,0 L8,4 L0,8 z" fill="{PALE}"/></marker></defs>',
                f'<rect width="{self.width:g}" height="{height:g}" fill="white"/>',
                *self.parts,
                "</svg>",
                "",
            ]
        )


def lines(text: str, width: float, size: int = 11) -> list[str]:
    """A text broken to a width in pixels."""
    return textwrap.wrap(text, max(1, int(width / (size * _WIDE))))
