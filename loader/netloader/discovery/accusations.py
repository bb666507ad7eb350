"""Which processes are accused of wrong bytes, and by how many members. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from netloader.discovery.advert import Holding
from netloader.discovery.candidate import Process
from netmesh import Member


def accusers(everybody: Iterable[tuple[Member, Sequence[Holding]]]) -> Counter[Process]:
    """For each process, how many members say that it sent them other bytes than it had promised.

    A member that nobody can reach any more does not count, nor does what a member says about
    itself.
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
