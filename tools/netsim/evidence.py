"""The targets of docs/evidence/simulation.md again: `python -m netsim.evidence [NAME ...]`.

Takes about an hour on two cores. Prints a row for each target; exits with 1 if one was missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netsim.options import RunOptions
from netsim.report import RunReport
from netsim.scenarios import run


@dataclass(frozen=True, slots=True)
class Target:
    """One figure that we promise to meet."""

    text: str
    options: RunOptions
    met: Callable[[RunReport], bool]


def _within(limit_s: float) -> Callable[[RunReport], bool]:
    return lambda report: report.p99_s is not None and report.p99_s <= limit_s


def _all_within(limit_s: float) -> Callable[[RunReport], bool]:
    return lambda report: report.max_s is not None and report.max_s <= limit_s


def _survived(report: RunReport) -> bool:
    return report.false_deaths == 0 and report.max_s is not None and report.max_s <= 3.0


def _cheap(report: RunReport) -> bool:
    return report.bytes_per_member_s_mean <= 1024 and report.bytes_per_member_s_p99 <= 8192


def _fifty_times_fewer(report: RunReport) -> bool:
    swim = run(RunOptions("slow", report.members, report.seed, protocol="swim"))
    return swim.false_deaths >= 50 * max(1, report.false_deaths)


TARGETS: Sequence[Target] = (
    Target("crash known to all: p99 <= 3 s", RunOptions("crash", 2000), _within(3.0)),
    Target("host crash: p99 <= 12 s", RunOptions("host-crash", 2000), _within(12.0)),
    *(
        Target(
            f"stall of {s:g} s: shown within 3 s", RunOptions("stall", n, duration_s=s), _survived
        )
        for s, n in ((5.0, 2000), (60.0, 512), (119.0, 512))
    ),
    Target("cold start: all see all <= 20 s", RunOptions("join", 2000), _all_within(20.0)),
    Target(
        "5 % loss, 2 h: nobody dies",
        RunOptions("loss", 256, duration_s=7200.0),
        lambda report: report.false_deaths == 0,
    ),
    Target("slow: 50 x fewer deaths than SWIM", RunOptions("slow", 128), _fifty_times_fewer),
    Target("partition: healed <= 30 s", RunOptions("partition", 256), _all_within(30.0)),
    Target("quiet: <= 1 KB/s, p99 <= 8 KB/s", RunOptions("quiet", 1000), _cheap),
)


def main(names: Sequence[str]) -> int:
    """Measure the targets of these scenarios, or of all."""
    missed = 0
    for target in TARGETS:
        if names and target.options.scenario not in names:
            continue
        report = run(target.options)
        met = target.met(report) and not report.problems
        missed += not met
        print(f"{'met' if met else 'MISSED':6} {target.text}\n       {report.line()}")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
