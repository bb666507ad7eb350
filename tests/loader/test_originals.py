from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from netloader.arena import arrange
from netloader.config import KeepMode
from netloader.digests import of_weights
from netloader.errors import ManifestError
from netloader.manifest import Chunk
from netloader.originals import changed, keep, settle
from netloader.weights import Weights, capture

LARGE = 64 * 1024
"""Bytes from which on a tensor is referenced rather than copied."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.ones(LARGE, dtype=torch.uint8), requires_grad=False)
        self.small = nn.Parameter(torch.ones(8, dtype=torch.uint8), requires_grad=False)
        self.none = nn.Parameter(torch.empty(0, 3))


def model() -> Model:
    return Model()


def test_tensors_that_survive_cost_nothing() -> None:
    made = model()
    originals = settle(keep(capture(made), KeepMode.NO, None), made)
    assert originals.extra_bytes == 0
    assert originals.weights.sha256() == capture(made).sha256()


def test_replaced_tensor_that_was_not_kept_is_gone() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.NO, None)
    made.large = nn.Parameter(torch.empty(0))
    with pytest.raises(ManifestError, match=r"replaced 1 tensors \(large first\).*INT8_CACHE"):
        settle(kept, made)


@pytest.mark.parametrize("mode", [KeepMode.DRAM, KeepMode.HBM])
def test_replaced_tensor_that_was_kept_is_served_and_costs_its_bytes(mode: KeepMode) -> None:
    made = model()
    before = capture(made).sha256()
    kept = keep(capture(made), mode, None)
    made.large = nn.Parameter(torch.empty(0))
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == LARGE


def test_small_tensor_rewritten_in_place_is_served_as_it_was() -> None:
    made = model()
    before = capture(made).sha256()
    kept = keep(capture(made), KeepMode.DRAM, None)
    with torch.no_grad():
        made.small.mul_(2)
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == 8


def test_small_tensor_that_was_left_alone_is_not_held_twice() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.DRAM, None)
    originals = settle(kept, made)
    assert originals.extra_bytes == 0
    assert originals.weights.tensors[1].data_ptr() == made.small.data_ptr()


def test_small_buffer_is_served_as_it_was_whatever_inference_writes_to_it() -> None:
    made = model()
    made.register_buffer("scale", torch.ones(4))
    before = capture(made).sha256()
    originals = settle(keep(capture(made), KeepMode.DRAM, None), made)
    made.scale.fill_(2)  # type: ignore[operator]
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == 16


def test_replaced_small_tensor_is_served_from_where_it_was_loaded() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.DRAM, None)
    made.small = nn.Parameter(torch.empty(0))
    originals = settle(kept, made)
    assert originals.extra_bytes == 8
    assert originals.weights.tensors[1] is kept.before.tensors[1]


def test_originals_know_where_the_model_was() -> None:
    made = model()
    before = dataclasses.replace(capture(made), device_type="accelerator")
    assert settle(keep(before, KeepMode.DRAM, None), made).weights.device_type == "accelerator"


class TestSharedStorage:
    """Tensors that `arrange` has put together: large ones in one chunk, small ones in another."""

    class Twins(Model):
        def __init__(self) -> None:
            super().__init__()
            for name in ("large", "small"):
                twin = nn.Parameter(getattr(self, name).clone(), requires_grad=False)
                setattr(self, f"{name}_twin", twin)

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
        made = self.Twins()
        arrange(made)
        originals = settle(keep(capture(made), KeepMode.DRAM, None), made)
        chunk = self.chunk_of(originals.weights, name)
        assert originals.weights.contiguous(chunk) is not None

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_chunk_still_does_when_one_was_replaced(self, name: str) -> None:
        made = self.Twins()
        before = arrange(made).sha256()
        kept = keep(capture(made), KeepMode.NO, None)
        setattr(made, name, nn.Parameter(torch.empty(0)))
        originals = settle(kept, made)
        chunk = self.chunk_of(originals.weights, name)
        assert originals.weights.contiguous(chunk) is not None
        assert originals.weights.sha256() == before
        assert originals.extra_bytes == 0  # Its neighbour holds that memory anyway.

    def test_chunk_is_packed_when_one_was_rewritten(self) -> None:
        made = self.Twins()
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
        made = self.Twins()
        arrange(made)
        kept = keep(capture(made), KeepMode.NO, None)
        for replaced in (name, f"{name}_twin"):
            setattr(made, replaced, nn.Parameter(torch.empty(0)))
        with pytest.raises(ManifestError, match=rf"replaced 2 tensors \({name} first\)"):
            settle(kept, made)


def test_names_choose_what_is_kept() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.DRAM, ["lar"])
    made.large = nn.Parameter(torch.empty(0))
    assert settle(kept, made).extra_bytes == LARGE
    kept = keep(capture(model()), KeepMode.DRAM, ["sma"])
    with pytest.raises(ManifestError, match="large first"):
        settle(kept, made)


def test_rewritten_tensors_are_named() -> None:
    weights = capture(model())
    promised = of_weights(weights, weights.manifest.chunks())
    assert changed(weights, promised) == []
    weights.tensors[1][3] = 0
    assert "small" in changed(weights, promised)


def test_tensor_that_lives_on_as_a_view_survived() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.NO, None)
    made.large = nn.Parameter(made.large.view(2, -1), requires_grad=False)
    assert settle(kept, made).extra_bytes == 0
