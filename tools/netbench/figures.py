"""Numbers in the form in which they are reported."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from netbench.memory import MIB


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def gbps(nbytes: int, seconds: float) -> float:
    """Gigabytes (1e9) a second."""
    return nbytes / seconds / 1e9


def mib(nbytes: int) -> float:
    return nbytes / MIB


def rounded(value: object) -> object:
    """Four significant digits in all nested values, because no figure here is more exact."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    return value
