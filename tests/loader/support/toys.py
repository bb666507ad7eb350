"""Weights for tests: small ones of every kind, and large ones."""

from __future__ import annotations

import torch
from torch import nn

from netloader.weights.capture import Weights, capture
from netloader.weights.manifest import CHUNK_BYTES

CHUNK = 64 * 1024
"""Small enough that a toy model has many chunks of both kinds."""


class Toy(nn.Module):
    """Tied, permuted, tiny, empty, integer, boolean: what real models have, in half a megabyte."""

    bias: torch.Tensor
    flag: torch.Tensor

    def __init__(self, seed: int | None = None, rows: int = 2000) -> None:
        """Random bytes by `seed`; zeros without one."""
        super().__init__()
        self.embed = nn.Embedding(rows, 64)
        self.head = nn.Linear(64, rows, bias=False)
        self.head.weight = self.embed.weight
        self.permuted = nn.Parameter(torch.empty(300, 128).t())
        self.slanted = nn.Parameter(torch.empty(5, 7, 3).permute(2, 0, 1))
        self.small = nn.ParameterList(
            nn.Parameter(torch.empty(100 + 37 * number, dtype=torch.bfloat16))
            for number in range(60)
        )
        self.packed = nn.Parameter(torch.empty(77, 33, dtype=torch.int8), requires_grad=False)
        self.empty = nn.Parameter(torch.empty(0, 7))
        self.register_buffer("bias", torch.empty(33, dtype=torch.int64))
        self.register_buffer("flag", torch.empty((), dtype=torch.bool), persistent=False)
        generator = torch.Generator().manual_seed(seed or 0)
        for data in capture(self).tensors:
            if seed is None:
                data.zero_()
            else:
                data.random_(0, 2, generator=generator) if data.numel() == 1 else data.random_(
                    0, 256, generator=generator
                )


def toy_weights(seed: int | None = None, *, rows: int = 2000, chunk: int = CHUNK) -> Weights:
    return capture(Toy(seed, rows), chunk_bytes=chunk)


def is_zero(weights: Weights, chunks: list[int]) -> bool:
    return not any(
        bool(weights.view(piece).any())
        for chunk in chunks
        for piece in weights.manifest.chunks()[chunk].pieces
    )


def big_weights(seed: int | None, mebibytes: int) -> Weights:
    """One large tensor in chunks of the real size."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(mebibytes, 1 << 18))
    weights = capture(model, chunk_bytes=min(CHUNK_BYTES, 8 << 20))
    if seed is not None:
        block = torch.empty(1 << 20, dtype=torch.uint8)
        block.random_(0, 256, generator=torch.Generator().manual_seed(seed))
        for number, row in enumerate(weights.tensors[0].view(-1, block.numel())):
            torch.add(block, number, out=row)
    return weights


def equal(one: Weights, other: Weights) -> bool:
    return one.sha256() == other.sha256()
