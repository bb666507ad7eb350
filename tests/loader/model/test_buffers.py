"""Buffers that a model computes for itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netloader.errors import ManifestError
from netloader.model import buffers
from netloader.weights.capture import capture


class Rotary(nn.Module):
    """A table that is computed, one that a checkpoint holds, and one that it may hold."""

    def __init__(self, base: float = 10_000.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.register_buffer("table", torch.arange(8.0) / base, persistent=False)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("scale", torch.full((2, 3), base).t())


class Model(nn.Module):
    def __init__(self, base: float = 10_000.0) -> None:
        super().__init__()
        self.first = Rotary(base)
        self.second = Rotary(base)
        # Shared between layers, as vLLM's rotary tables are.
        self.second.table = self.first.table


def test_buffers_that_are_not_persistent_do_not_travel() -> None:
    names = {tensor.name for tensor in capture(Model()).manifest.tensors}
    assert names == {f"{a}.{b}" for a in ("first", "second") for b in ("weight", "mean", "scale")}


def test_persistent_buffers_that_load_weights_left_alone_are_told() -> None:
    model = Model()
    before = buffers.snapshot(model)
    model.first.mean.fill_(1)
    model.second.weight.data.fill_(1)
    left = buffers.computed(model, before, buffers.snapshot(model))
    assert left.keys() == {"first.scale", "second.mean", "second.scale"}
    assert left == {name: before[name] for name in left}


def test_buffer_that_does_not_travel_must_not_be_written_to() -> None:
    model = Model()
    before = buffers.snapshot(model)
    model.first.table[3] += 1
    with pytest.raises(ManifestError, match=r"load_weights wrote to first\.table"):
        buffers.computed(model, before, buffers.snapshot(model))


def test_what_is_computed_must_be_equal_on_both_sides() -> None:
    source = Model()
    before = buffers.snapshot(source)
    theirs = buffers.computed(source, before, buffers.snapshot(source))
    buffers.check_equal(buffers.snapshot(Model()), theirs)
    with pytest.raises(ManifestError, match=r"computed first\.scale to something else"):
        buffers.check_equal(buffers.snapshot(Model(base=500_000.0)), theirs)
    with pytest.raises(ManifestError, match="computed unheard-of"):
        buffers.check_equal(buffers.snapshot(Model()), {"unheard-of": "0" * 32})


def test_layout_in_memory_does_not_matter_and_contents_do() -> None:
    one, other = Model(), Model()
    other.first.scale = other.first.scale.contiguous()
    assert buffers.snapshot(one)["second.scale"] == buffers.snapshot(other)["second.scale"]
    other.second.scale[1, 1] += 1
    assert buffers.snapshot(one)["second.scale"] != buffers.snapshot(other)["second.scale"]


def test_buffers_without_memory_are_passed_over() -> None:
    model = nn.Module()
    model.register_buffer("meta", torch.empty(3, device="meta"))
    model.register_buffer("none", None)
    model.register_buffer("empty", torch.empty(0))
    model.register_buffer("strided", torch.arange(12.0).view(3, 4)[:, ::2])
    assert buffers.snapshot(model).keys() == {"empty", "strided"}
