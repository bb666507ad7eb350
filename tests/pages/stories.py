"""Pictures of what happens: a start among peers, and the life of a member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netmesh.core.records import Status
from netmesh.core.states import TRANSITIONS, Cause
from tests.pages.drawing import PALE, Picture

_CHUNKS: Final = "#1e88e5"


def start() -> str:
    """A worker that starts beside two others, of which one loads as well."""
    drawing = Picture(760, "A worker takes weights from two peers while a third one follows")
    workers = (
        (20, "green", "worker 1", "has everything: it read storage once, and is a source"),
        (280, "blue", "worker 2", "loads: verifies each chunk, and hands it on"),
        (540, "blue", "worker 3", "loads as well: gets from worker 2 what worker 2 has"),
    )
    for x, fill, name, text in workers:
        drawing.box((x, 120), (200, 90), fill, name, text)
    drawing.box((45, 262), (150, 46), "grey", "storage", "read by one of them")
    drawing.arrow("M 120,262 L 120,214", thick=2)
    drawing.arrow("M 220,150 L 276,150", thick=4, ink=_CHUNKS)
    drawing.arrow("M 480,150 L 536,150", thick=4, ink=_CHUNKS)
    drawing.arrow("M 540,182 L 484,182", thick=2, ink=_CHUNKS)
    drawing.arrow("M 150,120 C 250,66 510,66 610,116", thick=2, ink=_CHUNKS)
    drawing.text((380, 68), "chunks, over process groups of two", anchor="middle", size=12)
    drawing.arrow("M 150,210 C 190,250 330,250 370,214", dashed=True)
    drawing.arrow("M 390,210 C 430,250 570,250 610,214", dashed=True)
    drawing.text((500, 264), "gossip: who is there, who has what", anchor="middle", size=12)
    drawing.text((380, 30), "Workers serve each other while they load", anchor="middle", bold=True)
    return drawing.svg(324)


_AT: Final[Mapping[Status, tuple[float, float]]] = {
    Status.ALIVE: (30, 130),
    Status.STALLED: (220, 130),
    Status.SUSPECT: (420, 130),
    Status.DEAD: (620, 130),
    Status.LEFT: (30, 270),
}
_FILL: Final[Mapping[Status, str]] = {
    Status.ALIVE: "green",
    Status.STALLED: "amber",
    Status.SUSPECT: "amber",
    Status.DEAD: "red",
    Status.LEFT: "grey",
}
_ARROWS: Final[tuple[tuple[Status, Status, str, tuple[float, float], str], ...]] = (
    (
        Status.ALIVE,
        Status.STALLED,
        "M 140,150 L 216,150",
        (178, 190),
        "its kernel answers, it does not",
    ),
    (Status.STALLED, Status.SUSPECT, "M 330,150 L 416,150", (373, 190), "for 120 s"),
    (Status.SUSPECT, Status.DEAD, "M 530,150 L 616,150", (573, 190), "no refutation in time"),
    (
        Status.ALIVE,
        Status.SUSPECT,
        "M 100,130 C 160,70 400,70 455,126",
        (277, 80),
        "nothing answers",
    ),
    (
        Status.ALIVE,
        Status.DEAD,
        "M 70,130 C 140,10 580,10 675,126",
        (373, 34),
        "connections are refused, seen by two",
    ),
    (Status.ALIVE, Status.LEFT, "M 70,170 L 70,266", (78, 262), "says goodbye"),
)
"""From, to, how, and where the words stand. Those who come back, and goodbyes of others, are told
by one arrow each."""


def life() -> str:
    """The statuses of a member. Raises `ValueError` for an arrow that no transition goes along."""
    drawing = Picture(760, "The life of a member: how its status changes")
    for before, then, path, words, text in _ARROWS:
        if (before, then) not in {(a, b) for (a, _), b in TRANSITIONS.items()}:
            raise ValueError(f"no transition leads from {before} to {then}")
        drawing.arrow(path)
        for number, line in enumerate(text.split(", ") if then is Status.STALLED else [text]):
            anchor = "start" if then is Status.LEFT else "middle"
            drawing.text((words[0], words[1] + 14 * number), line, anchor=anchor, size=11, ink=PALE)
    for status, at in _AT.items():
        drawing.box(at, (110, 40), _FILL[status], status.name)
    drawing.arrow("M 675,170 L 675,240 L 110,240 L 110,174", dashed=True)
    for x in (275, 475):
        drawing.parts.append(
            f'<path d="M {x},170 L {x},240" stroke="{PALE}" stroke-dasharray="5 4"/>'
        )
    drawing.text(
        (400, 256),
        "comes back: a higher incarnation, or a newer generation",
        anchor="middle",
        size=11,
        ink=PALE,
    )
    return drawing.svg(324)


def transitions() -> str:
    """All transitions as a table: what a cause makes of each status."""
    columns = [None, *Status]
    head = ["cause", "unknown", *(status.name for status in Status)]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for cause in Cause:
        cells = [TRANSITIONS.get((before, cause)) for before in columns]
        rows.append(
            "| "
            + " | ".join([f"`{cause.value}`", *(c.name if c is not None else "" for c in cells)])
            + " |"
        )
    return "\n".join(rows)
