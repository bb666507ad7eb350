"""Columns fit every screen: what is wide gives way first, and what matters most stays."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mesh_inspect.top.fitting import GAP, ColumnRoom, placed

THREE = (ColumnRoom(14, 14, 0), ColumnRoom(30, 10, 1), ColumnRoom(8, 8, 2))


def indexes(columns: tuple[ColumnRoom, ...], screen: int) -> list[int]:
    return [one.index for one in placed(columns, screen)]


def test_with_room_every_column_has_what_it_wants() -> None:
    assert [(one.start, one.width) for one in placed(THREE, 80)] == [(0, 14), (16, 30), (48, 8)]


def test_the_widest_gives_way_first() -> None:
    assert [one.width for one in placed(THREE, 50)] == [14, 24, 8]


def test_the_least_important_column_goes_first_and_one_stays() -> None:
    assert indexes(THREE, 36) == [0, 1, 2]
    assert indexes(THREE, 35) == [0, 1]
    assert indexes(THREE, 25) == [0]
    assert [one.width for one in placed(THREE, 5)] == [5]


wanted = st.builds(ColumnRoom, st.integers(0, 400), st.integers(1, 40), st.integers(0, 9))


@given(st.lists(wanted, min_size=1, max_size=9), st.integers(1, 300))
def test_nothing_overlaps_or_leaves_the_screen(columns: list[ColumnRoom], screen: int) -> None:
    found = placed(columns, screen)
    assert found
    assert all(one.width > 0 and one.start + one.width <= screen for one in found)
    for before, after in pairwise(found):
        assert before.start + before.width + GAP == after.start
        assert before.index < after.index
    assert all(
        one.width <= max(columns[one.index].width, columns[one.index].least) for one in found
    )
