"""A transport with a clock and a counter, which behaves like the transport that it wraps."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch._C._distributed_c10d import Store

from netloader.transport import Backend, Group, Pending


@dataclass
class ChunkWatch:
    """Observations so far. Several groups may report to one."""

    first_send: float | None = None
    """When the first send began, in `time.perf_counter`, which on Linux all processes share."""
    received: Counter[int] = field(default_factory=Counter)
    """Bytes of receives that completed, by chunk."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sending(self) -> None:
        if self.first_send is None:
            self.first_send = time.perf_counter()

    def take_first_send(self) -> float | None:
        """When the first send since the last call began."""
        found, self.first_send = self.first_send, None
        return found

    def completed(self, tag: int, nbytes: int) -> None:
        with self._lock:
            self.received[tag] += nbytes


class WatchedBackend:
    """Opens groups of `inner` that report to `watch`."""

    def __init__(self, inner: Backend, watch: ChunkWatch) -> None:
        self.name = inner.name
        self.connections = inner.connections
        self.inner = inner
        self.watch = watch

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        return _WatchedGroup(self.inner.open(store, rank, host, timeout), self.watch)


@dataclass(frozen=True)
class _WatchedGroup:
    inner: Group
    watch: ChunkWatch

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        self.watch.sending()
        return self.inner.send(data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return _WatchedPending(self.inner.recv(data, tag), self.watch, tag, data.numel())

    def abort(self, reason: str = "") -> None:
        self.inner.abort(reason)


@dataclass(frozen=True)
class _WatchedPending:
    inner: Pending
    watch: ChunkWatch
    tag: int
    nbytes: int

    def wait(self, timeout_s: float) -> None:
        self.inner.wait(timeout_s)
        self.watch.completed(self.tag, self.nbytes)
