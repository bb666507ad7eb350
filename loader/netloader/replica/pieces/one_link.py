"""Which replica of a host fetches a chunk over the network, for all that are there. Pure.

Replicas of one host share its link, and hand each other chunks beside it. So each chunk should
cross the link once. They hear of a new chunk at the same moment, and would all ask for it before
any could tell the others. So each chunk is one replica's, by the names of all (rendezvous hashing):
that one asks at once, and the others only when nobody has asked a moment later. Nobody waits for a
replica that does not come to it.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b


class OneLink:
    """The chunks that are this replica's, among those of its host."""

    def __init__(self, me: str, chunks: int, patience_s: float) -> None:
        """`patience_s` is how long others' chunks are left to them."""
        self._me = me
        self._chunks = chunks
        self._patience_s = patience_s
        self._others: frozenset[str] = frozenset()
        self._theirs: frozenset[int] = frozenset()
        self._left_since: dict[int, float] = {}

    def meet(self, others: Collection[str]) -> None:
        """Note who else of this host is there."""
        if self._others == frozenset(others):
            return
        self._others = frozenset(others)
        self._theirs = frozenset(
            chunk
            for chunk in range(self._chunks)
            if any(_draw(other, chunk) > _draw(self._me, chunk) for other in self._others)
        )
        self._left_since.clear()

    def waits(self, chunk: int, now: float) -> bool:
        """Whether a chunk that a source elsewhere has is left to another replica for now. The time
        begins when this is first asked."""
        if chunk not in self._theirs:
            return False
        return now - self._left_since.setdefault(chunk, now) < self._patience_s


def _draw(name: str, chunk: int) -> bytes:
    return blake2b(f"{name}\0{chunk}".encode(), digest_size=8).digest()
