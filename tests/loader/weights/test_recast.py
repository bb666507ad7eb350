"""Originals that nobody kept are read back from what took their place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from netloader.errors import ManifestError
from netloader.terms import KeepMode
from netloader.weights.capture import Weights, capture
from netloader.weights.digests import of_weights
from netloader.weights.retain import changed, keep, settle


class Matrices(nn.Module):
    """Of which post-processing turns some."""

    def __init__(self, side: int = 300) -> None:
        super().__init__()
        for name, shape in (("wide", (200, 300)), ("square", (side, side)), ("tiny", (2, 3))):
            values = torch.arange(shape[0] * shape[1]).reshape(shape).to(torch.int8)
            setattr(self, name, nn.Parameter(values, requires_grad=False))

    def turn(self, *names: str) -> None:
        for name in names:
            turned = getattr(self, name).data.t().contiguous()
            setattr(self, name, nn.Parameter(turned, requires_grad=False))


class TestRecast:
    """Nothing is kept, and what was loaded is read back from what took its place."""

    @staticmethod
    def settled(made: nn.Module, process: Callable[[], object]) -> tuple[Weights, list[str]]:
        """What is served after `process`, and which of it is not what was loaded."""
        before = capture(made)
        promised = of_weights(before, before.manifest.chunks())
        kept = keep(before, KeepMode.NO, None)
        del before
        process()
        originals = settle(kept, made)
        assert originals.cost_bytes == 0
        return originals.weights, changed(originals.weights, promised)

    @pytest.mark.parametrize(
        "names",
        [(), ("wide",), ("square",), ("tiny",), ("wide", "square", "tiny")],
        ids=lambda names: "+".join(names) or "none",
    )
    def test_swapped_dimensions_are_read_back(self, names: tuple[str, ...]) -> None:
        made = Matrices()
        before = capture(made).sha256()
        weights, different = self.settled(made, lambda: made.turn(*names))
        assert different == []
        assert weights.sha256() == before
        assert {weights.manifest.tensors[number].name for number in weights.recast} == set(names)

    def test_a_square_matrix_that_was_copied_but_not_turned(self) -> None:
        made = Matrices()
        copy = nn.Parameter(made.square.data.clone(), requires_grad=False)
        weights, different = self.settled(made, lambda: setattr(made, "square", copy))
        assert (different, len(weights.recast)) == ([], 1)

    def test_other_values_of_the_same_shape_are_found_before_they_are_served(self) -> None:
        made = Matrices()
        other = nn.Parameter(made.wide.data + 1, requires_grad=False)
        _, different = self.settled(made, lambda: setattr(made, "wide", other))
        assert "wide" in different

    def test_a_square_matrix_with_other_values_is_gone(self) -> None:
        made = Matrices()
        other = nn.Parameter(made.square.data + 1, requires_grad=False)
        with pytest.raises(ManifestError, match="square first"):
            self.settled(made, lambda: setattr(made, "square", other))

    def test_a_tensor_with_permuted_memory_is_not_guessed_at(self) -> None:
        made = Matrices()
        made.wide = nn.Parameter(made.wide.data.t(), requires_grad=False)
        turned = nn.Parameter(made.wide.data.contiguous(), requires_grad=False)
        with pytest.raises(ManifestError, match="wide first"):
            self.settled(made, lambda: setattr(made, "wide", turned))

    def test_it_travels_in_chunks_like_any_other(self) -> None:
        made = Matrices()
        before = capture(made, chunk_bytes=16 * 1024)
        wanted = [
            before.pack(chunk, before.staging()).clone() for chunk in before.manifest.chunks()
        ]
        kept = keep(before, KeepMode.NO, None)
        made.turn("wide", "square", "tiny")
        weights = settle(kept, made).weights
        chunks = weights.manifest.chunks()
        assert all(weights.contiguous(chunk) is None for chunk in chunks)
        packed = [weights.pack(chunk, weights.staging()) for chunk in chunks]
        assert all(map(torch.equal, packed, wanted))
