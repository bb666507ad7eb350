from __future__ import annotations

import random

import pytest

from netloader.worker.loading.speed import WINDOW_S, Speed


def looked_at(counts: list[tuple[float, int]], began: float = 0.0) -> list[int]:
    speed, rates = Speed(began), []
    for now, nbytes in counts:
        speed.note(now, nbytes)
        rates.append(speed.rate)
    return rates


def test_nothing_is_known_before_time_has_passed() -> None:
    assert Speed(3.0).rate == 0
    assert looked_at([(3.0, 500)], began=3.0) == [0]


def test_the_first_look_counts_from_the_beginning() -> None:
    assert looked_at([(0.25, 500)]) == [2000]


def test_large_chunks_of_a_slow_source_make_an_even_rate() -> None:
    """One chunk of 30 bytes every 0.75 s, looked at every 0.25 s."""
    rates = looked_at([(step / 4, step // 3 * 30) for step in range(1, 60)])
    assert all(25 <= rate <= 60 for rate in rates[12:])


def test_what_stops_shows_as_nothing() -> None:
    rates = looked_at([(step / 4, min(step, 20) * 100) for step in range(1, 60)])
    assert rates[19] == 400
    assert rates[20 + int(4 * WINDOW_S) - 1 :] == [0] * len(rates[20 + int(4 * WINDOW_S) - 1 :])


def test_bytes_that_were_thrown_away_never_make_it_negative() -> None:
    rates = looked_at([(1.0, 1000), (2.0, 2000), (3.0, 0), (4.0, 500)])
    assert rates == [1000, 1000, 0, 500]


def test_a_process_that_stood_still_averages_over_that_time() -> None:
    assert looked_at([(1.0, 1000), (61.0, 7000)])[-1] == 100


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_difference_to_the_last_look_before_the_window(seed: int) -> None:
    rng = random.Random(seed)
    looks = [(0.0, 0)]
    speed = Speed(0.0)
    for _ in range(300):
        now = looks[-1][0] + rng.choice((0.01, 0.25, 5.0))
        looks.append((now, looks[-1][1] + rng.choice((0, 0, 10, 1000))))
        speed.note(*looks[-1])
        old = [one for one in looks[:-1] if one[0] <= now - WINDOW_S]
        began, before = (old or looks)[-1 if old else 0]
        assert speed.rate == int((looks[-1][1] - before) / (now - began))
