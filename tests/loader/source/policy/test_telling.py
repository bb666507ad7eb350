"""When replicas hear which chunks a source has gained."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloader.source.policy.telling import LONGEST_S, MANY, SHORTEST_S, due_in_s


def test_nothing_is_never_due() -> None:
    assert due_in_s(0, 1e9) == math.inf


def test_the_first_after_a_silence_is_told_at_once() -> None:
    assert due_in_s(1, LONGEST_S) <= 0


@pytest.mark.parametrize(
    ("untold", "due_s"), [(1, LONGEST_S), (MANY - 1, LONGEST_S), (MANY, SHORTEST_S)]
)
def test_right_after_a_word(untold: int, due_s: float) -> None:
    assert due_in_s(untold, 0.0) == due_s


@given(st.integers(1, 10**6), st.floats(0.0, 10.0))
def test_no_chunk_waits_for_longer_than_the_longest(untold: int, silent_s: float) -> None:
    assert due_in_s(untold, silent_s) <= LONGEST_S
