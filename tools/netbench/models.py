"""Models made of a list of tensors: filled for a source, untouched for a replica."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from netbench.shapes import TensorRow
from netloader.weights.capture import Weights

_M_MMAP_THRESHOLD = -3


def empty_model(rows: Sequence[TensorRow]) -> nn.Module:
    """Parameters from `torch.empty`, with no byte touched."""
    model = nn.Module()
    for row in rows:
        *path, name = row.name.split(".")
        module = model
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        data = torch.empty(row.shape, dtype=row.dtype)
        module.register_parameter(name, nn.Parameter(data, requires_grad=False))
    return model


def fill(weights: Weights, seed: int) -> None:
    """Fill with random bytes. Equal seeds give equal bytes."""
    generator = np.random.Generator(np.random.SFC64(seed))
    for data in weights.tensors:
        words = generator.integers(0, 1 << 64, -(-data.numel() // 8), dtype=np.uint64)
        data.copy_(torch.from_numpy(words.view(np.uint8)[: data.numel()]))


def clear(weights: Weights) -> None:
    """Fill with zeros, so that former contents cannot pass for bytes that arrived."""
    for data in weights.tensors:
        data.zero_()


def fresh_memory_only() -> None:
    """Give freed memory back to the kernel from now on, so that new memory is really new.

    Otherwise glibc maps memory only from the largest freed size on, up to 32 MiB, and reuses pages
    that it already has. A process cannot undo this call.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 64 * 1024)
    libc.malloc_trim(0)
