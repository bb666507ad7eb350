from __future__ import annotations

import pytest
import torch
from torch import nn

from netloader.config import KeepMode
from netloader.digests import of_weights
from netloader.errors import ManifestError
from netloader.originals import changed, keep, settle
from netloader.weights import capture

LARGE = 1 << 20
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
    assert originals.extra_bytes == LARGE + 8  # The small one is a copy.


def test_small_tensor_rewritten_in_place_is_served_as_it_was() -> None:
    made = model()
    before = capture(made).sha256()
    kept = keep(capture(made), KeepMode.DRAM, None)
    with torch.no_grad():
        made.small.mul_(2)
    assert settle(kept, made).weights.sha256() == before


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
