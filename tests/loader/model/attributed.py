"""A model with attributes of every kind."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
from typing import Any

import numpy as np
import torch
from torch import nn


class Method:
    """Stands for a quantisation method: an object that hangs off a module."""

    def __init__(self) -> None:
        self.loaded: object = set()
        self.kernel = Kernel()
        self.named = {"kernel": self.kernel}


class Kernel:
    __slots__ = ("bits", "later")

    def __init__(self) -> None:
        self.bits: object = 4


class Mode(enum.Enum):
    ONE = 1
    TWO = 2


@dataclasses.dataclass(frozen=True)
class Shape:
    rows: object = 2


class Inner(nn.Linear):
    fresh: object
    table: object

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.method = Method()
        self.names: object = {"w1"}
        for parameter in self.parameters():
            parameter.loader = self.load  # type: ignore[attr-defined]
            parameter.dimension = 0  # type: ignore[attr-defined]

    def load(self) -> None: ...


class Model(nn.Module):
    todo: object
    text: object
    known_to_all: object = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.scale: object = 1.0
        self.empty: object = []
        self.order: Any = ["a", ["b"]]
        self.alias = self.order[1]
        self.counts: Any = collections.Counter("abc")
        self.ready: Any = collections.deque([1, 2])
        self.groups: Any = collections.defaultdict(list, {"a": [1]})
        self.sorted: Any = collections.OrderedDict(a=1, b=2)
        self.mode: object = Mode.ONE
        self.shape: Any = Shape()
        self.tensor = torch.zeros(3)
        self.array = np.zeros(3)
        self.dtype: object = torch.float32
        self.call: object = functools.partial(print, 1, end="")
        kept = {"seen": 0}
        self.hook: Any = lambda: kept
        self.hidden = [nn.Linear(2, 2)]
        self.raw = bytearray(b"ab")
        self.me = [self]
        self.limits: Any = (1, 2)
        self.extra: object = b"x"

    @property
    def computed(self) -> int:
        raise AssertionError("no code of the model runs")

    @functools.cached_property
    def lazy(self) -> object:
        return object()


def model() -> Model:
    torch.manual_seed(0)
    return Model()
