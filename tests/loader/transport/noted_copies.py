"""Host memory as a device whose copies a test can count, hold up and break."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
from tests.fastest import HANG_S

from netloader.transport.copies import HostCopies, Wait


@dataclass
class NotedCopies(HostCopies):
    """Host memory as a device, with a count of its buffers and a gate before each copy."""

    made: list[int] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    broken: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def buffer(self, nbytes: int) -> torch.Tensor:
        self.made.append(nbytes)
        return super().buffer(nbytes)

    def to_host(self, host: torch.Tensor, data: torch.Tensor, after: object) -> Wait:
        copy = super().to_host(host, data, after)
        return lambda: self._noted(copy, host)

    def to_device(self, data: torch.Tensor, host: torch.Tensor, after: object) -> Wait:
        self._noted(lambda: super(NotedCopies, self).to_device(data, host, after)(), data)
        return lambda: None

    def _noted(self, copy: Wait, target: torch.Tensor) -> None:
        self.reached.set()
        self.gate.wait(HANG_S)
        if self.broken:
            raise RuntimeError("an error of the device\nand its trace")
        copy()
        self.copied.append(target.numel())
