"""Which memory the tensors of a model use, registered or not."""

from __future__ import annotations

import functools
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import CellType, FunctionType, MethodType, ModuleType

import torch
from torch import nn

_DEPTH = 4
"""Steps from a module within which tensors other than parameters and buffers are searched for:
attribute, kernel object, its container, element."""

_OURS = __name__.partition(".")[0]

_LEAVES = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes),
        *(torch.dtype, torch.device, torch.Size),
        *weakref.ProxyTypes,
    )
)
"""Types of values that keep no tensor alive: checking these first saves most of the time."""


class Uses:
    """Which memory a model's tensors use: byte by byte, and storage by storage."""

    def __init__(self, spans: Mapping[str, list[tuple[int, int]]], storages: set[tuple[str, int]]):
        self._storages = storages
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        for device, found in spans.items():
            starts = self._starts.setdefault(device, [])
            ends = self._ends.setdefault(device, [])
            for start, end in sorted(found):
                if ends and start <= ends[-1]:
                    ends[-1] = max(ends[-1], end)
                else:
                    starts.append(start)
                    ends.append(end)

    @classmethod
    def by(cls, tensors: Iterable[torch.Tensor]) -> Uses:
        spans: dict[str, list[tuple[int, int]]] = {}
        storages: set[tuple[str, int]] = set()
        for tensor in tensors:
            if tensor.layout is not torch.strided or tensor.is_meta or tensor.numel() == 0:
                continue
            try:
                start, key = tensor.data_ptr(), storage_key(tensor)
                last = sum(
                    (size - 1) * stride
                    for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
                )
            except (RuntimeError, NotImplementedError):
                # A wrapper without its own memory: the tensors inside it are found as well.
                continue
            end = start + (last + 1) * tensor.element_size()
            spans.setdefault(str(tensor.device), []).append((start, end))
            storages.add(key)
        return cls(spans, storages)

    def touch(self, data: torch.Tensor) -> bool:
        """Whether the model uses any byte of a flat uint8 tensor.

        One byte is enough: without `coalesce`, the tensor had its own storage, which that use keeps
        alive.
        """
        ends = self._ends.get(str(data.device), [])
        at = bisect_right(ends, data.data_ptr())
        return (
            at < len(ends) and self._starts[str(data.device)][at] < data.data_ptr() + data.numel()
        )

    def hold(self, data: torch.Tensor) -> bool:
        """Whether the model keeps the storage of a tensor alive."""
        return storage_key(data) in self._storages


def storage_key(tensor: torch.Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def reachable(model: nn.Module) -> Iterator[torch.Tensor]:
    """Every tensor that a module of `model` holds, registered or not.

    Kernels and quantisation methods keep tensors in attributes, containers and closures. These
    tensors use memory as parameters do. The search ends `_DEPTH` steps from a module.
    """
    seen: set[int] = set()
    queue: deque[tuple[object, int]] = deque((module, 0) for module in model.modules())
    while queue:
        value, depth = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            yield value
        if isinstance(value, nn.Module):
            depth = 0
        if depth < _DEPTH:
            queue.extend(
                (inner, depth + 1) for inner in _inside(value) if type(inner) not in _LEAVES
            )


def _inside(value: object) -> list[object]:
    """The objects that an object refers to, if they may lead to tensors of the model."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__]
    home = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
    # Tensors held by netloader are being counted here: they are not a use by the model.
    if isinstance(value, (type, ModuleType)) or str(home).partition(".")[0] == _OURS:
        return []
    if isinstance(value, FunctionType):
        return [content for cell in value.__closure__ or () for content in _content(cell)]
    attributes = getattr(value, "__dict__", None)
    return list(attributes.values()) if isinstance(attributes, dict) else []


def _content(cell: CellType) -> list[object]:
    try:
        return [cell.cell_contents]
    except ValueError:  # The variable has no value yet.
        return []
