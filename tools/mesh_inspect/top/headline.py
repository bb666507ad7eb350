"""The lines above the lists: who is there, what moves, and how old the picture is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.cells import cell_len, set_cell_size

from mesh_inspect.output.text import escape
from mesh_inspect.top.picture import Picture
from mesh_inspect.view.words import human_age, human_bytes

GAP: Final = "  "
"""Between two pieces."""

LOW: Final = 16
"""Lines of a screen on which the head takes one of them only."""


@dataclass(frozen=True, slots=True)
class HeadWord:
    """Some words of a line."""

    text: str
    style: str = ""
    """As rich calls it."""
    drop: int = 0
    """On a narrow screen the piece with the highest number goes first; 0: it stays."""
    least: int | None = None
    """To how many characters it may be cut before any piece goes; None: it is never cut."""


OLD_S: Final = 2.5
"""Seconds after which a picture is not what is so: answers come once a second."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far the picture can be believed."""

    age_s: float | None = None
    """Since the last answer; None: nobody has answered yet."""
    answered_by: str = ""
    """The member whose table is shown."""
    silence: str = ""
    """Why nobody answers now; empty while somebody does."""
    paused: bool = False
    """Whether the operator holds the picture."""

    @property
    def sound(self) -> bool:
        """Whether the picture is what is so now."""
        return self.age_s is not None and not self.silent and not self.paused

    @property
    def silent(self) -> bool:
        """Whether nobody answers. A look that is not over yet counts once the picture is old."""
        return bool(self.silence) or (not self.paused and (self.age_s or 0.0) > OLD_S)


_STATUSES: Final = (
    *(("alive", ""), ("stalled", "yellow"), ("suspect", "yellow")),
    *(("dead", "bold red"), ("left", "dim")),
)

_DROPS: Final = {"dead": 2, "stalled": 3, "suspect": 4, "alive": 7, "left": 9}
"""Trouble stays longest."""


def headline(
    mesh: str, picture: Picture, fresh: Freshness, width: int, height: int
) -> tuple[tuple[HeadWord, ...], ...]:
    """The lines for a screen of that size, in characters."""
    members = len(picture.members)
    who = [
        HeadWord(f"mesh {mesh}", "bold", drop=6),
        HeadWord(f"{members} member{'' if members == 1 else 's'}", drop=1),
        *(
            HeadWord(f"{picture.statuses[status]} {status}", style, _DROPS[status])
            for status, style in _STATUSES
            if picture.statuses[status]
        ),
        HeadWord(f"{picture.ready} ready", "green", drop=5),
    ]
    loads = sum(not load.row.gone for load in picture.transfers.loads)
    rate = human_bytes(picture.transfers.rate)
    moving = HeadWord(f"{rate}/s in {loads} load{'' if loads == 1 else 's'}")
    # That nobody answers, or that the picture is held, matters more than what it shows.
    lines = [moving, *_told(fresh)] if fresh.sound else _told(fresh)
    if height < LOW:
        return (fitted([*lines[:1], *who], width),)
    return fitted(who, width), fitted(lines, width)


def _told(fresh: Freshness) -> list[HeadWord]:
    age = "" if fresh.age_s is None else human_age(fresh.age_s)
    told = []
    if fresh.paused:
        told.append(HeadWord(f"PAUSED, {age or '0s'} old", "reverse"))
    if fresh.silent:
        since = f" for {age}" if age else " yet"
        told.append(HeadWord(f"NOBODY ANSWERS{since}", "bold red reverse"))
        why = fresh.silence.partition("\n")[0]
        told.append(HeadWord(escape(why), "red", drop=9, least=20))
    elif fresh.age_s is None:
        told.append(HeadWord("looking for a member", "dim"))
    elif not fresh.paused:
        told.append(HeadWord(f"told by {escape(fresh.answered_by)}", drop=3))
        told.append(HeadWord(f"{age} ago", drop=2))
    return told


def fitted(pieces: Sequence[HeadWord], width: int) -> tuple[HeadWord, ...]:
    """The pieces that fit a line: first those that may be are cut, then the least important go. One
    stays, however narrow the line is."""
    staying = [piece for piece in pieces if piece.text]
    for place, piece in enumerate(staying):
        room = width - _length(staying) + cell_len(piece.text)
        if piece.least is not None and piece.least <= room < cell_len(piece.text):
            staying[place] = replace(piece, text=cut(piece.text, room))
    while _length(staying) > width and len(staying) > 1:
        droppable = [one for one in staying if one.drop] or staying[-1:]
        staying.remove(max(droppable, key=lambda one: one.drop))
    return tuple(staying)


def cut(text: str, width: int) -> str:
    """The text in at most that many columns of the screen; an ellipsis stands for the rest."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1)}…" if width > 1 else set_cell_size(text, width)


def _length(pieces: Sequence[HeadWord]) -> int:
    return sum(cell_len(one.text) for one in pieces) + len(GAP) * (len(pieces) - 1)
