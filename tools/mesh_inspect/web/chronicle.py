"""The time line of a recording, made while the file is read for the first time. Pure.

Most steps only say how far a transfer has come. They are told from others by a few fields, without
reading the adverts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from mesh_inspect.recording.lines import RecordedMember, RecordedStep
from mesh_inspect.view.changes import Happening, happenings
from mesh_inspect.view.rows import rows_of

LINES: Final = 20_000
"""Of the time line that are kept, the latest: a page shows a few hundred."""


@dataclass(frozen=True, slots=True)
class _Outlined:
    """A member in the last step that named it."""

    member: RecordedMember
    outline: Hashable
    """Equal as long as nothing happens."""


class Chronicle:
    """Takes the steps of a recording in, and has what happened in them."""

    def __init__(self) -> None:
        self.happened: deque[Happening] = deque(maxlen=LINES)
        self._known: dict[str, _Outlined] = {}
        self._first = True

    def add(self, step: RecordedStep) -> None:
        """The next step. What is there at the beginning has not happened."""
        named = {member.id: _Outlined(member, _outline(member)) for member in step.members}
        gone = set(step.gone) | (self._known.keys() - named.keys() if step.whole else set())
        if not self._first:
            self._tell(step.at, named, gone)
        self._first = self._first and step.silence is not None
        for id in gone:
            self._known.pop(id, None)
        self._known |= named

    def _tell(self, at: float, named: dict[str, _Outlined], gone: set[str]) -> None:
        eventful = {
            id
            for id, seen in named.items()
            if id not in self._known or self._known[id].outline != seen.outline
        }
        if not eventful and not gone:
            return
        told = eventful | gone
        if any(_accuses(named[id].member) for id in eventful):
            # Something happens to those that they accuse, whoever they are.
            told |= self._known.keys()
        was = [self._known[id].member.at(at) for id in told if id in self._known]
        are = [(named.get(id) or self._known[id]).member.at(at) for id in told - gone]
        self.happened.extend(happenings(rows_of(was), rows_of(are), at))


def _outline(member: RecordedMember) -> Hashable:
    listed = member.advert.get("holdings")
    holdings = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return (
        member.generation,
        member.status,
        *[
            repr([one.get(name) for name in ("role", "state", "identity", "storage", "accuses")])
            for one in holdings
        ],
    )


def _accuses(member: RecordedMember) -> bool:
    listed = member.advert.get("holdings")
    return isinstance(listed, list) and any(
        isinstance(one, dict) and one.get("accuses") for one in listed
    )
