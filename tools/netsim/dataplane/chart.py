"""A small chart of lines over logarithmic axes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 40, 60
"""Margins, in pixels; the names of the lines stand in the right one."""

_STROKES: Final = ("#b03a2e", "#b9770e", "#1f618d", "#196f3d")

Points = Sequence[tuple[float, float]]


def draw(title: str, across: str, up: str, lines: Mapping[str, Points]) -> str:
    """An SVG document. All values must be above 0. `across` and `up` say what the axes show."""
    columns = [x for points in lines.values() for x, _ in points]
    rows = [y for points in lines.values() for _, y in points]
    low_x, high_x = min(columns), max(columns)
    low_y, high_y = 1.0, max(rows)

    def at(x: float, y: float) -> str:
        right = _share(x, low_x, high_x) * (_WIDTH - _LEFT - _RIGHT)
        rise = _share(y, low_y, high_y) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{_LEFT + right:.1f},{_HEIGHT - _BOTTOM - rise:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 12}">{escape(across)}</text>',
        f'<text transform="translate(16,{_HEIGHT - _BOTTOM}) rotate(-90)">{escape(up)}</text>',
    ]
    for x in sorted(set(columns)):
        foot, head = at(x, low_y), at(x, high_y)
        parts += [_rule(foot, head), _label(foot, f"{x:g}", "middle", 0, 18)]
    for y in _decades(low_y, high_y):
        begin, end = at(low_x, y), at(high_x, y)
        parts += [_rule(begin, end), _label(begin, f"{y:g}", "end", -6, 4)]
    for stroke, (name, points) in zip(_STROKES, lines.items(), strict=False):
        path = " ".join(at(x, max(y, low_y)) for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="2"/>')
        last = at(*points[-1])
        parts.append(_label(last, f"{name}: {points[-1][1]:.2f}", "start", 8, 4, stroke))
    return "\n".join([*parts, "</svg>", ""])


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low) if high > low else 0.0


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, ... between two values."""
    steps = [base * 10.0**power for power in range(9) for base in (1, 2, 5)]
    return [step for step in steps if low <= step <= high]


def _rule(begin: str, end: str) -> str:
    x1, y1 = begin.split(",")
    x2, y2 = end.split(",")
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#ddd"/>'


def _label(at: str, text: str, anchor: str, dx: int, dy: int, fill: str = "black") -> str:
    x, y = at.split(",")
    return (
        f'<text x="{x}" y="{y}" dx="{dx}" dy="{dy}" text-anchor="{anchor}" fill="{fill}">'
        f"{escape(text)}</text>"
    )
