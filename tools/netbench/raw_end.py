"""The receiving end of plain Gloo, wherever the replica runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from netbench import raw


class RawReceiver:
    """Links to one source process, one with each number of lanes."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._links: dict[int, raw.RawLink] = {}
        self._warm: torch.Tensor | None = None

    def open(self, lanes: int, host: str, port: int, mine: str) -> None:
        """Join the link of the source that listens at `host:port`; `mine` is our address."""
        self._links[lanes] = raw.RawLink(raw.meet(host, port), raw.RECEIVER, mine, lanes)

    def warm(self, lanes: int, ready: Callable[[], object]) -> float:
        """Seconds to receive into memory that is in use. Calls `ready` when the source may send."""
        return self._receive(self._warm_memory(), lanes, ready)

    def copied(self, lanes: int, ready: Callable[[], object]) -> float:
        """Seconds to receive into memory that is in use with a copy on either side."""
        started = time.perf_counter()
        self._links[lanes].receive_copied(self._warm_memory(), ready)
        return time.perf_counter() - started

    def fresh(self, lanes: int, ready: Callable[[], object]) -> float:
        """Seconds to receive into a new `torch.empty`."""
        return self._receive(torch.empty(self._nbytes, dtype=torch.uint8), lanes, ready)

    def _warm_memory(self) -> torch.Tensor:
        if self._warm is None:
            self._warm = torch.zeros(self._nbytes, dtype=torch.uint8)
        return self._warm

    def _receive(self, data: torch.Tensor, lanes: int, ready: Callable[[], object]) -> float:
        started = time.perf_counter()
        self._links[lanes].receive(data, ready)
        return time.perf_counter() - started
