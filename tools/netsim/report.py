"""The result of a run: samples, traffic, and whether the run kept all rules."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


def percentile(values: Sequence[float] | array[int], share: float) -> float:
    """Nearest-rank percentile of `values`; NaN when there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class RunReport:
    """One run. Times in seconds of virtual time, sizes in bytes."""

    scenario: str
    protocol: str
    members: int
    seed: int
    p50_s: float | None
    p99_s: float | None
    max_s: float | None
    """The scenario's sample, over all pairs of observer and subject; None without any."""
    samples: int
    false_deaths: int
    """Views in which a living, reachable process became dead."""
    faults_fired: int
    bytes_per_member_s_mean: float
    bytes_per_member_s_p99: float
    """Over all (member, second) of the measured window."""
    messages_per_member_s: float
    virtual_s: float
    events: int
    trace: str
    """Hash over all events: equal for equal runs."""
    details: dict[str, float] = field(default_factory=dict)
    """Figures that only this scenario has."""
    problems: tuple[str, ...] = ()
    """What went wrong; empty if the run counts."""

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps({key: _rounded(value) for key, value in asdict(self).items()})

    def readable(self) -> str:
        """Some lines for people."""
        lines = [
            f"{self.scenario}: {self.members} members, seed {self.seed}, {self.protocol}",
            f"  p50 {_seconds(self.p50_s)}, p99 {_seconds(self.p99_s)}, "
            f"max {_seconds(self.max_s)} ({self.samples} samples)",
            f"  false deaths {self.false_deaths}, faults {self.faults_fired}",
            f"  per member: {self.bytes_per_member_s_mean:.0f} B/s mean, "
            f"{self.bytes_per_member_s_p99:.0f} B/s p99, "
            f"{self.messages_per_member_s:.1f} messages/s",
        ]
        lines += [f"  {key} {value:g}" for key, value in self.details.items()]
        lines += [f"  PROBLEM {problem}" for problem in self.problems]
        return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value
