"""Sets of chunks as messages carry them: half-open ranges of ids, in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from netloader.errors import ProtocolError

_MAX_QUOTE = 200
"""How many characters of a peer's ranges an error may quote."""


def ranges(chunks: Collection[int]) -> tuple[tuple[int, int], ...]:
    """Ranges that hold exactly these chunks."""
    found: list[tuple[int, int]] = []
    for chunk in sorted(chunks):
        if found and found[-1][1] == chunk:
            found[-1] = (found[-1][0], chunk + 1)
        else:
            found.append((chunk, chunk + 1))
    return tuple(found)


def chunks_in(have: Sequence[tuple[int, int]], chunks: int) -> list[int]:
    """All chunks in a peer's ranges, of a model that has so many.

    Raises `ProtocolError` unless the ranges are in order and disjoint, so that a long list cannot
    cause more work than there are chunks.
    """
    bounds = [bound for pair in have for bound in pair]
    if bounds != sorted(bounds) or any(not 0 <= at <= chunks for at in bounds):
        raise ProtocolError(f"says it has chunks {str(have)[:_MAX_QUOTE]} of {chunks}")
    return [number for first, end in have for number in range(first, end)]
