"""Weights whose chunks are packed when a test lets them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tests.fastest import HANG_S

from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk


@dataclass(frozen=True)
class HeldWeights(Weights):
    """Packs after `go_on`, and says so."""

    packing: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    on_packed: Callable[[], object] = lambda: None

    @classmethod
    def of(cls, weights: Weights, on_packed: Callable[[], object] = lambda: None) -> HeldWeights:
        return cls(weights.manifest, weights.tensors, weights.device_type, on_packed=on_packed)

    def pack(self, chunk: Chunk, staging: torch.Tensor) -> torch.Tensor:
        self.packing.set()
        self.go_on.wait(HANG_S)
        packed = super().pack(chunk, staging)
        self.on_packed()
        return packed
