"""The raw limit: plain Gloo between two processes, without verification or any other work.

Messages of 64 MiB travel through groups that are already open, with torch's own classes and none of
ours, so that it stays a limit whatever our transport does. Several single-lane groups take the
messages in turn.

The same with a copy on either side is the limit for staged transports: host memory that plays a
device is copied to a buffer, sent from there, received into another buffer, and copied once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import numpy as np
import torch
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, TCPStore

MESSAGE_BYTES: Final = 64 * 1024 * 1024

COPIED_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a message that is copied. Of 1 to 64 MiB the fastest, or as fast as the fastest."""

_BUFFERS: Final = 3
"""One is copied while others are on the wire, for each group."""

SENDER: Final = 0
RECEIVER: Final = 1

_TIMEOUT: Final = timedelta(seconds=300)


class RawLink:
    """One end of some groups between two processes."""

    def __init__(self, store: TCPStore, rank: int, host: str, lanes: int) -> None:
        """Block until the other end is there. `host` is the address of this end."""
        self._peer = 1 - rank
        self._groups: list[Any] = [_open(store, rank, host, lane) for lane in range(lanes)]
        self._store = store
        self._staging: list[torch.Tensor] = []

    def send(self, data: torch.Tensor) -> None:
        """Send a flat uint8 tensor. Returns when all of it has left."""
        self._all(data, lambda group, part, tag: group.send([part], self._peer, tag))

    def receive(self, data: torch.Tensor, ready: Callable[[], object]) -> None:
        """Fill a flat uint8 tensor. Calls `ready` when all receives are posted."""
        self._all(data, lambda group, part, tag: group.recv([part], self._peer, tag), ready)

    def send_copied(self, data: torch.Tensor) -> None:
        """The same with a copy of each message."""
        ahead: deque[Any] = deque()
        buffers = self._buffers()
        for number, part in enumerate(torch.split(data, COPIED_BYTES)):
            if len(ahead) == len(buffers):
                ahead.popleft().wait(_TIMEOUT)
            buffer = buffers[number % len(buffers)][: part.numel()]
            np.copyto(buffer.numpy(), part.numpy())
            ahead.append(self._group(number).send([buffer], self._peer, number))
        for work in ahead:
            work.wait(_TIMEOUT)

    def receive_copied(self, data: torch.Tensor, ready: Callable[[], object]) -> None:
        """The same with a copy of each message."""
        ahead: deque[tuple[torch.Tensor, torch.Tensor, Any]] = deque()
        buffers = self._buffers()
        parts = list(torch.split(data, COPIED_BYTES))
        for number in range(len(parts) + len(buffers)):
            if number == min(len(buffers), len(parts)):
                ready()
            if ahead and number >= len(buffers):
                part, buffer, work = ahead.popleft()
                work.wait(_TIMEOUT)
                np.copyto(part.numpy(), buffer.numpy())
            if number < len(parts):
                part = parts[number]
                buffer = buffers[number % len(buffers)][: part.numel()]
                work = self._group(number).recv([buffer], self._peer, number)
                ahead.append((part, buffer, work))

    def _buffers(self) -> list[torch.Tensor]:
        if not self._staging:
            count = _BUFFERS * len(self._groups)
            self._staging = [torch.zeros(COPIED_BYTES, dtype=torch.uint8) for _ in range(count)]
        return self._staging

    def _group(self, number: int) -> Any:
        return self._groups[number % len(self._groups)]

    def _all(
        self,
        data: torch.Tensor,
        start: Callable[[Any, torch.Tensor, int], Any],
        ready: Callable[[], object] = lambda: None,
    ) -> None:
        works = [
            start(self._group(number), part, number)
            for number, part in enumerate(torch.split(data, MESSAGE_BYTES))
        ]
        ready()
        for work in works:
            work.wait(_TIMEOUT)


def listen(host: str) -> TCPStore:
    """The store for a new link. The other end needs its `port`."""
    return TCPStore(host, 0, 2, True, timeout=_TIMEOUT, wait_for_workers=False)


def meet(host: str, port: int) -> TCPStore:
    """Connect to the store that the other end made with `listen`."""
    return TCPStore(host, port, 2, False, timeout=_TIMEOUT)


def _open(store: TCPStore, rank: int, host: str, lane: int) -> ProcessGroupGloo:
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = _TIMEOUT
    options._threads = 1
    options._devices = [ProcessGroupGloo.create_device(hostname=host)]
    return ProcessGroupGloo(PrefixStore(f"lane{lane}", store), rank, 2, options)
