"""What a model holds besides its tensors, read into values that do not change later.

`fingerprint` walks everything reachable from a model's modules, parameters and buffers: attributes,
containers, objects such as quantisation methods and their configurations, functions with their
closures, tensors that are plain attributes. Each object becomes one `ObjectNode`, however many
others refer to it. The model's parameters, buffers and modules are leaves, by name: the manifest
covers their contents, or they are walked separately.

Contents count, never `str()` or `repr()`, which may hold addresses. No code of the objects runs.
`categories` says what is a leaf, `parts` what belongs to an object, `nodes` what is kept of it.

A walk has bounds. `Fingerprint.unseen` names whatever lies beyond a bound, where changes would not
be noticed.
"""

from __future__ import annotations

import array
import collections
import ctypes
import functools
import types
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import xxhash
from torch import nn

from netloader.model.categories import ATOMS, EXACT, category, is_machinery, is_settings
from netloader.model.nodes import (
    Fingerprint,
    Holder,
    Method,
    Name,
    ObjectNode,
    State,
    TensorState,
    View,
)
from netloader.model.own_memory import OwnMemory
from netloader.model.parts import RAW_KEYS, own_attributes, parts_of, unique_key
from netloader.weights import digests
from netloader.weights.formats import flat_bytes
from netloader.weights.manifest import Kind

MAX_DEPTH: Final = 32
"""Steps from a module. The deepest thing in vLLM's models is about 10 away."""
MAX_NODES: Final = 1_000_000
"""Each takes half a kilobyte while a model is loaded. Most models have some hundred."""
MAX_ITEMS: Final = 10_000_000
"""Items in all containers together: some models hold a tokenizer."""
MAX_TENSOR_BYTES: Final = 256 << 20
"""Bytes of tensors that are not the model's parameters or buffers. These are read in full."""

INTERNAL: Final = frozenset(vars(nn.Module())) - {"training"}
"""Attributes of every module except the training flag: parameters, buffers, submodules, hooks."""

_TREE: Final = frozenset({"_parameters", "_buffers", "_modules"})
_SMALL_BYTES: Final = 64 * 1024
"""Accelerator tensors up to this size are copied to the host and read there. This is cheaper than
the dozen kernels that a reduction starts."""

_TINY_BYTES: Final = 64
"""Host tensors up to this size are kept as bytes: each layer has some scales."""

_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})


def fingerprint(model: nn.Module) -> Fingerprint:
    """Read everything that `model` holds besides its tensors.

    Costs some microseconds for each module and parameter, and reads tensors that are plain
    attributes in full, up to `MAX_TENSOR_BYTES`.
    """
    return _Walk(model).run()


class ReachedTensor(NamedTuple):
    """A tensor of a model, by one of its names."""

    name: str
    """Where the walk met it; for a parameter or buffer its full name."""
    kind: Kind
    tensor: torch.Tensor


class Reached(NamedTuple):
    """A model's tensors, wherever it holds them, and all state besides."""

    state: Fingerprint
    """Without what tensors contain, without compiled code, and without the settings of the process,
    which workers of equal models need not share."""
    tensors: tuple[ReachedTensor, ...]
    """Parameters and buffers by each of their names, then all others in the order of the walk."""


def reach(model: nn.Module) -> Reached:
    """Everything that can be reached from `model`, tensors included. Reads no tensor."""
    walk = _Walk(model, reads=False)
    state = walk.run()
    named: list[ReachedTensor] = []
    for prefix, module in model.named_modules(remove_duplicate=False):
        tables: tuple[tuple[Kind, Mapping[str, torch.Tensor | None]], ...] = (
            ("parameter", module._parameters),
            ("buffer", module._buffers),
        )
        for kind, table in tables:
            named += [
                ReachedTensor(f"{prefix}.{key}" if prefix else key, kind, tensor)
                for key, tensor in table.items()
                if tensor is not None
            ]
    others = (ReachedTensor(path, "attribute", tensor) for path, tensor in walk.others)
    return Reached(state, (*named, *others))


class _Walk:
    """One walk over a model, breadth first, so that every object is named by its shortest path."""

    def __init__(self, model: nn.Module, *, reads: bool = True) -> None:
        """With `reads`, tensors that are no parameters or buffers are read; without, they are
        collected."""
        self._reads = reads
        self.others: list[tuple[str, torch.Tensor]] = []
        self._modules: list[tuple[str, nn.Module]] = list(model.named_modules())
        self._tensors: dict[str, torch.Tensor] = {}
        self._known: dict[int, State] = {id(module): Name(name) for name, module in self._modules}
        for prefix, module in self._modules:
            for table in (module._parameters, module._buffers):
                for key, tensor in table.items():
                    if tensor is not None and id(tensor) not in self._known:
                        name = Name(f"{prefix}.{key}" if prefix else key)
                        self._known[id(tensor)] = name
                        self._tensors[name] = tensor
        self._later: collections.deque[tuple[ObjectNode, int]] = collections.deque()
        self._nodes = 0
        self._items = 0
        self._bytes = 0
        self._unseen = ""

    def run(self) -> Fingerprint:
        holders = {name: self._holder(name, module) for name, module in self._modules}
        for name, tensor in self._tensors.items():
            holders[name] = Holder(type(tensor), self._states(vars(tensor), name, 1), {})
        while self._later and not self._unseen:
            node, depth = self._later.popleft()
            if depth > MAX_DEPTH:
                self._miss(node, f"more than {MAX_DEPTH} steps from a module")
            elif self._nodes > MAX_NODES or self._items > MAX_ITEMS:
                self._miss(node, f"beyond {MAX_NODES} objects or {MAX_ITEMS} items")
            else:
                self._fill(node, depth + 1)
        return Fingerprint(holders, self._unseen)

    def _holder(self, name: str, module: nn.Module) -> Holder:
        attributes: dict[str, State] = {}
        for key, value in vars(module).items():
            if type(value) in ATOMS:
                attributes[key] = value
            # Most attributes of a module are empty tables of hooks.
            elif key not in INTERNAL or (value and key not in _TREE):
                attributes[key] = self._state(value, name, f".{key}", 1)
        children = {
            key: known
            for key, child in module._modules.items()
            if child is not None and isinstance(known := self._known[id(child)], Name)
        }
        return Holder(type(module), attributes, children)

    def _states(
        self, values: Mapping[str, object], parent: ObjectNode | str, depth: int
    ) -> dict[str, State]:
        return {
            key: value if type(value) in ATOMS else self._state(value, parent, f".{key}", depth)
            for key, value in values.items()
        }

    def _state(self, value: object, parent: ObjectNode | str, name: str, depth: int) -> State:
        """`value` as a leaf, or as a node that is filled in later."""
        known = self._known.get(id(value))
        if known is not None:
            return known
        kind = type(value)
        if isinstance(value, types.MethodType):
            owner = self._known.get(id(value.__self__))
            if isinstance(owner, Name) and isinstance(value.__func__, types.FunctionType):
                return Method(value.__func__, owner)
        sort = category(kind)
        if sort == "leaf" or (not self._reads and (is_settings(kind) or is_machinery(kind))):
            return value
        node = ObjectNode(kind, sort, value, parent, name)
        self._nodes += 1
        self._known[id(value)] = node
        if isinstance(value, torch.Tensor):
            node.of = None
            if not self._reads:
                self.others.append((node.path, value))
            node.attributes = self._states(vars(value), node, depth)
            node.items["content"] = self._tensor(value, node)
        elif not (kind in _CONTAINERS and self._fill_flat(node)):
            self._later.append((node, depth))
        return node

    def _fill_flat(self, node: ObjectNode) -> bool:
        """Fill a small container of atoms at once. Most containers are such, or empty."""
        value = node.of
        if isinstance(value, dict):
            flat = RAW_KEYS.issuperset(map(type, value)) and ATOMS.issuperset(
                map(type, value.values())
            )
            if flat:
                node.items = value.copy()
        elif isinstance(value, (list, tuple)):
            flat = ATOMS.issuperset(map(type, value))
            if flat:
                node.items = dict(enumerate(value))
        else:
            flat = isinstance(value, (set, frozenset)) and not value
        self._items += len(node.items)
        return flat and self._items <= MAX_ITEMS

    def _fill(self, node: ObjectNode, depth: int) -> None:
        value = node.of
        attributes = own_attributes(value)
        # Uses the base class's methods: a subclass may override them.
        match value:
            case dict() | types.MappingProxyType():
                pairs: list[tuple[object, object]] = list(
                    collections.OrderedDict.items(value)
                    if isinstance(value, collections.OrderedDict)
                    else dict.items(value)
                    if isinstance(value, dict)
                    else value.items()
                )
                if isinstance(value, collections.defaultdict):
                    attributes["default_factory"] = value.default_factory
                keys = [unique_key(key) for key, _ in pairs]
                self._fill_items(node, keys, [held for _, held in pairs], depth)
            case list() | tuple():
                items = list(
                    list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value)
                )
                self._fill_items(node, range(len(items)), items, depth)
            case collections.deque():
                items = list(collections.deque.__iter__(value))
                attributes["maxlen"] = value.maxlen
                self._fill_items(node, range(len(items)), items, depth)
            case set() | frozenset():
                items = list(
                    set.__iter__(value) if isinstance(value, set) else frozenset.__iter__(value)
                )
                self._fill_items(node, [unique_key(item) for item in items], items, depth)
            case np.ndarray():
                self._fill_array(node, value, depth)
            case bytearray() | array.array():
                node.items["value"] = bytes(value)
            case types.MethodType():
                whole = (value.__func__, value.__self__)
                self._fill_items(node, ("__func__", "__self__"), whole, depth)
            case types.FunctionType():
                parts = parts_of(value)
                self._fill_items(node, list(parts), list(parts.values()), depth)
            case _:
                for base, exact in EXACT.items():
                    if isinstance(value, base):
                        node.items["value"] = exact(value)
        node.attributes = self._states(attributes, node, depth)

    def _fill_items(
        self, node: ObjectNode, keys: Sequence[Hashable], values: Sequence[object], depth: int
    ) -> None:
        self._items += len(values)
        if self._items > MAX_ITEMS:
            self._miss(node, f"beyond {MAX_ITEMS} items")
        elif ATOMS.issuperset(map(type, values)):
            node.items = dict(zip(keys, values, strict=True))
        else:
            node.items = {
                key: self._state(value, node, f"[{_said(key)}]", depth)
                for key, value in zip(keys, values, strict=True)
            }

    def _fill_array(self, node: ObjectNode, array: np.ndarray[Any, Any], depth: int) -> None:
        content = b""
        if array.dtype.hasobject:
            items = array.ravel().tolist()
            self._fill_items(node, range(len(items)), items, depth)
        elif self._may_read(array.nbytes, node):
            content = xxhash.xxh3_128_digest(np.ascontiguousarray(array).tobytes())
        node.items["content"] = TensorState(
            array.dtype.str, array.shape, array.strides, None, False, content
        )

    def _tensor(self, tensor: torch.Tensor, node: ObjectNode) -> TensorState:
        try:
            stride = tensor.stride()
            content = self._content(tensor, node)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            # Sparse, nested, quantised, wrapped: torch reports missing memory in many ways.
            stride, content = (), b""
            self._miss(node, f"a {type(tensor).__name__} whose bytes cannot be read")
        return TensorState(
            tensor.dtype,
            tensor.shape,
            stride,
            tensor.device,
            tensor.requires_grad,
            content,
        )

    def _content(self, tensor: torch.Tensor, node: ObjectNode) -> bytes | View:
        if not self._reads or tensor.is_meta or tensor.numel() == 0:
            return b""
        view = self._own_memory.find(tensor)
        if view is not None:
            return view
        nbytes = tensor.nbytes
        if not self._may_read(nbytes, node):
            return b""
        if nbytes <= _TINY_BYTES and tensor.is_cpu and tensor.is_contiguous():
            return ctypes.string_at(tensor.data_ptr(), nbytes)
        data = tensor.detach().contiguous()
        if data.device.type != "cpu" and nbytes <= _SMALL_BYTES:
            data = data.cpu()
        return digests.of_bytes(flat_bytes(data))

    @functools.cached_property
    def _own_memory(self) -> OwnMemory:
        return OwnMemory.of(self._tensors)

    def _may_read(self, nbytes: int, node: ObjectNode) -> bool:
        self._bytes += nbytes
        if self._bytes > MAX_TENSOR_BYTES:
            self._miss(node, f"beyond {MAX_TENSOR_BYTES} bytes of tensors")
        return self._bytes <= MAX_TENSOR_BYTES

    def _miss(self, node: ObjectNode, why: str) -> None:
        self._unseen = self._unseen or f"{node.path}: {why}"


def _said(key: Hashable) -> str:
    if isinstance(key, tuple) and len(key) == 2:
        key = key[1]
    return f"{key!r:.40}" if type(key) in ATOMS else type(key).__name__
