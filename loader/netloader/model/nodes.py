"""What a fingerprint is made of: values that do not change when the model does.

Each object that can change becomes one `ObjectNode`, however many others refer to it. Immutable
values stay themselves, as leaves.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from netloader.model.categories import ATOMS, BY_VALUE, Category


class Name(str):
    """A module, parameter or buffer of the model, by the first of its names."""

    __slots__ = ()


class Method(NamedTuple):
    """A bound method of a module of the model."""

    function: Callable[..., object]
    owner: Name


class View(NamedTuple):
    """A tensor that shares memory with one of the model's own."""

    of: Name
    offset: int
    """In bytes, from the start of the model's tensor."""


class TensorState(NamedTuple):
    """A tensor or array that is not a parameter or buffer of the model."""

    dtype: torch.dtype | str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device | None
    requires_grad: bool
    content: bytes | View
    """A digest of the elements, or their bytes if few; empty if there are none (`meta`)."""


State: TypeAlias = object
"""An `ObjectNode`, or a leaf."""


@dataclass(slots=True, eq=False)
class ObjectNode:
    """One object that can be changed, or that holds such objects, as it was."""

    type: type
    category: Category
    of: object
    """The object itself, so that nothing else gets its address. None for a tensor, whose memory
    must not outlive it."""
    parent: ObjectNode | str
    name: str
    """Its name in the parent: `.attribute`, `[3]`."""
    attributes: dict[str, State] = field(default_factory=dict)
    """Its `__dict__` and slots."""
    items: dict[Hashable, State] = field(default_factory=dict)
    """By position, or by key or element (`unique_key`), or parts of a function or tensor."""

    @property
    def path(self) -> str:
        """Where the walk first met the object."""
        names = [self.name]
        above: ObjectNode | str = self.parent
        while isinstance(above, ObjectNode):
            names.append(above.name)
            above = above.parent
        return (above + "".join(reversed(names))).removeprefix(".")


class Holder(NamedTuple):
    """What a module, parameter or buffer holds besides tensors and submodules."""

    type: type
    attributes: dict[str, State]
    children: dict[str, Name]
    """Submodules of a module: local name to first name in the model."""


@dataclass(frozen=True)
class Fingerprint:
    """A model's state besides its tensors at one moment."""

    holders: Mapping[str, Holder]
    """Modules, and parameters and buffers by their full names."""
    unseen: str
    """The parts that were not read, and why; empty if everything was read."""


def alike(one: State, other: State) -> bool:
    """Whether two leaves are the same: equal types, and equal values if immutable."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if type(one) in ATOMS or isinstance(one, (Name, Method, TensorState)):
        return bool(one == other)
    if isinstance(one, np.generic) and isinstance(other, np.generic):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return isinstance(one, (*BY_VALUE, types.CodeType)) and bool(one == other)
