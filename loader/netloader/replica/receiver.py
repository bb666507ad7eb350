"""Chunks on their way through one group: receives are posted, awaited in order, then verified."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from netloader.errors import DigestMismatch
from netloader.replica.state import Assignment
from netloader.transport import Group, Pending
from netloader.weights import digests
from netloader.weights.capture import DigestKind


@dataclass(frozen=True, slots=True)
class _Arriving:
    assignment: Assignment
    pending: tuple[Pending, ...]
    """One receive for each message of the chunk."""


class Receiver:
    """Belongs to one thread; any thread may abort its group."""

    def __init__(self, group: Group, message_bytes: int, timeout_s: float) -> None:
        """Chunks travel in messages of `message_bytes`, the last of which may be shorter.
        `timeout_s` bounds the wait for each."""
        self._group = group
        self._message_bytes = message_bytes
        self._timeout_s = timeout_s
        self._arriving: deque[_Arriving] = deque()

    def __len__(self) -> int:
        """The number of chunks that were posted and not yet waited for."""
        return len(self._arriving)

    def post(self, assignment: Assignment) -> None:
        """Post the receives of a chunk before it is asked for. Raises `TransportError`."""
        parts = torch.split(assignment.data, self._message_bytes)
        pending = tuple(self._group.recv(part, assignment.chunk.id) for part in parts)
        self._arriving.append(_Arriving(assignment, pending))

    def wait(self) -> Assignment:
        """Wait for the chunk that was posted first until all its bytes are here. Raises
        `TransportError`."""
        arriving = self._arriving.popleft()
        for pending in arriving.pending:
            pending.wait(self._timeout_s)
        return arriving.assignment

    def close(self) -> None:
        """Abort the group. Once this returns, nothing is written to tensors any more."""
        self._group.abort()
        self._arriving.clear()


def verify(endpoint: str, assignment: Assignment, promised: bytes, kind: DigestKind) -> None:
    """Raises `DigestMismatch` when a chunk's bytes are not what its source promised by this kind of
    digest."""
    got = digests.of_bytes(assignment.data, kind)
    if got != promised:
        raise DigestMismatch(endpoint, assignment.chunk.id, promised.hex(), got.hex())
