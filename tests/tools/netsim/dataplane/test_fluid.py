"""Flows that share links, against the textbook's progressive filling."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from netsim.dataplane.fluid import Fluid, SharedLink
from netsim.dataplane.timeline import Timeline


def run(timeline: Timeline) -> None:
    while timeline.step():
        pass


def settle(timeline: Timeline) -> None:
    """Do what is due now: rates are set then."""
    now = []
    timeline.after(0.0, lambda: timeline.after(0.0, now.append, True))
    while not now:
        assert timeline.step()


def progressive_filling(
    capacities: Sequence[float], paths: Sequence[tuple[int, ...]]
) -> list[float]:
    """Max-min fair rates: raise all alike, and freeze the flows of each link that is full."""
    rates: list[float | None] = [None] * len(paths)
    while any(rate is None for rate in rates):
        shares = {}
        for link, capacity in enumerate(capacities):
            open_flows = [n for n, path in enumerate(paths) if link in path and rates[n] is None]
            if open_flows:
                fixed = sum(rates[n] or 0.0 for n, path in enumerate(paths) if link in path)
                shares[link] = (capacity - fixed) / len(open_flows)
        full = min(shares, key=lambda link: shares[link])
        for number, path in enumerate(paths):
            if full in path and rates[number] is None:
                rates[number] = shares[full]
    return [rate or 0.0 for rate in rates]


@pytest.mark.parametrize("seed", range(20))
def test_rates_are_max_min_fair(seed: int) -> None:
    rng = random.Random(seed)
    capacities = [rng.choice([1.0, 2.0, 5.0, 10.0]) for _ in range(8)]
    paths = [tuple(rng.sample(range(8), 2)) for _ in range(24)]
    timeline = Timeline()
    fluid = Fluid(timeline)
    links = [SharedLink(capacity) for capacity in capacities]
    flows = [fluid.start([links[one] for one in path], 1e9, lambda: None) for path in paths]
    settle(timeline)
    expected = progressive_filling(capacities, paths)
    assert [flow.rate for flow in flows] == pytest.approx(expected, rel=0.03)
    for flow in flows[::3]:
        fluid.stop(flow)
    settle(timeline)
    left = [flow for flow in flows if flow not in flows[::3]]
    expected = progressive_filling(capacities, [p for n, p in enumerate(paths) if n % 3])
    assert [flow.rate for flow in left] == pytest.approx(expected, rel=0.03)


def test_bytes_take_their_time() -> None:
    timeline = Timeline()
    fluid = Fluid(timeline)
    link, wide = SharedLink(10.0), SharedLink(100.0)
    ended: dict[str, float] = {}
    for name, nbytes in (("short", 10.0), ("long", 30.0)):
        fluid.start([link, wide], nbytes, lambda name=name: ended.setdefault(name, timeline.now))
    run(timeline)
    # Both at 5 until the short one is done, then one at 10.
    assert ended == {"short": pytest.approx(2.0), "long": pytest.approx(4.0)}


def test_a_flow_that_is_stopped_never_arrives_and_frees_its_share() -> None:
    timeline = Timeline()
    fluid = Fluid(timeline)
    link = SharedLink(10.0)
    arrived: list[str] = []
    stopped = fluid.start([link], 100.0, lambda: arrived.append("stopped"))
    fluid.start([link], 20.0, lambda: arrived.append("other"))
    timeline.after(2.0, fluid.stop, stopped)
    run(timeline)
    assert arrived == ["other"]
    assert timeline.now == pytest.approx(20.0)  # When the stopped one would have been done.


def test_a_link_that_limits_nobody_has_no_share() -> None:
    timeline = Timeline()
    fluid = Fluid(timeline)
    narrow, wide = SharedLink(1.0), SharedLink(5.0)
    fluid.start([narrow, wide], 1e9, lambda: None)
    settle(timeline)
    assert narrow.share == 1.0 and math.isinf(wide.share)
