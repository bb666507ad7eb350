"""What a model holds besides its tensors, read into values that do not change later.

`fingerprint` walks everything reachable from a model's modules, parameters and buffers: attributes,
containers, objects such as quantisation methods and their configurations, functions with their
closures, tensors that are plain attributes. Each object becomes one `ObjectNode`, however many
others refer to it. Immutable values stay themselves, as leaves. The model's parameters, buffers and
modules are leaves too, by name: the manifest covers their contents, or they are walked separately.

Contents count, never `str()` or `repr()`, which may hold addresses. No code of the objects runs: no
property, no `__eq__`, no `__iter__`. Classes, modules, locks, sockets, loggers, process groups and
anything else with state outside Python are leaves that equal only themselves. So are objects that
belong to this process, not to the model (`_MACHINERY`).

A walk has bounds. `Fingerprint.unseen` names whatever lies beyond a bound, where changes would not
be noticed.
"""

from __future__ import annotations

import array
import collections
import ctypes
import enum
import functools
import pathlib
import re
import types
from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import xxhash
from torch import nn

from netloader.plain import SCALARS
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
_ATOMS: Final = SCALARS | {bytes, complex}
_SMALL_BYTES: Final = 64 * 1024
"""Accelerator tensors up to this size are copied to the host and read there. This is cheaper than
the dozen kernels that a reduction starts."""

_TINY_BYTES: Final = 64
"""Host tensors up to this size are kept as bytes: each layer has some scales."""

_BY_VALUE: Final = (
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
_TABLES: Final = {
    "CompilationConfig": ("static_forward_context", "static_all_moe_layers"),
}
"""Attributes that list the layers of all models in the process. Layers are walked as part of their
own model; otherwise a draft's walk would read its target's experts."""


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

Category = Literal["object", "sequence", "mapping", "set", "function", "method", "tensor", "leaf"]


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
    """By position, key or element, made unique by `_key`; or parts of a function or tensor."""

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
            if type(value) in _ATOMS:
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
            key: value if type(value) in _ATOMS else self._state(value, parent, f".{key}", depth)
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
        sort = _CATEGORIES.get(kind) or category(kind)
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
            flat = _RAW_KEYS.issuperset(map(type, value)) and _ATOMS.issuperset(
                map(type, value.values())
            )
            if flat:
                node.items = value.copy()
        elif isinstance(value, (list, tuple)):
            flat = _ATOMS.issuperset(map(type, value))
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
                keys = [_key(key) for key, _ in pairs]
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
                self._fill_items(node, [_key(item) for item in items], items, depth)
            case np.ndarray():
                self._fill_array(node, value, depth)
            case bytearray() | array.array():
                node.items["value"] = bytes(value)
            case types.MethodType():
                whole = (value.__func__, value.__self__)
                self._fill_items(node, ("__func__", "__self__"), whole, depth)
            case types.FunctionType():
                parts = _parts(value)
                self._fill_items(node, list(parts), list(parts.values()), depth)
            case _:
                for base, exact in _EXACT.items():
                    if isinstance(value, base):
                        node.items["value"] = exact(value)
        node.attributes = self._states(attributes, node, depth)

    def _fill_items(
        self, node: ObjectNode, keys: Sequence[Hashable], values: Sequence[object], depth: int
    ) -> None:
        self._items += len(values)
        if self._items > MAX_ITEMS:
            self._miss(node, f"beyond {MAX_ITEMS} items")
        elif _ATOMS.issuperset(map(type, values)):
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
    def _own_memory(self) -> _Memory:
        return _Memory.of(self._tensors)

    def _may_read(self, nbytes: int, node: ObjectNode) -> bool:
        self._bytes += nbytes
        if self._bytes > MAX_TENSOR_BYTES:
            self._miss(node, f"beyond {MAX_TENSOR_BYTES} bytes of tensors")
        return self._bytes <= MAX_TENSOR_BYTES

    def _miss(self, node: ObjectNode, why: str) -> None:
        self._unseen = self._unseen or f"{node.path}: {why}"


@dataclass(frozen=True)
class _Memory:
    """Where a model's tensors lie."""

    starts: list[int]
    ends: list[int]
    names: list[Name]

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> _Memory:
        spans: dict[int, tuple[int, Name]] = {}
        for name, tensor in tensors.items():
            try:
                start, end = _span(tensor)
            except (NotImplementedError, RuntimeError):
                continue  # No memory of its own, as with wrappers: the manifest says so.
            if start < end:
                spans.setdefault(start, (end, Name(name)))
        starts = sorted(spans)
        return cls(starts, [spans[at][0] for at in starts], [spans[at][1] for at in starts])

    def find(self, tensor: torch.Tensor) -> View | None:
        """The tensor of the model that `tensor` is a part of."""
        start, end = _span(tensor)
        at = bisect_right(self.starts, start) - 1
        if at < 0 or end > self.ends[at]:
            return None
        return View(self.names[at], start - self.starts[at])


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses from the first element to the end of the last one."""
    start = tensor.data_ptr()
    if not start and tensor.numel():
        raise RuntimeError("no memory of its own")
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in sizes)
    return start, start + (last + 1) * tensor.element_size() if tensor.numel() else start


_EXACT: Final[Mapping[type, Callable[[Any], object]]] = {
    bytes: bytes.__bytes__,
    complex: complex.__complex__,
    float: float.__float__,
    int: int.__int__,
    str: str.__str__,
}
"""Reads the exact value of an object whose class derives from one of these."""


_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})
_RAW_KEYS: Final = frozenset({str, int})
"""Keys of these types equal no key of another type but floats and bools, which `_key` marks."""

_SLOTS: Final[dict[type, dict[str, types.MemberDescriptorType]]] = {}
_CATEGORIES: Final[dict[type, Category]] = {}
"""By class, each determined once."""


def own_attributes(value: object) -> dict[str, object]:
    """An object's `__dict__` and slot values, read without running code of its class."""
    kind: type = type(value)
    try:
        found: dict[str, object] = object.__getattribute__(value, "__dict__").copy()
    except AttributeError:
        found = {}
    slots = _SLOTS.get(kind)
    for name, slot in (_slots(kind) if slots is None else slots).items():
        try:
            found[name] = slot.__get__(value)
        except AttributeError:
            continue  # Declared but not set.
    if kind.__name__ in _TABLES and kind.__module__ == "vllm.config.compilation":
        for name in _TABLES[kind.__name__]:
            found.pop(name, None)
    return found


def alike(one: State, other: State) -> bool:
    """Whether two leaves are the same: equal types, and equal values if immutable."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if type(one) in _ATOMS or isinstance(one, (Name, Method, TensorState)):
        return bool(one == other)
    if isinstance(one, np.generic) and isinstance(other, np.generic):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return isinstance(one, (*_BY_VALUE, types.CodeType)) and bool(one == other)


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


def _slots(kind: type) -> dict[str, types.MemberDescriptorType]:
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


def category(kind: type) -> Category:
    known = _CATEGORIES.get(kind)
    if known is None:
        known = _CATEGORIES[kind] = _judge(kind)
    return known


def _judge(kind: type) -> Category:
    if issubclass(kind, (*_BY_VALUE, *_BY_IDENTITY)) or kind in _ATOMS:
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
    if issubclass(kind, (array.array, bytearray, *_EXACT)):
        return "object"
    return "object" if kind.__dictoffset__ or _slots(kind) else "leaf"


def _parts(function: types.FunctionType) -> dict[Hashable, object]:
    """The parts of a function, without the globals of its module."""
    parts: dict[Hashable, object] = {"__code__": function.__code__}
    for at, value in enumerate(function.__defaults__ or ()):
        parts[f"default {at}"] = value
    for key, value in (function.__kwdefaults__ or {}).items():
        parts[f"default {key}"] = value
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            parts[f"closure {key}"] = cell.cell_contents
        except ValueError:
            continue  # Not yet set.
    return parts


def _key(value: object) -> Hashable:
    """A key or element, marked so that equal ones of different types stay distinct."""
    kind = type(value)
    if kind in _RAW_KEYS:
        return value
    if kind is float:
        return kind, repr(value)
    if kind in _ATOMS:
        return kind, value
    if isinstance(value, (tuple, frozenset)) and kind in (tuple, frozenset):
        return kind, kind(map(_key, value))
    if isinstance(value, enum.Enum):
        return kind, value.name
    if isinstance(value, _BY_VALUE):
        return kind, value
    return kind, "object", id(value)


def _said(key: Hashable) -> str:
    if isinstance(key, tuple) and len(key) == 2:
        key = key[1]
    return f"{key!r:.40}" if type(key) in _ATOMS else type(key).__name__
