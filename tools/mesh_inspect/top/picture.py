"""What one look at a mesh shows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from mesh_inspect.view.models import Coverage, coverages
from mesh_inspect.view.rows import HoldingRow, rows_of
from mesh_inspect.view.transfers import Transfers, transfers_of
from netmesh import Member


@dataclass(frozen=True)
class Picture:
    """What one look shows."""

    members: tuple[Member, ...] = ()
    rows: tuple[HoldingRow, ...] = ()
    """The members and what each holds."""

    @classmethod
    def of(cls, members: Iterable[Member]) -> Self:
        """What a look at these members shows."""
        members = tuple(members)
        return cls(members, rows_of(members))

    @cached_property
    def transfers(self) -> Transfers:
        """What moves between them."""
        return transfers_of(self.rows)

    @cached_property
    def models(self) -> Sequence[Coverage]:
        """What they can serve."""
        return coverages(self.rows)

    @cached_property
    def statuses(self) -> Counter[str]:
        """How many members the mesh takes for alive, stalled, suspect, dead and left."""
        return Counter(member.status.name.lower() for member in self.members)

    @cached_property
    def ready(self) -> int:
        """Members that may be asked for weights."""
        return len({row.member.id for row in self.rows if row.ready})

    @cached_property
    def by_id(self) -> dict[str, Sequence[HoldingRow]]:
        """The rows of each member."""
        found: dict[str, list[HoldingRow]] = {}
        for row in self.rows:
            found.setdefault(row.member.id, []).append(row)
        return dict(found)
