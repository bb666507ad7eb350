"""A library that plays NCCL on host memory, between threads of one process.

It keeps NCCL's worst manners: an operation whose peer never joins waits for ever, and whoever is
left by an abort of the other end hears nothing of it.
"""

from __future__ import annotations

import secrets
import threading
from collections import defaultdict, deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from netloader.transport.base import peer_of
from netloader.transport.called import Operation
from netloader.transport.libnccl import UNIQUE_ID_BYTES
from netloader.transport.nccl import NcclCommunicator


@dataclass
class PlayedOperation:
    """A transfer, or nothing at all."""

    data: torch.Tensor | None = None
    ended: bool = False
    failed: bool = False

    def has_ended(self) -> bool:
        if self.failed:
            raise RuntimeError("aborted")
        return self.ended


@dataclass
class Meeting:
    """What the two ends of a communicator share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    joined: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    queues: defaultdict[tuple[int, bool], deque[PlayedOperation]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    """Operations whose counterpart has not begun, by rank, and whether they send."""


@dataclass
class PlayedCommunicator:
    meeting: Meeting
    rank: int

    def is_ready(self) -> bool:
        with self.meeting.lock:
            return len(self.meeting.joined) == 2

    def begin(self, sends: bool, data: torch.Tensor) -> Operation:
        mine = PlayedOperation(data)
        with self.meeting.lock:
            if self.rank in self.meeting.gone:
                raise RuntimeError("aborted")
            waiting = self.meeting.queues[peer_of(self.rank), not sends]
            if not waiting or peer_of(self.rank) in self.meeting.gone:
                self.meeting.queues[self.rank, sends].append(mine)
                return mine
            other = waiting.popleft()
            sending, receiving = (mine, other) if sends else (other, mine)
            assert sending.data is not None and receiving.data is not None
            # More than was posted is nothing that NCCL would notice.
            receiving.data.copy_(sending.data[: receiving.data.numel()])
            for one in (mine, other):
                one.data, one.ended = None, True
        return mine

    def abort(self) -> Operation:
        with self.meeting.lock:
            self.meeting.gone.add(self.rank)
            for sends in (True, False):
                for one in self.meeting.queues.pop((self.rank, sends), ()):
                    one.data, one.failed = None, True
        return PlayedOperation(ended=True)


class PlayedDevice:
    """Host memory as a device."""

    def __init__(self, free_bytes: int = 1 << 40) -> None:
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self.host_memory: list[torch.Tensor] = []
        """Tensors that play the host's memory, which NCCL does not take."""
        self._meetings: defaultdict[bytes, Meeting] = defaultdict(Meeting)

    def here(self) -> AbstractContextManager[object]:
        return nullcontext()

    def free_bytes(self) -> int:
        return self._free_bytes

    def holds(self, data: torch.Tensor) -> bool:
        return all(data is not one for one in self.host_memory)

    def copy_of(self, data: torch.Tensor) -> torch.Tensor:
        return data.clone()

    def mark(self) -> Operation:
        return PlayedOperation(ended=True)

    def unique_id(self) -> bytes:
        return secrets.token_bytes(UNIQUE_ID_BYTES)

    def join(self, unique_id: bytes, rank: int) -> NcclCommunicator:
        with self._lock:
            meeting = self._meetings[unique_id]
        with meeting.lock:
            meeting.joined.add(rank)
        return PlayedCommunicator(meeting, rank)
