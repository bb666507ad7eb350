"""Bars drawn from the tables of the pages of evidence: figures stand once, in their table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.pages.drawing import PALE, Picture

_EVIDENCE: Final = Path(__file__).parents[2] / "docs" / "evidence"
_WIDTH, _LEFT, _RIGHT = 760, 250, 90

Bars = Mapping[str, Mapping[str, float]]
"""Values by group, and in it by what they are of."""

_FILLS: Final = ("grey", "blue", "red", "green")


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, its head first. Raises `ValueError`."""
    text = (_EVIDENCE / page).read_text()
    table = text[text.index(f"\n{heading}\n") :].split("\n|", 1)[1].split("\n\n", 1)[0]
    lines = ("|" + table).splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:])]


def number(cell: str) -> float:
    """The first number in a cell, bold or not. Raises `ValueError` without one."""
    found = re.search(r"\d+(\.\d+)?", cell)
    if found is None:
        raise ValueError(f"no number in {cell!r}")
    return float(found[0])


def pair() -> str:
    """Rates of one pair, beside plain Gloo and upstream's algorithm."""
    found = {}
    for cells in rows("benchmarks.md", "### One pair, whole loads")[1:]:
        if cells[0].startswith("`pair") and "--cold" not in cells[0]:
            name = cells[0].strip("`").removeprefix("pair --shape ").split()[0]
            names = ("plain Gloo, unverified", "this package, verified", "upstream's algorithm")
            shape = {"llama": "llama: tensors up to 65 MB", "moe": "moe: 5,000 tensors of 200 KB"}
            found[shape[name]] = dict(zip(names, map(number, cells[1:4]), strict=True))
    return drawn("One pair on loopback, GB/s: more is better", found, "GB/s")


def sources() -> str:
    """Seconds of a load from several sources, each behind a limited link."""
    table = rows("benchmarks.md", "### Several sources")[1:]
    found = {f"{cells[0]} of 4 sources": {"": number(cells[1])} for cells in table}
    return drawn("1 GB, each source behind 400 Mbit/s, seconds: less is better", found, "s")


def starts() -> str:
    """Seconds in `load_model`."""
    table = rows("benchmarks.md", "### Starts")[1:]
    names = {"`auto`": "storage, page cache", "with a peer on the host": "with a peer on the host"}
    names["Netloader alone"] = "this package, no peer"
    found = {names[cells[0]]: {"": number(cells[1])} for cells in table if cells[0] in names}
    return drawn("Seconds in load_model, 0.9 GB: less is better", found, "s")


def crash() -> str:
    """Until everybody knows of a crash, in virtual time."""
    commands = {
        "`crash --members 2000`": "this package",
        "`crash --members 2000 --protocol memberlist`": "memberlist's rules",
    }
    found = {}
    for cells in rows("simulation.md", "## Measured")[1:]:
        if cells[1] in commands:
            found[commands[cells[1]]] = {"": number(cells[2].split("p99")[1])}
    return drawn("A crash among 2,000 members, p99 of seconds until known", found, "s")


def drawn(title: str, bars: Bars, unit: str) -> str:
    """Horizontal bars, those of a group together. Raises `ValueError` if there are none."""
    most = max(value for group in bars.values() for value in group.values())
    drawing = Picture(_WIDTH, title)
    drawing.text((10, 24), title, bold=True)
    y = 44.0
    for name, group in bars.items():
        drawing.text((10, y + 14), name)
        for fill, (part, value) in zip(_colours(group), group.items(), strict=True):
            wide = max(1.0, value / most * (_WIDTH - _LEFT - _RIGHT))
            drawing.bar((_LEFT, y), (wide, 18), fill)
            words = f"{value:g} {unit}" + (f", {part}" if part else "")
            inside = wide > 260 and bool(part)
            drawing.text(
                (_LEFT + wide - 6, y + 13) if inside else (_LEFT + wide + 6, y + 13),
                words,
                anchor="end" if inside else "start",
                size=11,
                ink="black" if inside else PALE,
            )
            y += 21
        y += 10
    return drawing.svg(y)


def _colours(group: Mapping[str, float]) -> Sequence[str]:
    return _FILLS[: len(group)] if len(group) > 1 else ("blue",)
