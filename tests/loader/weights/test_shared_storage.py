"""Originals that share their storage with others."""

from __future__ import annotations

import pytest
import torch
from tests.loader.weights.retained_models import LARGE, Twins, model
from torch import nn

from netloader.errors import ManifestError
from netloader.terms import KeepMode
from netloader.weights.capture import Weights, capture
from netloader.weights.coalesce import arrange
from netloader.weights.digests import of_weights
from netloader.weights.manifest import Chunk
from netloader.weights.retain import changed, keep, settle


class TestSharedStorage:
    """Tensors that `arrange` has put together: large ones in one chunk, small ones in another."""

    @staticmethod
    def chunk_of(weights: Weights, name: str) -> Chunk:
        """The chunk that holds `name` and its twin, and no others."""
        tensors = weights.manifest.tensors
        (chunk,) = (
            chunk
            for chunk in weights.manifest.chunks()
            if [tensors[piece.tensor].name for piece in chunk.pieces] == [name, f"{name}_twin"]
        )
        return chunk

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_chunk_still_lies_as_it_travels(self, name: str) -> None:
        made = Twins()
        arrange(made)
        originals = settle(keep(capture(made), KeepMode.DRAM, None), made)
        chunk = self.chunk_of(originals.weights, name)
        assert originals.weights.contiguous(chunk) is not None

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_chunk_still_does_when_one_was_replaced(self, name: str) -> None:
        made = Twins()
        before = arrange(made).sha256()
        kept = keep(capture(made), KeepMode.DRAM, None)
        nbytes = getattr(made, name).nbytes
        setattr(made, name, nn.Parameter(torch.empty(0)))
        originals = settle(kept, made)
        chunk = self.chunk_of(originals.weights, name)
        assert originals.weights.contiguous(chunk) is not None
        assert originals.weights.sha256() == before
        # Its neighbour keeps that memory, whether peers are served or not.
        assert (originals.extra_bytes, originals.stuck_bytes) == (0, nbytes)
        assert originals.cost_bytes == nbytes

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_a_neighbour_in_use_does_not_make_a_replaced_one_survive(self, name: str) -> None:
        made = Twins()
        arrange(made)
        kept = keep(capture(made), KeepMode.NO, None)
        setattr(made, name, nn.Parameter(torch.empty(0)))
        with pytest.raises(ManifestError, match=rf"replaced 1 tensors \({name} first\)"):
            settle(kept, made)

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_all_replaced_cost_their_whole_chunk(self, name: str) -> None:
        made = Twins()
        arrange(made)
        weights = capture(made)
        chunk = self.chunk_of(weights, name)
        kept = keep(weights, KeepMode.DRAM, None)
        for replaced in (name, f"{name}_twin"):
            setattr(made, replaced, nn.Parameter(torch.empty(0)))
        originals = settle(kept, made)
        assert (originals.extra_bytes, originals.stuck_bytes) == (chunk.nbytes, 0)

    def test_memory_that_the_model_itself_shares_is_no_cost_of_ours(self) -> None:
        made = model()
        fused = torch.ones(3 * LARGE, dtype=torch.uint8)
        made.large = nn.Parameter(fused[:LARGE], requires_grad=False)
        made.other = nn.Parameter(fused[2 * LARGE :], requires_grad=False)
        kept = keep(capture(made), KeepMode.DRAM, None)
        del made.large
        assert settle(kept, made).cost_bytes == 0

    def test_chunk_is_packed_when_one_was_rewritten(self) -> None:
        made = Twins()
        before = arrange(made).sha256()
        weights = capture(made)
        promised = of_weights(weights, weights.manifest.chunks())
        kept = keep(weights, KeepMode.DRAM, None)
        made.small.data.mul_(2)
        originals = settle(kept, made)
        assert originals.weights.contiguous(self.chunk_of(originals.weights, "small")) is None
        assert originals.weights.contiguous(self.chunk_of(originals.weights, "large")) is not None
        assert originals.weights.sha256() == before
        assert changed(originals.weights, promised) == []

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_all_of_them_are_gone_when_all_were_replaced(self, name: str) -> None:
        made = Twins()
        arrange(made)
        kept = keep(capture(made), KeepMode.NO, None)
        for replaced in (name, f"{name}_twin"):
            setattr(made, replaced, nn.Parameter(torch.empty(0)))
        with pytest.raises(ManifestError, match=rf"replaced 2 tensors \({name} first\)"):
            settle(kept, made)
