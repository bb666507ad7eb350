"""How often members that load tell the mesh of it."""

from __future__ import annotations

import random

import pytest

from netloader.worker.pace import SHORTEST_S, SPACING_S, Pace, interval_s


@pytest.mark.parametrize(
    ("loading", "longest_s", "seconds"),
    [
        (0, 60.0, SHORTEST_S),
        (20, 60.0, SHORTEST_S),
        (40, 60.0, 2.0),
        (400, 60.0, 20.0),
        (400, 7.5, 7.5),
        (400, 0.1, SHORTEST_S),
    ],
)
def test_the_more_members_load_the_longer_is_each_silent(
    loading: int, longest_s: float, seconds: float
) -> None:
    assert interval_s(loading, longest_s) == pytest.approx(seconds)


@pytest.mark.parametrize("members", [1, 8, 20, 40, 400])
def test_together_they_speak_twenty_times_a_second(members: int) -> None:
    """They begin at random, have news at every look, and know that all others load."""
    rng = random.Random(members)
    look_s, duration_s = 0.25, 120.0
    spoken: list[float] = []
    for _ in range(members):
        pace, now = Pace(), rng.uniform(0, 2)
        while now < duration_s:
            if pace.allows(now, lambda: members):
                pace.spoke(now)
                spoken.append(now)
            now += look_s
    settled = [at for at in spoken if at >= 20.0]
    rate = len(settled) / (duration_s - 20.0)
    assert rate <= 1.05 / SPACING_S
    # And they do not say less than they may.
    assert rate >= 0.8 * min(members / SHORTEST_S, 1 / SPACING_S)


def test_a_clock_that_jumps_makes_it_neither_dumb_nor_talkative() -> None:
    pace, words = Pace(), 0
    pace.spoke(1000.0)
    for step in range(100):
        # A machine that slept for an hour, and then goes on.
        now = 1000.0 + (3600.0 if step >= 50 else 0.0) + step / 10
        if pace.allows(now, lambda: 1):
            pace.spoke(now)
            words += 1
    assert 8 <= words <= 10


def test_members_are_counted_only_where_that_matters() -> None:
    def never() -> int:
        raise AssertionError("too early to be worth counting")

    pace = Pace()
    assert pace.allows(5.0, never)
    pace.spoke(5.0)
    assert not pace.allows(5.9, never)
