"""Who loses a place to those that wait, and who does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloader.source.policy.eviction import Usage, waste

START = Usage(at=100.0, sent_bytes=5_000, idle_s=3.0, held_s=2.0)
MIB = 1 << 20


def after(elapsed_s: float, sent: int, idle_s: float = 0.0, held_s: float = 0.0) -> Usage:
    return Usage(
        START.at + elapsed_s,
        START.sent_bytes + sent,
        START.idle_s + idle_s,
        START.held_s + held_s,
    )


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (after(30, 32 * MIB, idle_s=29), "asked for nothing during 29 of 30 s"),
        (after(30, 0, idle_s=30), "asked for nothing during 30 of 30 s"),
        (after(30, MIB), "took 1048576 bytes in 30 s"),
        (after(3600, 100 * MIB), "took 104857600 bytes in 3.6e+03 s"),
        (after(30, MIB, held_s=10), "took 1048576 bytes in 30 s"),
    ],
)
def test_a_session_that_wastes_its_place_makes_room(now: Usage, why: str) -> None:
    assert waste(START, now, 30.0) == f"{why} while others waited"


@pytest.mark.parametrize(
    "now",
    [
        after(29.9, 0, idle_s=29.9),
        after(30, 3_000_000),
        after(30, 32 * MIB, idle_s=15),
        after(30, 100_000, held_s=29),
        after(30, 0, held_s=30),
    ],
    ids=["not yet", "slow", "half of the time", "our limit", "nothing but our limit"],
)
def test_a_session_that_does_its_best_stays(now: Usage) -> None:
    assert waste(START, now, 30.0) is None


@given(st.floats(30, 1e6), st.floats(1, 1e9))
def test_whoever_is_always_busy_and_fast_enough_stays(elapsed_s: float, rate: float) -> None:
    assert waste(START, after(elapsed_s, int(elapsed_s * (100_000 + rate))), 30.0) is None
