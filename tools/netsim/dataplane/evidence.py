"""The targets of the swarm, in virtual time: `python -m netsim.dataplane.evidence [--chart FILE]`.

Takes a few minutes on one core. Prints a row for each target; exits with 1 if one was missed.
`--chart` also draws the makespan over the number of replicas, for the three policies.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from netsim.dataplane.chart import draw
from netsim.dataplane.fanout import FanoutResult, play
from netsim.dataplane.options import POLICIES, Churn, FanoutOptions

RATE: Final = 50e6
"""400 Mbit/s."""

BASE: Final = FanoutOptions(replicas=8, rate=RATE, nbytes=100_000_000)
"""The experiment that the issue of the swarm begins with: 8 replicas, 400 Mbit/s, 100 MB."""

DOUBLINGS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_COARSE: Final = replace(BASE, chunk_bytes=BASE.nbytes // 16)
"""For the other policies, which pass nothing on before they have everything: smaller chunks would
change nothing but the time that this takes."""

_COLD: Final = replace(BASE, has_source=False, storage_rate=RATE)


@dataclass(frozen=True, slots=True)
class SwarmTarget:
    """One figure that we promise to meet."""

    text: str
    options: FanoutOptions
    met: Callable[[FanoutOptions, FanoutResult], bool]


def _near_bound(factor: float) -> Callable[[FanoutOptions, FanoutResult], bool]:
    return lambda _, result: result.makespan_s <= factor * result.bound_s


def _cold_within(ratio: float) -> Callable[[FanoutOptions, FanoutResult], bool]:
    def met(options: FanoutOptions, result: FanoutResult) -> bool:
        return result.ratio <= ratio and result.storage_bytes <= 1.2 * options.nbytes

    return met


def _spread(options: FanoutOptions, result: FanoutResult) -> bool:
    return result.ratio <= 1.15 and result.source_bytes <= 1.5 * options.nbytes


def _survived(options: FanoutOptions, result: FanoutResult) -> bool:
    """Each replica, whenever it started, is up in the time of a quiet fan-out and a quarter."""
    quiet_s = 1.15 * options.nbytes / options.rate
    return result.fetched_twice == 0 and max(result.per_replica_s) <= 1.25 * quiet_s


TARGETS: Final[Sequence[SwarmTarget]] = (
    SwarmTarget("1 -> 8: <= 1.15 x bytes / rate, the source sends <= 1.5 copies", BASE, _spread),
    SwarmTarget(
        "one replica at a quarter of the rate: <= 1.3 x the bound",
        replace(BASE, rates={3: RATE / 4}),
        _near_bound(1.3),
    ),
    SwarmTarget(
        "the source at a quarter of the rate: <= 1.3 x the bound",
        replace(BASE, rates={0: RATE / 4}),
        _near_bound(1.3),
    ),
    SwarmTarget(
        "four of eight replicas on one host: <= 1.3 x the bound",
        replace(BASE, placement=(4,)),
        _near_bound(1.3),
    ),
    SwarmTarget(
        "two hosts of four replicas: <= 1.3 x the bound",
        replace(BASE, placement=(4, 4)),
        _near_bound(1.3),
    ),
    SwarmTarget(
        "cold start, served while read: <= 1.5, storage read <= 1.2 times", _COLD, _cold_within(1.5)
    ),
    SwarmTarget(
        "cold start, served once read: <= 2.2, storage read <= 1.2 times",
        replace(_COLD, serve_while_reading=False),
        _cold_within(2.2),
    ),
    SwarmTarget(
        "a replica killed in each quarter of bytes / rate: nobody is late, nothing comes twice",
        replace(BASE, churn=Churn(BASE.nbytes / RATE / 4, 8)),
        _survived,
    ),
)


def growth(sizes: Sequence[int] = DOUBLINGS) -> list[FanoutResult]:
    """A swarm of each size."""
    return [play(replace(BASE, replicas=size)) for size in sizes]


def grows_gently(results: Sequence[FanoutResult]) -> bool:
    """Whether the makespan grows by at most 10 % with each doubling."""
    spans = [result.makespan_s for result in results]
    return all(after <= 1.1 * before for before, after in pairwise(spans))


def stays_cheap(results: Sequence[FanoutResult]) -> bool:
    """Whether the control traffic of the busiest member stops growing with the number of replicas:
    from 8 on, when everybody has all the sessions it may have."""
    costs = [result.control_bytes for result in results[3:]]
    return max(costs) <= 1.1 * costs[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all targets."""
    parser = argparse.ArgumentParser(prog="python -m netsim.dataplane.evidence")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the makespan over N")
    arguments = parser.parse_args(argv)
    missed = 0
    for target in TARGETS:
        result = play(target.options)
        missed += _row(target.text, target.met(target.options, result), result)
    results = growth()
    for size, result in zip(DOUBLINGS, results, strict=True):
        print(f"       {size} replicas\n       {_figures(result)}")
    missed += not grows_gently(results) or not stays_cheap(results)
    print(f"{_verdict(grows_gently(results))} the makespan grows by <= 10 % a doubling")
    print(f"{_verdict(stays_cheap(results))} control traffic of a member does not grow from 8 on")
    if arguments.chart is not None:
        arguments.chart.write_text(_chart(results))
    return 1 if missed else 0


def _row(text: str, met: bool, result: FanoutResult) -> bool:
    print(f"{_verdict(met)} {text}\n       {_figures(result)}")
    sys.stdout.flush()
    return not met


def _verdict(met: bool) -> str:
    return "met   " if met else "MISSED"


def _figures(result: FanoutResult) -> str:
    bound = result.makespan_s / result.bound_s
    return (
        f"{result.ratio:.3f} x bytes / rate, "
        + ("" if math.isnan(bound) else f"{bound:.3f} x the bound, ")
        + f"slowest replica {max(result.per_replica_s):.3f} s; "
        f"source {result.source_bytes / BASE.nbytes:.2f} copies, "
        f"storage {result.storage_bytes / BASE.nbytes:.2f}; "
        f"{result.control_messages} control messages, {result.control_bytes / 1e3:.0f} kB"
    )


def _chart(swarm: Sequence[FanoutResult]) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for policy in POLICIES:
        results = swarm
        if policy != "swarm":
            results = [play(replace(_COARSE, replicas=size, policy=policy)) for size in DOUBLINGS]
        ratios = [result.ratio for result in results]
        lines[policy] = list(zip(map(float, DOUBLINGS), ratios, strict=True))
    return draw(
        "Makespan of 1 source -> N replicas, equal links (simulated)",
        "N replicas that start together",
        "makespan / (bytes / rate)",
        lines,
    )


if __name__ == "__main__":
    sys.exit(main())
