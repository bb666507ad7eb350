"""Who is accused of wrong bytes, by how many members. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from netloader.discovery.advert import Holding
from netloader.discovery.candidate import Process
from netmesh import Member


def accusers(everybody: Iterable[tuple[Member, Sequence[Holding]]]) -> Counter[Process]:
    """How many members say of each process that it sent them other bytes than it had promised.

    A member that nobody can talk to any more does not count, nor what it says of itself.
    """
    return Counter(
        accused
        for member, holdings in everybody
        if member.selectable
        for accused in {
            (one.endpoint, one.generation)
            for holding in holdings
            for one in holding.accuses
            if one.endpoint != holding.endpoint
        }
    )
