from __future__ import annotations

import enum
import functools
import random
import re

import pytest
import torch
from torch import nn

from netloader.model import spelling
from netloader.model.fingerprint import reach


class Mode(enum.Enum):
    ONE = 1
    TWO = 2


class Scheme:
    def __init__(self) -> None:
        self.mode: object = Mode.ONE
        self.names: object = {"a", "b", "c"}
        self.pattern: object = re.compile("x")
        self.work: object = [1]

    @functools.cached_property
    def slow(self) -> int:
        return 5


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scheme = Scheme()
        self.other = self.scheme
        self.device: object = torch.device("cuda:1")


def digests(model: nn.Module) -> dict[str, str]:
    return spelling.spell(reach(model).state).digests()


def test_two_builds_of_one_model_are_spelled_alike() -> None:
    one, two = nn.Sequential(Layer(), Layer()), nn.Sequential(Layer(), Layer())
    names = list("abc")
    random.Random(3).shuffle(names)
    two[0].scheme.names = set(names)
    # Which device of its host a worker has, and what was already computed, tells nothing.
    two[0].device = torch.device("cuda:0")
    assert two[0].scheme.slow == 5
    two[1].leftover = []
    assert digests(one) == digests(two)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", Mode.TWO),
        ("names", {"a", "b"}),
        ("names", ["a", "b", "c"]),
        ("pattern", re.compile("y")),
        ("work", [1.0]),
        ("work", (1,)),
        ("work", [True]),
    ],
)
def test_what_differs_is_named_by_its_module(name: str, value: object) -> None:
    one, two = nn.Sequential(Layer(), Layer()), nn.Sequential(Layer(), Layer())
    setattr(two[1].scheme, name, value)
    assert spelling.difference(digests(one), digests(two)) == "1"


def test_sharing_counts() -> None:
    one, two = Layer(), Layer()
    two.other = Scheme()
    assert digests(one) != digests(two)


def test_there_are_as_many_digests_as_may_travel() -> None:
    many = nn.ModuleList(
        nn.ModuleList(nn.Identity() for _ in range(spelling.MAX_GROUPS // 8)) for _ in range(9)
    )
    before = digests(many)
    assert len(before) <= spelling.MAX_GROUPS
    many[7][5].note = "other"  # type: ignore[index,union-attr,assignment]
    assert spelling.difference(before, digests(many)) == "7"
