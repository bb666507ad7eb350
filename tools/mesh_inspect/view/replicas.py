"""Which workers hold parts of the same thing, and what of it is missing. Pure.

Nobody publishes which workers make one replica. What is known of a worker: its host, its start, and
an identity, whose parts name its ranks. A *make* is what workers have in common if they differ in
nothing but the rank. The replicas of a make are found by these rules, in this order:

1. A host that has every rank, each as often as the others, has as many replicas.
2. What is left on other hosts is taken together, over hosts.
3. Where a rank occurs more than once in such a set, replicas are told apart by their starts: first
   the earliest workers of all ranks, and so on, if each worker of one replica started before every
   worker of the next one.
4. Where that does not tell them apart, or ranks do not occur equally often, nothing is guessed: the
   set stays one group, which says how many replicas it has.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Final

from mesh_inspect.view.rows import MAX_COUNT, HoldingRow
from netloader.identity.identity import SHARDS, Fields

SPLIT: Final = ("dp", "pp", "pcp", "tp")
"""What divides a make into ranks. The other groups lie within these: `ep` over `dp`, `pcp` and
`tp`, and `dcp` in `tp`. vLLM names `dp` and `pcp` only where weights are divided over them."""

MAX_NAMED: Final = 64
"""Ranks that are named at most. A worker can claim any number of them."""

Place = tuple[int, ...]
"""A rank in each dimension of `SPLIT`."""


@dataclass(frozen=True, slots=True)
class Make:
    """What workers have in common that differ only in their rank."""

    model: str
    role: str
    content: str
    weights: str
    """`checkpoint` or `runtime`."""
    parts: str
    """The parts of the identity that do not depend on the rank, as JSON."""
    sizes: Place
    """How many ranks there are in each dimension of `SPLIT`; 0: not said."""

    @property
    def ranks(self) -> int:
        """How many ranks a replica has."""
        count = 1
        for size in self.sizes:
            count *= size
        return min(count, MAX_COUNT)

    def possible(self, places: Iterable[Place]) -> set[Place]:
        """Those that are ranks of this make, each once."""
        return {
            one
            for one in places
            if all(rank < size for rank, size in zip(one, self.sizes, strict=True))
        }

    @property
    def split(self) -> str:
        """`tp4`, `dp2,tp4`: the dimensions that are divided."""
        divided = [
            f"{name}{size}" for name, size in zip(SPLIT, self.sizes, strict=True) if size > 1
        ]
        return ",".join(divided) or "tp1"


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """Workers that make one replica, or several that nothing tells apart."""

    make: Make
    rows: tuple[HoldingRow, ...]

    @property
    def replicas(self) -> int:
        """How many replicas these are, at most: as many as the rank has that occurs most often."""
        return max(Counter(map(place, self.rows)).values())

    @property
    def complete(self) -> int:
        """How many replicas can have every rank: as many as the rank has that occurs least."""
        counts = Counter(map(place, self.rows))
        possible = self.make.possible(counts)
        return 0 if self.missing else min(counts[one] for one in possible)

    @property
    def present(self) -> int:
        """How many different ranks there are."""
        return len(self.make.possible(map(place, self.rows)))

    @property
    def missing(self) -> int:
        """How many ranks nobody has."""
        return max(0, self.make.ranks - self.present)


def make_of(row: HoldingRow) -> Make | None:
    """What a worker's weights have in common with those of its other ranks; None without any."""
    if row.holding is None:
        return None
    parts, sizes = _common(tuple(row.holding.fields.items()))
    return Make(
        row.model or "",
        row.role or "",
        row.content_id or "",
        row.weights_layout or "",
        parts,
        sizes,
    )


def place(row: HoldingRow) -> Place:
    """The worker's rank in each dimension of `SPLIT`."""
    assert row.holding is not None, "only a holding has a place"
    return tuple(_rank(row.holding.fields.get(f"{name}_rank")) for name in SPLIT)


def by_make(rows: Iterable[HoldingRow]) -> dict[Make, list[HoldingRow]]:
    """The rows of each make, in their order."""
    found: dict[Make, list[HoldingRow]] = {}
    for row in rows:
        make = make_of(row)
        if make is not None:
            found.setdefault(make, []).append(row)
    return found


def replica_sets(rows: Iterable[HoldingRow]) -> list[ReplicaSet]:
    """The replicas, by the rules above. Workers that are gone make no replica with others."""
    found = []
    for make, held in by_make(rows).items():
        for gone in (False, True):
            of_make = [row for row in held if row.gone is gone]
            found += [ReplicaSet(make, tuple(one)) for one in _replicas(make, of_make)]
    return found


def missing_ranks(make: Make, present: Iterable[Place]) -> tuple[list[str], int]:
    """Names of the first ranks that are not present, and how many there are in all."""
    have = make.possible(present)
    lacking = max(0, make.ranks - len(have))
    absent = (one for one in _ranks(make) if one not in have)
    return [rank_name(make, one) for one in islice(absent, min(lacking, MAX_NAMED))], lacking


def rank_name(make: Make, rank: Place) -> str:
    """`tp1`, `dp0,tp1`: a rank in the dimensions that are divided."""
    named = [
        f"{name}{number}"
        for name, number, size in zip(SPLIT, rank, make.sizes, strict=True)
        if size > 1
    ]
    return ",".join(named) or "tp0"


def _ranks(make: Make) -> Iterator[Place]:
    """All ranks, the last dimension first. A worker can claim more than there is memory for."""
    for number in range(make.ranks):
        rank = []
        for size in reversed(make.sizes):
            number, part = divmod(number, size)
            rank.append(part)
        yield tuple(reversed(rank))


def _replicas(make: Make, rows: Sequence[HoldingRow]) -> Iterator[list[HoldingRow]]:
    hosts: dict[str, list[HoldingRow]] = {}
    for row in rows:
        hosts.setdefault(row.member.host, []).append(row)
    rest = []
    for here in hosts.values():
        if _is_whole(make, here):
            yield from _by_start(here)
        else:
            rest += here
    if rest:
        yield from _by_start(rest)


def _is_whole(make: Make, rows: Sequence[HoldingRow]) -> bool:
    counts = Counter(map(place, rows))
    return len(counts) == make.ranks and len(set(counts.values())) == 1


def _by_start(rows: Sequence[HoldingRow]) -> list[list[HoldingRow]]:
    """The rows by replica, if their starts tell the replicas apart; else all of them at once."""
    ranks: dict[Place, list[HoldingRow]] = {}
    for row in sorted(rows, key=lambda row: row.member.generation):
        ranks.setdefault(place(row), []).append(row)
    if len({len(found) for found in ranks.values()}) > 1:
        return [list(rows)]
    replicas = [list(found) for found in zip(*ranks.values(), strict=True)]
    for earlier, later in pairwise(replicas):
        last = max(row.member.generation for row in earlier)
        if last >= min(row.member.generation for row in later):
            return [list(rows)]
    order = {id(row): number for number, row in enumerate(rows)}
    return [sorted(found, key=lambda row: order[id(row)]) for found in replicas]


@lru_cache(maxsize=4096)
def _common(items: tuple[tuple[str, int | str], ...]) -> tuple[str, Place]:
    """The parts that are equal on all ranks, as JSON, and the sizes. Many workers share them."""
    fields: Mapping[str, int | str] = dict(items)
    common = {name: value for name, value in items if not _depends_on_rank(name)}
    sizes = tuple(_size(fields, name) for name in SPLIT)
    # A number from an advert may be larger than orjson writes.
    return json.dumps(common, sort_keys=True), sizes


def _depends_on_rank(name: str) -> bool:
    return name.endswith("_rank") or name == SHARDS or name.startswith("shard.")


def _size(fields: Fields, name: str) -> int:
    value = fields.get(f"{name}_size", 1)
    return value if isinstance(value, int) and 1 <= value <= MAX_COUNT else 1


def _rank(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else 0
