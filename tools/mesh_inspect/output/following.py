"""What changed since the last look, a line each: for people, and as JSON Lines for programs."""

from __future__ import annotations

import io
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from mesh_inspect.output.documents import ascii_json
from mesh_inspect.output.text import escape
from mesh_inspect.view.changes import by_member, difference, happenings, strides
from mesh_inspect.view.entries import Entry, entries_of, listed
from mesh_inspect.view.rows import HoldingRow
from mesh_inspect.watching import Sight

Choose = Callable[[Sequence[HoldingRow]], Sequence[HoldingRow]]
"""Which rows of a look somebody wants to see."""


def told(before: Sight, after: Sight, choose: Choose) -> Iterator[str]:
    """What happened between two looks, in words."""
    clock = time.strftime("%H:%M:%S", time.localtime(after.at))
    for text in _said(before, after, choose):
        yield f"{clock}  {escape(text)}"


def documents(before: Sight | None, after: Sight, choose: Choose, mesh: str) -> Iterator[str]:
    """The same for programs: at first the whole, then what to replace in it and what happened."""
    for document in _documents(before, after, choose, mesh):
        yield ascii_json(document, indent=False)


def stop_without_a_reader() -> None:
    """Raise BrokenPipeError if nobody reads what is printed: a mesh in which nothing happens would
    not show it for hours."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except io.UnsupportedOperation:
        return  # What is printed stays in this program.
    poll = select.poll()
    poll.register(descriptor, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        raise BrokenPipeError


def _said(before: Sight, after: Sight, choose: Choose) -> Iterator[str]:
    if after.silence != before.silence:
        yield f"nobody answers: {after.silence}" if after.silence else "somebody answers again"
    wanted = {row.member.id for sight in (before, after) for row in choose(sight.rows)}
    for one in happenings(before.rows, after.rows, after.at):
        if one.id in wanted:
            yield f"{one.id} {one.text}"
    for id, text in strides(before.rows, after.rows):
        if id in wanted:
            yield f"{id} {text}"


def _documents(before: Sight | None, after: Sight, choose: Choose, mesh: str) -> Iterator[Entry]:
    entries = entries_of(choose(after.rows), after.rows)
    if before is None:
        yield {"event": "mesh", **listed(entries, mesh), "at": after.at}
        return
    if after.silence != before.silence:
        yield {"event": "silence", "at": after.at, "text": after.silence}
    if after.silence is not None:
        return
    was = by_member(entries_of(choose(before.rows), before.rows))
    now = by_member(entries)
    replaced = difference(was, now)
    if replaced:
        changed = [entry for id in replaced.changed for entry in now[id]]
        yield {"event": "change", "at": after.at, "changed": changed, "gone": list(replaced.gone)}
    for one in happenings(before.rows, after.rows, after.at):
        if one.id in was or one.id in now:
            yield {"event": "happened", **one.document()}
