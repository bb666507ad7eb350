"""Chunk ids as half-open ranges."""

from __future__ import annotations

import pytest

from netloader.protocol.ranges import ranges


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((), ()),
        ((7,), ((7, 8),)),
        ((3, 1, 2), ((1, 4),)),
        ((9, 0, 1, 5), ((0, 2), (5, 6), (9, 10))),
    ],
)
def test_ranges_hold_exactly_these_chunks(
    chunks: tuple[int, ...], expected: tuple[tuple[int, int], ...]
) -> None:
    assert ranges(chunks) == expected
