"""What the mesh can serve: the sources of every rank of a model, and ranks without any. Pure.

Workers are put together by what they have in common (`replicas.Make`), whichever server they are
part of: a replica takes each rank from any source that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mesh_inspect.view.entries import Entry
from mesh_inspect.view.groups import sizes_of
from mesh_inspect.view.keys import Value
from mesh_inspect.view.replicas import Make, Place, by_make, missing_ranks, place, rank_name
from mesh_inspect.view.rows import MAX_COUNT, HoldingRow


@dataclass(frozen=True, slots=True)
class RankSupply:
    """Who has one rank."""

    rank: Place
    rows: tuple[HoldingRow, ...]
    """Of workers that are in the mesh."""

    @property
    def ready(self) -> tuple[HoldingRow, ...]:
        """Who may be asked for it."""
        return tuple(row for row in self.rows if row.ready)

    @property
    def loading(self) -> int:
        return sum(1 for row in self.rows if row.holding is not None and _loads(row))

    @property
    def nbytes(self) -> int:
        """Bytes of the rank's weights, as far as a source says."""
        return max((row.nbytes for row in self.ready), default=0)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far the mesh can serve a model."""

    make: Make
    supplies: tuple[RankSupply, ...]
    """Of the ranks that somebody has or loads, in order."""

    @property
    def complete(self) -> int:
        """How often every rank has a source: 0 if any has none."""
        possible = self.make.possible(one.rank for one in self.supplies)
        if len(possible) < self.make.ranks:
            return 0
        return min(len(one.ready) for one in self.supplies if one.rank in possible)

    @property
    def missing(self) -> tuple[list[str], int]:
        """Names of the first ranks that no source has, and how many there are."""
        return missing_ranks(self.make, (one.rank for one in self.supplies if one.ready))

    @property
    def ready(self) -> int:
        return sum(len(one.ready) for one in self.supplies)

    @property
    def loading(self) -> int:
        return sum(one.loading for one in self.supplies)

    @property
    def nbytes(self) -> int:
        """Bytes of all ranks that have a source, each counted once."""
        return min(sum(one.nbytes for one in self.supplies), MAX_COUNT)

    def document(self) -> Entry:
        """As programs read it. No key is ever missing."""
        missing, lacking = self.missing
        return {
            "model": self.make.model or None,
            "role": self.make.role,
            "content": self.make.content or None,
            "weights_layout": self.make.weights or None,
            "split": sizes_of(self.make.sizes),
            "complete": self.complete,
            "total_ranks": self.make.ranks,
            "missing": missing,
            "missing_count": lacking,
            "ready": self.ready,
            "loading": self.loading,
            "bytes": self.nbytes,
            "ranks": [
                {
                    "rank": rank_name(self.make, one.rank),
                    "identities": sorted({r.holding.identity for r in one.rows if r.holding}),
                    "ready": len(one.ready),
                    "loading": one.loading,
                    "others": len(one.rows) - len(one.ready) - one.loading,
                    "bytes": one.nbytes,
                    "sources": [row.member.id for row in one.ready],
                }
                for one in self.supplies
            ],
        }


COVERAGE_KEYS: Final[Mapping[str, Callable[[Coverage], Value]]] = {
    "model": lambda one: one.make.model or None,
    "complete": lambda one: one.complete,
    "missing": lambda one: one.missing[1],
    "ready": lambda one: one.ready,
    "loading": lambda one: one.loading,
    "bytes": lambda one: one.nbytes,
}
"""What models are sorted by."""


def coverages(rows: Iterable[HoldingRow]) -> list[Coverage]:
    """What the mesh has of each model, in the order of the rows."""
    found = []
    for make, held in by_make(row for row in rows if not row.gone).items():
        ranks: dict[Place, list[HoldingRow]] = {}
        for row in held:
            ranks.setdefault(place(row), []).append(row)
        supplies = (RankSupply(rank, tuple(ranks[rank])) for rank in sorted(ranks))
        found.append(Coverage(make, tuple(supplies)))
    return found


def _loads(row: HoldingRow) -> bool:
    return row.member.status.live and row.holding is not None and row.holding.state == "loading"
