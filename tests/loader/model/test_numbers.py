from __future__ import annotations

import math

import torch
from torch import nn

from netloader.model import numbers
from netloader.model.fingerprint import reach


class Scheme:
    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.bits = 4
        self.table = [scale]


class Layer(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.weight.factor = scale  # type: ignore[attr-defined]
        self.scheme = Scheme(scale)
        self.again = self.scheme
        self.flag = True


def test_floats_are_found_by_the_attributes_that_lead_to_them() -> None:
    model = nn.Sequential(Layer(0.5))
    assert numbers.numbers(reach(model).state) == {
        "0.weight.factor": 0.5,
        "0.scheme.scale": 0.5,
    }


def test_what_changed_is_new_or_spelled_otherwise() -> None:
    before = {"same": 1.0, "zero": 0.0, "nan": math.nan, "gone": 2.0}
    after = {"same": 1.0, "zero": -0.0, "nan": math.nan, "new": 3.0}
    assert numbers.changed(before, after) == {"zero": -0.0, "new": 3.0}


def test_a_replica_sets_back_what_its_dummies_changed() -> None:
    assert numbers.restored({"a": 1.0, "b": 2.0}, {"a": 5.0, "b": 2.0, "new": 3.0}) == {"a": 1.0}
