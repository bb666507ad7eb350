"""Who listens where sources say that they listen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from netloader.errors import SourceLost
from netloader.replica.probe import probe

AT_ONCE: Final = 16

STEP_S: Final = 1.0
"""Seconds for a connect, and for the greeting that follows."""


def greeted(endpoints: Sequence[str], has_key: bool, timeout_s: float) -> dict[str, str]:
    """What is wrong at each endpoint; empty when a source greets there. Those for which there is no
    time are left out."""
    found: dict[str, str] = {}
    step_s = min(STEP_S, timeout_s)
    # Each round takes two steps at most.
    rounds = int(timeout_s / (2 * step_s)) if step_s > 0 else 0
    asked = list(dict.fromkeys(endpoints))[: max(0, rounds) * AT_ONCE]

    def ask(endpoint: str) -> str:
        try:
            probe(endpoint, has_key, step_s, step_s)
        except SourceLost as error:
            return error.reason
        return ""

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mesh-inspect") as pool:
        for endpoint, wrong in zip(asked, pool.map(ask, asked), strict=True):
            found[endpoint] = wrong
    return found
