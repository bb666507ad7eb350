"""Randomness as the core needs it; `random.Random` fits."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Protocol

from netmesh.core.records import MemberId


class Rng(Protocol):
    """Source of random numbers, passed in so that a run can be repeated."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def randrange(self, stop: int, /) -> int:
        """Uniform in 0..stop-1."""

    def getrandbits(self, bits: int, /) -> int:
        """Uniform in 0..2**bits - 1."""

    def shuffle(self, items: MutableSequence[MemberId], /) -> None:
        """Reorder in place."""
