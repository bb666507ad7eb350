"""Keeps what a source needs to serve its weights after vLLM has post-processed them.

A peer needs the bytes as `load_weights` left them. On CUDA most tensors survive post-processing in
place. On Ascend linear weights may change their format and the order of their dimensions, from
which the bytes are read back (`formats.py`). On CPUs with AVX-512 vLLM packs every linear weight
and drops the original. So there are three steps:

    plan      before the model is laid out: what shall be kept, and does it fit into memory?
    keep      before post-processing: hold what would be lost, and nothing else
    settle    after post-processing: what survived, can all be served, and what does that cost?

A tensor survives if a tensor of the model still uses its *own* bytes. A living storage proves
nothing: `coalesce` lets the tensors of a chunk share one. That a tensor of the same name, type and
shape took its place proves nothing either: vLLM may have quantised or permuted the values. So all
that `settle` returns has to be compared with the digests of the weights as loaded (`changed`).
"""

from __future__ import annotations

import functools
import threading
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType, ModuleType
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from netloader.errors import ManifestError
from netloader.system.memory import Available, text
from netloader.terms import KeepMode
from netloader.weights.capture import DigestKind, Weights
from netloader.weights.digests import of_bytes, of_weights
from netloader.weights.formats import Recast, blocked_format, may_share_storages, recasts
from netloader.weights.manifest import Manifest, Tensor

_COPY_BELOW = 64 * 1024
"""Parameters below this many bytes are copied, not referenced. During post-processing vLLM writes
scales in place, from a few bytes per tensor to some KiB with one per channel. It replaces larger
parameters; if it writes one of them in place all the same, `changed` finds it."""

_SMALL_PART = 8
"""Scales of the largest kind take this part of their weight: 16 bits for 32 weights of 4 bits."""

HEADROOM_BYTES = 256 * 2**20
"""Memory left free beside weights, originals and KV cache, for activations and compiled code. A
server killed in its first request costs more than one source fewer in the mesh."""

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


@dataclass(frozen=True)
class Plan:
    """What a worker will keep of a model that it is about to load."""

    mode: KeepMode
    may_share: bool
    """Whether tensors may share storages (`coalesce.arrange`). A shared storage lives as long as
    any tensor in it, so False if replaced tensors must go back to the system. False too on devices
    that describe the format of a storage as a whole."""
    reason: str = ""
    """Why nothing is kept although the settings ask for it: the worker is then not a source. Empty
    otherwise."""
    small: frozenset[str] = frozenset()
    """Parameters that are copied to host memory although `mode` keeps nothing."""


def plan(
    model: nn.Module,
    setting: KeepMode | None,
    names: Sequence[str] | None,
    left: Available | None,
    reserve: int,
) -> Plan:
    """Decide what to keep of `model`, which is built but not yet filled.

    `setting`, `names`: `INT8_CACHE` and `INT8_CACHE_NAME`; None: by device, and all names. Without
    a setting, an accelerator's worker keeps scales and the like: post-processing replaces them by
    products, or writes them in place, while weights survive or can be read back.
    `left`: host memory that this process may still take; None: unknown, and assumed to be enough.
    `reserve`: bytes of host memory that vLLM will take besides weights, which is the KV cache if
    that is on the host.

    On a CPU the weights are counted twice, as loaded and as packed by vLLM. This assumes that
    nothing of the model has been touched yet and that all of it will be replaced.
    """
    tensors = (*model.parameters(), *model.buffers())
    on_cpu = all(tensor.device.type == "cpu" for tensor in tensors)
    can_share = all(may_share_storages(tensor.device.type) for tensor in tensors)
    mode = setting or (KeepMode.DRAM if on_cpu else KeepMode.NO)
    if mode is KeepMode.NO:
        # No setting, on an accelerator: replacing is rare and packing is slow, so share.
        small = _small(model) if setting is None else frozenset()
        return Plan(mode, may_share=can_share and setting is None, small=small)
    if mode is KeepMode.HBM and not on_cpu:
        return Plan(mode, may_share=can_share)
    parameters = {name: _nbytes(tensor) for name, tensor in model.named_parameters()}
    buffers = sum(map(_nbytes, model.buffers()))
    needed = buffers + sum(
        nbytes for name, nbytes in parameters.items() if _is_selected(name, names)
    )
    # Packed or not, the server needs the weights once anyway.
    weights = buffers + sum(parameters.values()) if on_cpu else 0
    reason = fits(needed, left, weights + reserve + HEADROOM_BYTES)
    return Plan(KeepMode.NO, False, reason) if reason else Plan(mode, can_share)


def _small(model: nn.Module) -> frozenset[str]:
    """Parameters much smaller than another one of their module, as scales are beside a weight."""
    found: set[str] = set()
    for prefix, module in model.named_modules():
        own = {name: _nbytes(one) for name, one in module.named_parameters(prefix, recurse=False)}
        limit = max(own.values(), default=0) // _SMALL_PART
        found.update(name for name, nbytes in own.items() if nbytes <= limit)
    return frozenset(found)


def fits(needed: int, left: Available | None, reserve: int) -> str | None:
    """Why originals of `needed` bytes do not fit beside `reserve` bytes that vLLM takes anyway.

    None when they fit, or when `left` is unknown.
    """
    if left is None or needed + reserve <= left.bytes:
        return None
    return (
        f"originals kept for peers need {text(needed)} beside {text(reserve)} for the server, "
        f"{text(needed + reserve)} in all, and {left.by} leaves {text(left.bytes)}: "
        "give it more memory, or set INT8_CACHE to no"
    )


@dataclass(frozen=True)
class Originals:
    """The tensors that a source serves, and their cost in memory."""

    weights: Weights
    extra_bytes: int
    """Memory that is held only for peers: originals that the model no longer uses, and copies."""
    stuck_bytes: int = 0
    """Memory of originals that the model no longer uses, in storages that it still uses. This
    memory stays even if no peer is served, and only because tensors share storages."""

    @property
    def cost_bytes(self) -> int:
        """Memory that this process holds beyond one that shares nothing with peers."""
        return self.extra_bytes + self.stuck_bytes


@dataclass(frozen=True)
class Held:
    """One tensor between `keep` and `settle`."""

    place: Place
    is_arranged: bool
    """Whether `coalesce.arrange` made the tensor share its storage."""
    original: torch.Tensor | None
    """Keeps the original alive; None: others may free the original."""
    copy: torch.Tensor | None
    digest: bytes | None = None
    """Of the bytes as loaded, where nothing is held and shapes alone would not tell in which order
    post-processing has put them."""


@dataclass(frozen=True)
class Place:
    """Where a tensor was loaded: finds the tensor again, but does not keep it alive."""

    storage: StorageWeakRef
    device: torch.device
    offset: int
    """In bytes, from the start of the storage."""
    nbytes: int

    @classmethod
    def of(cls, data: torch.Tensor) -> Place:
        """The place of a flat uint8 tensor."""
        storage = StorageWeakRef(data.untyped_storage())  # type: ignore[no-untyped-call]
        return cls(storage, data.device, int(data.storage_offset()), data.numel())

    def data(self) -> torch.Tensor | None:
        """The bytes there now: shape [nbytes], uint8. None when the memory was freed."""
        if self.nbytes == 0:
            return torch.empty(0, dtype=torch.uint8, device=self.device)
        alive = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        storage = cast("torch.UntypedStorage | None", alive)
        if storage is None:
            return None
        data = torch.empty(0, dtype=torch.uint8, device=self.device)
        return data.set_(storage, self.offset, (self.nbytes,), (1,))


@dataclass(frozen=True)
class Kept:
    """The state between `keep` and `settle`: keeps only the chosen originals alive."""

    manifest: Manifest
    device_type: str
    held: tuple[Held, ...]
    """In the manifest's order."""
    digest_kind: DigestKind | None = None
    """As in `Weights`."""

    @property
    def holds_all(self) -> bool:
        """Whether every tensor can be served whatever post-processing does."""
        return all(one.original is not None or one.copy is not None for one in self.held)


def keep(
    weights: Weights,
    mode: KeepMode,
    names: Sequence[str] | None,
    small: frozenset[str] = frozenset(),
) -> Kept:
    """Hold the originals of parameters whose name contains an entry of `names` (None: of all), and
    in any mode copies of those in `small`.

    Call between `load_weights` and `process_weights_after_loading`, and drop `weights` afterwards:
    as long as it lives, so do all tensors. Costs no time or memory where a reference is enough, and
    one copy to host memory for `dram` on an accelerator. Buffers are copied in every mode: models
    write to them while they run (scales of a KV cache, counters), so a reference would not hold the
    promised bytes. Reads the square matrices that are not held, once.
    """
    arranged = {
        piece.tensor
        for chunk in weights.manifest.chunks()
        if chunk.packed and len(chunk.pieces) > 1 and weights.contiguous(chunk) is not None
        for piece in chunk.pieces
    }

    def hold(number: int, tensor: Tensor, data: torch.Tensor) -> Held:
        original: torch.Tensor | None = None
        copy: torch.Tensor | None = None
        digest: bytes | None = None
        off_device = mode is KeepMode.DRAM and data.device.type != "cpu"
        if tensor.kind == "buffer":
            copy = data.cpu() if off_device else data.clone()
        elif mode is not KeepMode.NO and _is_selected(tensor.name, names):
            if off_device:
                copy = data.cpu()
            else:
                original = data
                copy = data.clone() if data.numel() < _COPY_BELOW else None
        elif tensor.name in small:
            copy = data.cpu() if data.device.type != "cpu" else data.clone()
        elif len(tensor.shape) > 1 and tensor.shape[-2] == tensor.shape[-1]:
            digest = of_bytes(data)
        return Held(Place.of(data), number in arranged, original, copy, digest)

    return Kept(
        weights.manifest,
        weights.device_type,
        tuple(
            hold(number, tensor, data)
            for number, (tensor, data) in enumerate(
                zip(weights.manifest.tensors, weights.tensors, strict=True)
            )
        ),
        weights.digest_kind,
    )


def settle(kept: Kept, model: nn.Module) -> Originals:
    """The tensors that can be served now that `model` has been post-processed, if `changed` finds
    that they are what was loaded.

    Unchanged parameters are served in place, beside the others of their chunk, and their copies are
    dropped. Buffers are served from their copies. A parameter without either is read back from the
    tensor that has its name now.

    Raises `ManifestError` if originals that were not kept are gone. The error names their number,
    the first one, and the setting that would have kept them.
    """
    uses = _uses(kept, model)
    serve: list[torch.Tensor] = []
    recast: dict[int, Recast] = {}
    gone: list[str] = []
    stuck = 0
    named = dict(model.named_parameters(remove_duplicate=False))
    one_at_a_time = threading.Lock()
    for number, (tensor, held) in enumerate(zip(kept.manifest.tensors, kept.held, strict=True)):
        data = held.place.data()
        survived = data is not None and (tensor.nbytes == 0 or _is_used(uses, data))
        if data is not None and not survived and held.is_arranged and uses.hold(data):
            stuck += tensor.nbytes
        in_place = data if survived else held.original
        if tensor.kind == "buffer" and held.copy is not None:
            serve.append(held.copy)
        elif in_place is not None and (held.copy is None or _equal(held.copy, in_place)):
            serve.append(in_place)
        elif held.copy is not None:
            serve.append(held.copy)
        elif (found := _recast(tensor, held, named, one_at_a_time)) is not None:
            recast[number] = found
            serve.append(torch.empty(0, dtype=torch.uint8, device=held.place.device))
        else:
            gone.append(tensor.name)
    if gone:
        stays = f" ({text(stuck)} of them stay, beside tensors in use)" if stuck >= 2**20 else ""
        raise ManifestError(
            f"post-processing replaced {len(gone)} tensors ({gone[0]} first) whose originals are "
            f"not kept{stays}: set INT8_CACHE to dram or hbm and let INT8_CACHE_NAME match them"
        )
    ours = {
        _storage_key(data): data.untyped_storage().nbytes()
        for data in serve
        if data.numel() > 0 and not uses.hold(data)
    }
    weights = Weights(
        kept.manifest, tuple(serve), kept.device_type, kept.digest_kind, recast=recast
    )
    return Originals(weights, sum(ours.values()), stuck)


def _is_used(uses: _Uses, data: torch.Tensor) -> bool:
    return uses.touch(data) and blocked_format(data) is None


def _recast(
    tensor: Tensor,
    held: Held,
    named: Mapping[str, torch.Tensor],
    one_at_a_time: AbstractContextManager[object],
) -> Recast | None:
    """How to read a tensor back from the one that has its name now; None if that cannot be."""
    now = named.get(tensor.name)
    if now is None or not _is_contiguous(tensor):
        return None
    found = recasts(now, getattr(torch, tensor.dtype), tensor.shape, one_at_a_time)
    if held.digest is None:
        return next(iter(found), None)
    return next((one for one in found if of_bytes(one.whole()) == held.digest), None)


def _is_contiguous(tensor: Tensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def changed(weights: Weights, digests: Sequence[bytes]) -> list[str]:
    """Names of tensors whose bytes no longer match `digests`.

    Compares whole chunks: if a packed chunk changed, all its tensors are named. Reads everything
    once.
    """
    chunks = weights.manifest.chunks()
    return [
        weights.manifest.tensors[piece.tensor].name
        for chunk, now in zip(chunks, of_weights(weights, chunks), strict=True)
        if now != digests[chunk.id]
        for piece in chunk.pieces
    ]


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_selected(name: str, names: Sequence[str] | None) -> bool:
    return names is None or any(part in name for part in names)


def _equal(copy: torch.Tensor, data: torch.Tensor) -> bool:
    """Whether two flat uint8 tensors hold the same bytes."""
    if copy.device.type == data.device.type == "cpu":
        # Avoids torch's thread pool, which on CPU belongs to inference.
        return np.array_equal(copy.numpy(), data.numpy())
    return torch.equal(copy, data.to(copy.device))


def _uses(kept: Kept, model: nn.Module) -> _Uses:
    """The memory that `model` uses, as far as it can matter here.

    If parameters and buffers still use all loaded tensors, the tensors that kernels hold besides
    cannot change what survived or its cost. They are then not searched for, which would take most
    of the time.
    """
    registered = _Uses.by((*model.parameters(), *model.buffers()))
    places = (held.place.data() for held in kept.held)
    if all(data is not None and (data.numel() == 0 or registered.touch(data)) for data in places):
        return registered
    return _Uses.by(_reachable(model))


class _Uses:
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
    def by(cls, tensors: Iterable[torch.Tensor]) -> _Uses:
        spans: dict[str, list[tuple[int, int]]] = {}
        storages: set[tuple[str, int]] = set()
        for tensor in tensors:
            if tensor.layout is not torch.strided or tensor.is_meta or tensor.numel() == 0:
                continue
            try:
                start, key = tensor.data_ptr(), _storage_key(tensor)
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
        return _storage_key(data) in self._storages


def _storage_key(tensor: torch.Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def _reachable(model: nn.Module) -> Iterator[torch.Tensor]:
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
