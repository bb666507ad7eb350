"""Models of which post-processing replaces tensors."""

from __future__ import annotations

import torch
from torch import nn

LARGE = 64 * 1024
"""Bytes from which on a tensor is referenced rather than copied."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.ones(LARGE, dtype=torch.uint8), requires_grad=False)
        self.small = nn.Parameter(torch.ones(8, dtype=torch.uint8), requires_grad=False)
        self.none = nn.Parameter(torch.empty(0, 3))


class Twins(Model):
    """Two large tensors and two small ones, for `arrange` to put together."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("large", "small"):
            twin = nn.Parameter(getattr(self, name).clone(), requires_grad=False)
            setattr(self, f"{name}_twin", twin)


def model() -> Model:
    return Model()


def pack_linear(made: nn.Module) -> None:
    """What vLLM does on a CPU with AVX-512: pack each linear weight, drop the original."""
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            packed = layer.weight.detach().clone()
            layer.cpu_linear = lambda x, packed=packed: nn.functional.linear(x, packed)
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)


class Mlp(nn.Module):
    """An embedding and a norm, which survive packing, and linear weights, which do not."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
