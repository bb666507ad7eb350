"""How a message is cut over the connections of a Gloo group.

One thread on either side drives a Gloo connection, which fills one core; two connections move more
where there are two cores. So a group has `LANES` connections, each with an event loop of its own,
and a large message travels in halves, one on each. A message's size and tag alone decide what goes
where. So both ends decide alike without a word, and messages of one tag keep their order on every
lane they use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

LANES: Final = 2
"""Connections of a group. Two fill two cores; further ones moved nothing more where that was
measured."""

STRIPE_FROM: Final = 8 * 1024 * 1024
"""Bytes from which a message is halved. Below, a second message's fixed cost (0.1..0.2 ms) eats
what the second lane gains, so every other tag takes the other lane."""

_ALIGNMENT: Final = 4096
"""Halves begin on a page, so that the lanes never write the same one."""


def stripes(nbytes: int, tag: int) -> Iterator[tuple[int, slice]]:
    """How a message travels: the lanes, and which of its bytes each carries. The same at both
    ends."""
    if nbytes < STRIPE_FROM:
        yield tag % LANES, slice(0, nbytes)
        return
    bounds = [nbytes * lane // LANES // _ALIGNMENT * _ALIGNMENT for lane in range(LANES)]
    yield from enumerate(map(slice, bounds, [*bounds[1:], nbytes]))


def lane_tag(tag: int, lane: int) -> int:
    """The tag that makes ProcessGroupGloo use `lane`: Gloo takes the context whose number is the
    tag modulo their count."""
    return tag * LANES + lane
