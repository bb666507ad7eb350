"""Whom to open a session with, of those who have the weights or are getting them. Pure.

A replica needs few sources: each costs threads, and an accelerator's memory for a group. Whom it
takes decides how chunks spread among replicas that start together. Its places go, in this order:

    near       to sources on this host, whose bytes do not cross the host's link; one place is
               left for another host
    complete   to one source that has everything, while there are others; what nobody else has
               comes from there
    partial    to other replicas, first those that serve the fewest; equals are drawn by the names
               of both, so that no two replicas draw alike

If one of these kinds is missing, the others get its places. Where nobody else pulls, the first
candidates are taken in the order in which they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A member that could serve this replica."""

    endpoint: str
    complete: bool = True
    """Whether it has everything; otherwise it is a replica that still loads."""
    near: bool = False
    """Whether it is on this host."""
    serving: int = 0
    """How many sessions it serves, as far as is known."""


def neighbours(
    me: str, used: Iterable[Neighbour], free: Sequence[Neighbour], degree: int
) -> list[Neighbour]:
    """Those of `free` with which to open sessions now, first the most useful. `used` are those with
    which there are sessions, or attempts at one; there shall be up to `degree` in all. `free` are
    in the order that `discovery.selection` gives them, best first. `me` is this replica's name.
    """
    taken = list(used)
    room = degree - len(taken)
    if room <= 0:
        return []
    near = [one for one in free if one.near]
    complete = [one for one in free if one.complete and not one.near]
    partial = sorted(
        (one for one in free if not one.complete and not one.near),
        key=lambda one: (one.serving, _draw(me, one.endpoint)),
    )
    if not partial and all(one.complete for one in taken):
        return list(free[:room])
    order = near[: max(0, degree - 1 - sum(one.near for one in taken))]
    if not any(one.complete and not one.near for one in taken):
        order += complete[:1]
    order += partial
    order += [one for one in (*complete, *near) if one not in order]
    return order[:room]


def _draw(mine: str, theirs: str) -> bytes:
    return blake2b(f"{mine}\0{theirs}".encode(), digest_size=8).digest()
