"""What is in flight from one source, and how much of it there should be."""

from __future__ import annotations

import pytest

from netloader.replica.inflight import InFlight, request_window
from netloader.replica.settings import WindowSettings

LIMITS = WindowSettings(seconds=0.5, min_chunks=2, max_chunks=10, first_chunks=3)
CHUNK = 1000


@pytest.mark.parametrize(
    ("seconds_per_byte", "expected"),
    [
        (None, 3 * CHUNK),
        (1.0, 2 * CHUNK),
        (0.5 / (4 * CHUNK), 4 * CHUNK),
        (1e-9, 10 * CHUNK),
        (0.0, 10 * CHUNK),
    ],
    ids=["nothing delivered", "slow", "in between", "fast", "a clock that stands still"],
)
def test_the_window_is_what_a_source_delivers_in_a_moment(
    seconds_per_byte: float | None, expected: float
) -> None:
    assert request_window(seconds_per_byte, CHUNK, LIMITS) == pytest.approx(expected)


def test_bytes_and_staging_add_up() -> None:
    in_flight = InFlight(0.0)
    in_flight.ask(7, 100, True, 0.0)
    in_flight.ask(3, 50, False, 0.0)
    assert (len(in_flight), in_flight.nbytes, in_flight.staged) == (2, 150, 1)
    assert in_flight.chunks == (7, 3)
    assert in_flight.within({3, 7, 9}) and not in_flight.within({7})
    in_flight.arrived(7, 1.0)
    assert (len(in_flight), in_flight.nbytes, in_flight.staged) == (1, 50, 0)


def test_the_rate_follows_the_last_chunks() -> None:
    in_flight = InFlight(0.0)
    assert in_flight.expected(0.0) is None
    for chunk in range(3):
        in_flight.ask(chunk, 100, False, 0.0)
    in_flight.arrived(0, 1.0)
    assert in_flight.seconds_per_byte == pytest.approx(0.01)
    in_flight.arrived(1, 1.5)
    assert in_flight.seconds_per_byte == pytest.approx(0.01 - 0.3 * 0.005)


def test_a_pause_without_work_does_not_count() -> None:
    in_flight = InFlight(0.0)
    in_flight.ask(0, 100, False, 50.0)
    in_flight.arrived(0, 51.0)
    assert in_flight.seconds_per_byte == pytest.approx(0.01)


def test_silence_counts_as_slowness_while_something_is_in_flight() -> None:
    in_flight = InFlight(0.0)
    in_flight.ask(0, 100, False, 0.0)
    in_flight.arrived(0, 1.0)
    assert in_flight.expected(60.0) == pytest.approx(0.01)
    in_flight.ask(1, 100, False, 60.0)
    assert in_flight.expected(60.5) == pytest.approx(0.01)
    assert in_flight.expected(65.0) == pytest.approx(0.05)
    assert in_flight.silent_for(65.0) == pytest.approx(5.0)
