"""A model's parameters as upstream moves them: whole, in order, as rows and columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from netloader.weights.capture import Weights
from netloader.weights.manifest import Tensor


@dataclass(frozen=True, slots=True)
class Ordered:
    """One parameter in its place."""

    weights: Weights
    number: int

    @property
    def described(self) -> Tensor:
        return self.weights.manifest.tensors[self.number]

    @property
    def nbytes(self) -> int:
        return self.described.nbytes

    def read(self, device: torch.device) -> torch.Tensor:
        """The parameter on `device`, contiguous: in place where it lies like that."""
        here = _shaped(self.weights.read(self.number), self.described)
        return here.contiguous().to(device)

    def buffer(self) -> torch.Tensor:
        """Contiguous memory to receive the parameter into: its own where that is contiguous."""
        there = self._in_place()
        return there if there.is_contiguous() else torch.empty_like(there.contiguous())

    def fill(self, received: torch.Tensor) -> None:
        """Put what `buffer` gave and what has come into it in its place."""
        there = self._in_place()
        if received.data_ptr() != there.data_ptr():
            there.copy_(received)

    def _in_place(self) -> torch.Tensor:
        return _shaped(self.weights.tensors[self.number], self.described)


def ordered(weights: Weights) -> Iterator[Ordered]:
    """The parameters in the order of `named_parameters`, each once.

    Upstream's server sends all of a model's parameters but those with `aclnn_input_scale` in their
    names, which exist only after post-processing. Its replica skips parameters without dimensions.
    """
    for number, tensor in enumerate(weights.manifest.tensors):
        if tensor.kind == "parameter":
            yield Ordered(weights, number)


def _shaped(flat: torch.Tensor, described: Tensor) -> torch.Tensor:
    dtype = getattr(torch, described.dtype)
    return flat.view(dtype).as_strided(described.shape, described.stride)
