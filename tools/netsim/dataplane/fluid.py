"""Flows that share links max-min fairly, as long TCP connections of equal round trips do.

A flow crosses one or more links. Its rate is the least of its fair shares of them, and a link's
fair share is what is left once the flows that are limited elsewhere have what they can use. These
two rules have one fixed point, the max-min fair allocation. When a flow comes or goes, only the
links whose fair share changes are computed again (the distributed algorithm that A. Charny proved
to converge: Congestion Control with Explicit Rate Indication, 1995), so a step costs the same among
hundreds of hosts as among four.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from netsim.dataplane.timeline import Timeline

_CLOSE: Final = 1e-2
"""Fair shares that differ by less count as equal: rates are right to about a hundredth."""

_MOST_STEPS: Final = 1_000_000
"""Links computed again in one settlement, before the simulator counts as broken."""


class SharedLink:
    """One direction of a host's link, or of a storage server's."""

    __slots__ = ("flows", "rate", "share")

    def __init__(self, rate: float) -> None:
        """`rate` is in bytes of payload per second."""
        self.rate = rate
        self.share = math.inf
        """The fair share; infinite while the link limits nobody."""
        self.flows: dict[Flow, SharedLink | None] = {}
        """Each flow with the other link that it crosses. A dict keeps its order: a set would differ
        from run to run."""

    def fair_share(self) -> float:
        """What each flow may take that no other link limits to less."""
        left, flows = self.rate, len(self.flows)
        for limit in sorted(
            [math.inf if one is None else one.share for one in self.flows.values()]
        ):
            if limit * flows >= left:
                return left / flows
            left -= limit
            flows -= 1
        return math.inf


class Flow:
    """Bytes on their way, over one link or two."""

    __slots__ = ("done", "left", "links", "rate", "since", "version")

    def __init__(
        self, links: Sequence[SharedLink], nbytes: float, done: Callable[[], None], now: float
    ) -> None:
        self.links = tuple(links)
        self.left = nbytes
        self.done = done
        self.rate = 0.0
        self.since = now
        self.version = 0


class Fluid:
    """All flows."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._changed: dict[SharedLink, None] = {}
        self._settling = False

    def start(self, links: Sequence[SharedLink], nbytes: float, done: Callable[[], None]) -> Flow:
        """Let bytes flow over one link or two; `done` is called when the last one has arrived."""
        flow = Flow(links, nbytes, done, self._timeline.now)
        first, second = links[0], links[-1]
        first.flows[flow] = None if second is first else second
        if second is not first:
            second.flows[flow] = first
        self._touch(flow)
        return flow

    def stop(self, flow: Flow) -> None:
        """End a flow early. `done` is not called."""
        flow.version += 1
        for link in flow.links:
            del link.flows[flow]
        self._touch(flow)

    def _touch(self, flow: Flow) -> None:
        self._changed.update(dict.fromkeys(flow.links))
        if not self._settling:
            # What begins and ends in one moment is settled once.
            self._settling = True
            self._timeline.after(0.0, self._settle)

    def _settle(self) -> None:
        self._settling = False
        touched: dict[Flow, None] = {}
        for link in self._changed:
            touched.update(dict.fromkeys(link.flows))
        pending, self._changed = self._changed, {}
        for _ in range(_MOST_STEPS):
            if not pending:
                break
            link = next(iter(pending))
            del pending[link]
            share = link.fair_share()
            if math.isclose(share, link.share, rel_tol=_CLOSE):
                continue
            link.share = share
            for flow, other in link.flows.items():
                touched[flow] = None
                if other is not None:
                    pending[other] = None
        else:
            raise AssertionError("fair shares do not settle")
        for flow in touched:
            self._set_rate(flow)

    def _set_rate(self, flow: Flow) -> None:
        rate = min([link.share for link in flow.links])
        if rate == flow.rate:
            return
        now = self._timeline.now
        flow.left = max(0.0, flow.left - flow.rate * (now - flow.since))
        flow.since = now
        flow.rate = rate
        flow.version += 1
        self._timeline.after(flow.left / rate, self._ended, flow, flow.version)

    def _ended(self, flow: Flow, version: int) -> None:
        if flow.version == version:
            self.stop(flow)
            flow.done()
