"""Which sort of thing an object is to a fingerprint: a leaf, a container, something with parts.

A class is sorted once. Immutable values are leaves that are compared by value. Classes, modules,
locks, sockets, loggers, process groups and anything else with state outside Python are leaves that
equal only themselves. So are objects that belong to this process, not to the model (`_MACHINERY`).
"""

from __future__ import annotations

import array
import collections
import enum
import functools
import pathlib
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
import torch

from netloader.plain import SCALARS

Category = Literal["object", "sequence", "mapping", "set", "function", "method", "tensor", "leaf"]

ATOMS: Final = SCALARS | {bytes, complex}
"""Types of the simplest leaves. A value of a derived class is none."""

BY_VALUE: Final = (
    enum.Enum,
    pathlib.PurePath,
    range,
    re.Pattern,
    np.generic,
    torch.Size,
    torch.device,
    torch.dtype,
    torch.layout,
    torch.memory_format,
)
"""Immutable, compared by value."""
_BY_IDENTITY: Final = (
    type,
    types.BuiltinFunctionType,
    types.CodeType,
    types.ModuleType,
    torch.Generator,
    torch._C.ScriptFunction,
)
_MACHINERY: Final = (
    "_thread",
    "asyncio",
    "concurrent",
    "contextvars",
    "logging",
    "multiprocessing",
    "queue",
    "socket",
    "threading",
    "torch.distributed",
    "torch.futures",
    "vllm.distributed",
    "weakref",
    "zmq",
)
"""Modules whose objects belong to the process and change over time, not by `load_weights`."""
_SETTINGS: Final = (
    "transformers",
    "transformers_modules",
    "vllm.config",
    "vllm.transformers_utils",
)
"""Modules whose classes hold settings of the process. No source may change these settings: one of
their flags may allow a checkpoint's code to run."""
_COMPILERS: Final = (
    "torch._dynamo",
    "torch._functorch",
    "torch._guards",
    "torch._inductor",
    "torch.compiler",
    "torch.fx",
    "triton",
    "vllm.compilation",
)
"""Modules whose objects compile code. They hold no weights before a model has run."""

EXACT: Final[Mapping[type, Callable[[Any], object]]] = {
    bytes: bytes.__bytes__,
    complex: complex.__complex__,
    float: float.__float__,
    int: int.__int__,
    str: str.__str__,
}
"""Reads the exact value of an object whose class derives from one of these."""

_SLOTS: Final[dict[type, dict[str, types.MemberDescriptorType]]] = {}
_CATEGORIES: Final[dict[type, Category]] = {}
"""By class, each determined once."""


def category(kind: type) -> Category:
    known = _CATEGORIES.get(kind)
    if known is None:
        known = _CATEGORIES[kind] = _judge(kind)
    return known


def _judge(kind: type) -> Category:
    if issubclass(kind, (*BY_VALUE, *_BY_IDENTITY)) or kind in ATOMS:
        return "leaf"
    if issubclass(kind, torch.Tensor):
        return "tensor"
    if issubclass(kind, (dict, types.MappingProxyType)):
        return "mapping"
    if issubclass(kind, (list, tuple, collections.deque)):
        return "sequence"
    if issubclass(kind, (set, frozenset)):
        return "set"
    if issubclass(kind, types.FunctionType):
        return "function"
    if issubclass(kind, types.MethodType):
        return "method"
    if _is_of(kind, _MACHINERY):
        return "leaf"
    if issubclass(kind, (functools.partial, np.ndarray)):
        return "function"
    if issubclass(kind, (array.array, bytearray, *EXACT)):
        return "object"
    return "object" if kind.__dictoffset__ or slots(kind) else "leaf"


def is_settings(kind: type) -> bool:
    """Whether objects of this class hold settings of the process."""
    return _is_of(kind, _SETTINGS)


def is_machinery(kind: type) -> bool:
    """Whether objects of this class belong to the process, or to a compiler, not to the model."""
    return _is_of(kind, _MACHINERY) or _is_of(kind, _COMPILERS)


def _is_of(kind: type, modules: tuple[str, ...]) -> bool:
    return _lies_in(kind.__module__, modules)


@functools.cache
def _lies_in(module: str, modules: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in modules)


def slots(kind: type) -> dict[str, types.MemberDescriptorType]:
    """The slots of a class and its bases by name, without those of Python's own classes."""
    known = _SLOTS.get(kind)
    if known is None:
        known = _SLOTS[kind] = {
            name: slot
            for base in reversed(kind.__mro__)
            if base.__module__ != "builtins"
            for name, slot in vars(base).items()
            if isinstance(slot, types.MemberDescriptorType)
        }
    return known
