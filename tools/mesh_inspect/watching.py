"""A mesh that is looked at again and again: for `-w`, `top`, `web` and `record`.

Members restart, and the one that is asked may be the next. What is shown must survive that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from mesh_inspect.looking import (
    DEFAULT_TIMEOUT_S,
    Inquiry,
    Observing,
    log_to_stderr,
)
from mesh_inspect.view.rows import AdvertReader, HoldingRow, rows_of
from netmesh import Member, MemberId, NoMeshError, SettingsError

INTERVAL_S: Final = 1.0
"""Between two looks. Each costs one member one answer."""

KEPT_S: Final = 5.0
"""For so long a record is kept which another one would take back.

A member that has just joined answers with the part of the table that it has, and news takes some
seconds to reach everybody. So when another member is asked, others seem to vanish or to go back.
"""


@dataclass(frozen=True, slots=True)
class Sight:
    """The mesh at one time."""

    at: float
    """Seconds since the epoch."""
    members: tuple[Member, ...]
    """In the order of ids. While nobody answers: as they were seen last."""
    rows: tuple[HoldingRow, ...]
    """Of all these members, as `rows_of` orders them."""
    silence: str | None = None
    """Why there is no newer answer; None: this is one."""
    answered_by: str = ""
    """The member whose table this is, as `host:port`."""


class Lookout:
    """Looks again and again, whenever asked to. Not for two threads at once."""

    def __init__(
        self,
        observer: Observing,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`timeout_s`: how long a look waits for an answer."""
        self._observer = observer
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._wall_s = wall_s
        self._read = AdvertReader()
        self._confirmed: dict[MemberId, float] = {}
        """When each record was shown last."""
        self._last: Sight | None = None

    def look(self) -> Sight:
        """The mesh now. Raises NoMeshError and SettingsError only until somebody has answered."""
        try:
            seen = self._observer.look(self._timeout_s)
        except (NoMeshError, SettingsError) as error:
            if self._last is None:
                raise
            return replace(self._last, at=self._wall_s(), silence=str(error))
        members = self._steadied(seen)
        rows = rows_of(members, read=self._read)
        self._read.next_look()
        answered_by = self._observer.answered_by
        self._last = Sight(self._wall_s(), members, rows, answered_by=answered_by)
        return self._last

    def _steadied(self, seen: tuple[Member, ...]) -> tuple[Member, ...]:
        """The members, and for some seconds what they take back."""
        now = self._monotonic()
        before = {} if self._last is None else {one.id: one for one in self._last.members}
        kept = {one.id: one for one in seen}
        confirmed = dict.fromkeys(kept, now)
        for id, old in before.items():
            since = self._confirmed[id]
            new = kept.get(id)
            taken_back = old.status.live if new is None else _is_older(new, old)
            if taken_back and now - since <= KEPT_S:
                kept[id], confirmed[id] = _with_verdict(old, new), since
        self._confirmed = confirmed
        return tuple(kept[id] for id in sorted(kept))


def sights(inquiry: Inquiry, interval_s: float = INTERVAL_S) -> Iterator[Sight]:
    """Look at once and then once in each interval, for ever.

    Raises SettingsError, and NoMeshError when nobody answers the first time.
    """
    means = inquiry.means
    with inquiry.observer(quiet=True) as observer:
        lookout = Lookout(
            observer,
            timeout_s=inquiry.timeout_s,
            monotonic=means.monotonic,
            wall_s=means.wall_s,
        )
        with log_to_stderr():
            sight = lookout.look()
        while True:
            due = means.monotonic() + interval_s
            yield sight
            means.pause(max(0.0, due - means.monotonic()))
            sight = lookout.look()


def _with_verdict(old: Member, new: Member | None) -> Member:
    """The record that is kept, with a verdict that is newer than it: that needs no advert."""
    if new is None or (new.generation, new.incarnation) != (old.generation, old.incarnation):
        return old
    return replace(old, status=max(old.status, new.status))


def _is_older(new: Member, old: Member) -> bool:
    """Whether somebody who has not heard the latest news would say so."""
    if new.generation != old.generation:
        return new.generation < old.generation
    return new.incarnation <= old.incarnation and new.version < old.version
