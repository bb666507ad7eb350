from __future__ import annotations

import pytest

from tests.fastest import TooSlowError, fastest_of, took_less


def test_one_fast_run_is_enough() -> None:
    times = [3.0, 2.0, 0.5]

    @fastest_of(5)
    def run() -> str:
        took_less(times.pop(0), 1.0)
        return "fast"

    assert run() == "fast"
    assert times == []


def test_what_is_always_slow_fails() -> None:
    runs = []

    @fastest_of(3)
    def run() -> None:
        runs.append(1)
        took_less(1.0, 1.0)

    with pytest.raises(TooSlowError, match="at most 1 s"):
        run()
    assert len(runs) == 3


def test_another_fault_is_not_tried_again() -> None:
    runs = []

    @fastest_of(3)
    def run() -> None:
        runs.append(1)
        raise AssertionError("wrong bytes")

    with pytest.raises(AssertionError, match="wrong bytes"):
        run()
    assert len(runs) == 1
