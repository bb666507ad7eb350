from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.loader.weights.retained_models import LARGE, Mlp, model, pack_linear
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from netloader.errors import ManifestError
from netloader.terms import KeepMode
from netloader.weights.capture import capture
from netloader.weights.coalesce import arrange
from netloader.weights.digests import of_weights
from netloader.weights.retain import changed, keep, settle


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


@pytest.mark.parametrize("rewrite", ["replaced", "in place", "not at all"])
def test_small_tensor_is_kept_in_any_mode_where_the_plan_says_so(rewrite: str) -> None:
    made = model()
    before = capture(made).sha256()
    kept = keep(capture(made), KeepMode.NO, None, frozenset({"small"}))
    if rewrite == "replaced":
        made.small = nn.Parameter(torch.empty(0))
    elif rewrite == "in place":
        made.small.data.mul_(3)
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == (0 if rewrite == "not at all" else 8)


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
    loaded = made.small.data_ptr()
    kept = keep(capture(made), KeepMode.DRAM, None)
    made.small = nn.Parameter(torch.empty(0))
    originals = settle(kept, made)
    assert originals.extra_bytes == 8
    assert originals.weights.tensors[1].data_ptr() == loaded


def test_originals_know_where_the_model_was() -> None:
    made = model()
    before = dataclasses.replace(capture(made), device_type="accelerator")
    assert settle(keep(before, KeepMode.DRAM, None), made).weights.device_type == "accelerator"


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


@pytest.mark.parametrize(("width", "layers"), [(16, 2), (512, 3), (2304, 2)])
class TestPackedWeights:
    """Tiny weights in one chunk with norms; medium ones with the embedding; large ones alone."""

    def test_all_are_served_and_their_cost_is_told(self, width: int, layers: int) -> None:
        made = Mlp(width, layers)
        before = arrange(made).sha256()
        kept = keep(capture(made), KeepMode.DRAM, None)
        pack_linear(made)
        originals = settle(kept, made)
        assert originals.weights.sha256() == before
        assert originals.cost_bytes == pytest.approx(layers * width * width * 4, rel=0.01)

    def test_one_that_keeps_nothing_is_no_source(self, width: int, layers: int) -> None:
        made = Mlp(width, layers)
        kept = keep(capture(made), KeepMode.NO, None)
        pack_linear(made)
        reason = rf"replaced {layers} tensors \(layers.0.weight first\)"
        with pytest.raises(ManifestError, match=reason):
            settle(kept, made)

    def test_one_that_keeps_nothing_holds_nothing(self, width: int, layers: int) -> None:
        made = Mlp(width, layers)
        weights = (made.get_parameter(f"layers.{n}.weight") for n in range(layers))
        storages = [StorageWeakRef(weight.untyped_storage()) for weight in weights]  # type: ignore[no-untyped-call]
        kept = keep(capture(made), KeepMode.NO, None)
        pack_linear(made)
        # During post-processing already: a server that just fits must not need twice its weights.
        assert all(storage.expired() for storage in storages)
        assert len(kept.held) == len(kept.manifest.tensors)


@pytest.mark.parametrize("mode", KeepMode)
@pytest.mark.parametrize("nbytes", [16, LARGE, 4 * LARGE])
def test_buffer_is_never_served_from_where_the_model_writes(mode: KeepMode, nbytes: int) -> None:
    made = model()
    made.register_buffer("state", torch.ones(nbytes, dtype=torch.uint8))
    weights = capture(made)
    before = weights.sha256()
    promised = of_weights(weights, weights.manifest.chunks())
    originals = settle(keep(weights, mode, None), made)
    made.state.fill_(2)  # type: ignore[operator]
    assert originals.weights.sha256() == before
    assert changed(originals.weights, promised) == []
    assert originals.cost_bytes == nbytes
