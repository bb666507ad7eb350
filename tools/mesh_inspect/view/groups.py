"""Rows put together: a replica's ranks, a host's workers, all that hold the same. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from mesh_inspect.view.entries import Entry
from mesh_inspect.view.keys import Value
from mesh_inspect.view.replicas import SPLIT, ReplicaSet, missing_ranks, place, replica_sets
from mesh_inspect.view.rows import MAX_COUNT, HoldingRow

By = Literal["model", "host", "identity"]
BY: Final[tuple[By, ...]] = get_args(By)


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that are shown as one."""

    by: By
    rows: tuple[HoldingRow, ...]
    """Never empty."""
    replica_set: ReplicaSet | None = None
    """By model: what the rows make. None: members without a model, and other groups."""

    @property
    def model(self) -> str | None:
        """The model of all rows; None if there are several."""
        return self._shared([row.model for row in self.rows])

    @property
    def role(self) -> str | None:
        return self._shared([row.role for row in self.rows])

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(sorted({row.model for row in self.rows if row.model}))

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted({row.member.host for row in self.rows}))

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(sorted({row.member.id for row in self.rows}))

    @property
    def identity(self) -> str | None:
        """Of all rows; None if there are several."""
        return self._shared([row.holding.identity if row.holding else None for row in self.rows])

    @property
    def content_id(self) -> str | None:
        return self._shared([row.content_id for row in self.rows])

    @property
    def conditions(self) -> Counter[str]:
        """How many rows have each condition."""
        return Counter(row.condition for row in self.rows)

    @property
    def condition(self) -> str:
        """`ready`, or `3 ready,1 loading`: the most frequent first."""
        counts = self.conditions.most_common()
        if len(counts) == 1:
            return counts[0][0]
        return ",".join(f"{count} {condition}" for condition, count in counts)

    @property
    def worst(self) -> str:
        """The condition that matters most, as far as there are several."""
        return max(self.conditions, key=lambda one: _SEVERITY.get(one, 0))

    @property
    def replicas(self) -> int | None:
        """How many replicas the rows make; None if that is not what they are put together for."""
        return None if self.replica_set is None else self.replica_set.replicas

    @property
    def missing(self) -> tuple[list[str], int]:
        """Names of the first ranks that nobody has, and how many there are."""
        if self.replica_set is None:
            return [], 0
        return missing_ranks(self.replica_set.make, map(place, self.rows))

    @property
    def gone(self) -> bool:
        return all(row.gone for row in self.rows)

    @property
    def age_s(self) -> float:
        """Of the oldest process."""
        return max(row.member.age_s for row in self.rows)

    def total(self, count: Callable[[HoldingRow], int]) -> int:
        """The sum over all rows."""
        return min(sum(map(count, self.rows)), MAX_COUNT)

    def document(self) -> Entry:
        """As programs read it. No key is ever missing."""
        make = None if self.replica_set is None else self.replica_set.make
        missing, lacking = self.missing
        return {
            "by": self.by,
            "model": self.model,
            "models": list(self.models),
            "role": self.role,
            "content": self.content_id,
            "identity": self.identity,
            "weights_layout": self._shared([row.weights_layout for row in self.rows]),
            "split": None if make is None else sizes_of(make.sizes),
            "replicas": self.replicas,
            "complete": None if self.replica_set is None else self.replica_set.complete,
            "ranks": None
            if self.replica_set is None or make is None
            else {
                "present": self.replica_set.present,
                "total": make.ranks,
                "missing": missing,
                "missing_count": lacking,
            },
            "hosts": list(self.hosts),
            "members": list(self.members),
            "conditions": dict(self.conditions.most_common()),
            "bytes": self.total(lambda row: row.nbytes),
            "held_bytes": self.total(lambda row: row.held),
            "total_bytes": self.total(lambda row: row.total),
            "rate": self.total(lambda row: row.rate),
            "sessions": {
                "serving": self.total(lambda row: row.serving),
                "pulling": self.total(lambda row: row.pulling),
            },
            "age_s": round(self.age_s, 3),
        }

    @staticmethod
    def _shared(values: Iterable[str | None]) -> str | None:
        """The value that all have, else None."""
        found = set(values)
        return found.pop() if len(found) == 1 else None


_SEVERITY: Final[Mapping[str, int]] = {
    "left": 1,
    "ready": 2,
    "alive": 3,
    "loading": 4,
    "unavailable": 5,
    "stalled": 6,
    "suspect": 7,
    "accused": 8,
    "dead": 9,
}

GROUP_KEYS: Final[Mapping[str, Callable[[RowGroup], Value]]] = {
    "model": lambda group: group.model or ",".join(group.models) or None,
    "host": lambda group: ",".join(group.hosts),
    "identity": lambda group: group.identity,
    "condition": lambda group: group.condition,
    "members": lambda group: len(group.members),
    "replicas": lambda group: group.replicas,
    "missing": lambda group: group.missing[1],
    "bytes": lambda group: group.total(lambda row: row.nbytes),
    "rate": lambda group: group.total(lambda row: row.rate),
    "serving": lambda group: group.total(lambda row: row.serving),
    "pulling": lambda group: group.total(lambda row: row.pulling),
    "age": lambda group: group.age_s,
}
"""What groups are sorted by."""


def groups(rows: Iterable[HoldingRow], by: By) -> list[RowGroup]:
    """The rows in groups, in the order of the first row of each."""
    rows = tuple(rows)
    if by == "model":
        made = [RowGroup(by, one.rows, one) for one in replica_sets(rows)]
        without = tuple(row for row in rows if row.holding is None)
        made += [
            RowGroup(by, some)
            for some in (
                tuple(row for row in without if row.gone is gone) for gone in (False, True)
            )
            if some
        ]
    else:
        found: dict[str, list[HoldingRow]] = {}
        for row in rows:
            found.setdefault(_key(row, by), []).append(row)
        made = [RowGroup(by, tuple(some)) for some in found.values()]
    order = {id(row): number for number, row in enumerate(rows)}
    return sorted(made, key=lambda group: order[id(group.rows[0])])


def sizes_of(sizes: Iterable[int]) -> Entry:
    """`{"dp_size": 1, ...}`: in how many ranks each dimension is divided."""
    return {f"{name}_size": size for name, size in zip(SPLIT, sizes, strict=True)}


def _key(row: HoldingRow, by: By) -> str:
    if by == "host":
        return row.member.host
    return "" if row.holding is None else row.holding.identity
