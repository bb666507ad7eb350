"""The limit holds, is shared fairly, and never keeps anybody who is told to stop."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fastest import HANG_S, at_most, fastest_of, took_less

from netloader.config import MIN_RATE_LIMIT, Config
from netloader.source.throttle import LATE_S, MAX_MESSAGE, MIN_MESSAGE, Bucket, Throttle

MOST_SESSIONS = 2 * 64
"""Of a worker: a model's and its draft's."""


def test_first_turn_is_now_and_the_next_comes_when_the_first_is_paid() -> None:
    bucket = Bucket(1000, 0.0)
    assert bucket.reserve(500, 10.0) == 0
    assert bucket.reserve(250, 10.0) == 0.5
    assert bucket.reserve(1, 10.0) == 0.75
    assert bucket.reserve(1, 20.0) == 0


def test_a_pause_is_made_up_for_by_no_more_than_the_burst() -> None:
    bucket = Bucket(1000, 0.1)
    assert bucket.reserve(100, 0.0) == 0
    assert bucket.reserve(100, 1000.0) == 0
    assert bucket.reserve(100, 1000.0) == 0
    assert bucket.reserve(100, 1000.0) == pytest.approx(0.1)


def test_turns_that_are_only_taken_when_free_do_not_queue() -> None:
    bucket = Bucket(1000, 0.0)
    assert bucket.take(1000, 0.0)
    assert not any(bucket.take(1000, 0.5) for _ in range(100))
    assert bucket.take(1000, 1.0)


@given(
    st.integers(1_000_000, 10**10),
    st.lists(st.tuples(st.integers(1, MAX_MESSAGE), st.floats(0, 0.1)), min_size=1, max_size=60),
)
def test_bytes_that_leave_never_exceed_the_rate_and_what_is_made_up_for(
    rate: int, asked: list[tuple[int, float]]
) -> None:
    bucket = Bucket(rate, LATE_S)
    now, left = 0.0, []
    for nbytes, pause_s in asked:
        now += pause_s
        left.append((now + bucket.reserve(nbytes, now), nbytes))
    for first in range(len(left)):
        total = 0
        for at, nbytes in left[first:]:
            # What starts to leave at `at` may follow everything that began before it.
            allowed = (Fraction(at) - Fraction(left[first][0]) + Fraction(LATE_S)) * rate
            assert total <= allowed * (1 + Fraction(1, 10**6)) + 1
            total += nbytes


@pytest.mark.parametrize(
    ("rate", "sessions", "message"),
    [
        (MIN_RATE_LIMIT, 1, 196_608),
        (MIN_RATE_LIMIT, MOST_SESSIONS, MIN_MESSAGE),
        (10_000_000, 8, 1_998_848),
        (50_000_000, 8, MAX_MESSAGE),
        (50_000_000, MOST_SESSIONS, 3_121_152),
        (10**10, MOST_SESSIONS, MAX_MESSAGE),
    ],
)
def test_a_message_is_about_a_turn(rate: int, sessions: int, message: int) -> None:
    assert Throttle(rate, sessions).message_bytes == message


@given(st.integers(MIN_RATE_LIMIT, 10**10), st.integers(1, MOST_SESSIONS))
def test_turns_of_any_number_of_sessions_stay_within_the_timeout(rate: int, sessions: int) -> None:
    turns_s = sessions * Throttle(rate, sessions).message_bytes / rate
    assert turns_s < Config.load({}, {}).pull_settings.timeout_s / 3


@fastest_of(5)
def test_waiting_ends_when_told_to_stop() -> None:
    throttle = Throttle(MIN_RATE_LIMIT, 1)
    stop = threading.Event()
    assert throttle.wait(100_000_000, stop) == 0
    threading.Timer(0.05, stop.set).start()
    with at_most(1):
        held_s = throttle.wait(1, stop)
    took_less(held_s, 1)


def test_time_comes_from_the_clock() -> None:
    now = [5.0]
    throttle = Throttle(MIN_RATE_LIMIT, 1, lambda: now[0])
    stop = threading.Event()
    stop.set()
    throttle.wait(MIN_RATE_LIMIT, stop)
    now[0] += 1
    assert throttle.wait(1, stop) == 0


def test_sessions_get_equal_shares() -> None:
    bucket = Bucket(20_000_000, LATE_S)
    sent = [0] * 5
    order = itertools.count()
    asking = [(0.0, next(order), number) for number in range(5)]
    while asking:
        now, _, number = heapq.heappop(asking)
        turn = now + bucket.reserve(400_000, now)
        if turn < 1.0:
            sent[number] += 1
            heapq.heappush(asking, (turn, next(order), number))
    assert max(sent) - min(sent) <= 1
    assert sum(sent) in (50, 51)


def test_sessions_in_threads_keep_the_limit_together() -> None:
    throttle = Throttle(20_000_000, 400)
    assert throttle.message_bytes == 397_312
    stop = threading.Event()
    sent = [0] * 5
    together = threading.Barrier(5)
    started = time.monotonic()

    def session(number: int) -> None:
        together.wait(HANG_S)
        for _ in range(5):
            throttle.wait(throttle.message_bytes, stop)
            sent[number] += 1

    threads = [threading.Thread(target=session, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - started
    # The last turn has only begun, and a late thread may make up for `LATE_S`.
    assert (sum(sent) - 1) * throttle.message_bytes <= 20_000_000 * (took_s + LATE_S)
