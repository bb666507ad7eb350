"""Moves small tensors of a model together, so that a chunk of them travels without a copy.

Packing costs a pass over the bytes at the source and another at the replica. A receive into many
small places is slow on every backend. So before a model is filled, the tensors of each packed chunk
get one shared storage, laid out as the chunk travels. Bytes arrive there, the model uses them
there, and they leave from there when this replica becomes a source.

Only a tensor's address changes: it stays the same object, with the same type, attributes, shape,
stride and contents. Others may hold that address, so a tensor moves only if nothing else refers to
its memory, as far as torch can tell: no view, no detached or numpy tensor, no other library. This
holds right after a model was built, and not much later.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from netloader.system import hugepages
from netloader.system.hugepages import PageMap
from netloader.weights.capture import Contents, Weights, inventory
from netloader.weights.formats import flat_bytes
from netloader.weights.manifest import CHUNK_BYTES, Chunk, Manifest

_REMEMBER_BELOW = 64 * 1024
"""Parameters below this many bytes are always remembered as they were, like all buffers, even where
there is too much to remember everything. Checkpoints leave out scales and the like."""

_MOSTLY_EMPTY = 4
"""A chunk is remembered as a whole if less than one part in this many was touched."""


def arrange(
    model: nn.Module, chunk_bytes: int = CHUNK_BYTES, *, leave_empty: bool = False
) -> Weights:
    """Move the tensors of each packed chunk into one storage, then capture `model`.

    Call after the model was built and before it is filled. A chunk stays as it is when one of its
    tensors must not move, or when it already lies as it travels. A chunk that cannot move only
    costs a copy into a staging buffer later.

    `leave_empty`: do not copy the few bytes that an otherwise untouched chunk holds to its new
    memory. Peers overwrite them, and writing one byte costs a page of 2 MiB. Before the model is
    filled in any other way, `Weights.put_back_all` must be called.

    Memory: while a chunk is being moved, its touched part exists twice. Remembered contents live as
    long as the result (`Weights.initial`: at most a quarter of what moved, besides buffers and
    small parameters). On accelerators the allocator may keep the old places until its cache is
    emptied. A chunk's storage, at most `chunk_bytes`, lives as long as any of its tensors: when
    post-processing replaces some of them, their bytes stay until all are gone.

    Raises `ManifestError` as `capture` does. Without `leave_empty`, any other error half-way leaves
    the model as good as it was.
    """
    # vLLM sets a default device and has its own parameter classes. Either would send each of some
    # thousand calls here through Python, which took two thirds of the time.
    with torch._C.DisableTorchFunction():
        return _arrange(model, chunk_bytes, leave_empty)


def _arrange(model: nn.Module, chunk_bytes: int, leave_empty: bool) -> Weights:
    manifest, tensors = inventory(model, chunk_bytes)
    device = tensors[0].device if tensors else torch.device("cpu")
    alone = _Holders.of(torch.empty(1, device=device))
    flat: list[torch.Tensor | None] = [None] * len(tensors)
    initial: dict[int, Contents] = {}
    storages: list[torch.Tensor] = []
    with PageMap() as page_map:
        for chunk in manifest.chunks():
            movers = [tensors[piece.tensor] for piece in chunk.pieces]
            if len(movers) < 2 or not all(_is_movable(tensor, alone) for tensor in movers):
                continue
            storage = _new(chunk.nbytes, device)
            places = _places(chunk, storage)
            held = _contents(chunk, movers, page_map)
            if held is None or not leave_empty:
                for tensor, place in zip(movers, places, strict=True):
                    _copy(tensor, place, page_map)
            for piece, tensor, place in zip(chunk.pieces, movers, places, strict=True):
                if held is not None:
                    initial[piece.tensor] = held[piece.tensor]
                elif _is_remembered(manifest, piece.tensor):
                    initial[piece.tensor] = ((0, flat_bytes(tensor)),)
                flat[piece.tensor] = place
            _point(movers, chunk, storage)
            storages.append(storage)
    whole = tuple(
        flat_bytes(tensor) if place is None else place
        for tensor, place in zip(tensors, flat, strict=True)
    )
    weights = Weights(manifest, whole, device.type, initial=initial)
    for chunk in manifest.chunks():
        # These lie as they travel without having been moved, mostly alone in their chunk.
        if chunk.packed and weights.contiguous(chunk) is not None:
            for piece in chunk.pieces:
                if piece.tensor not in initial and _is_remembered(manifest, piece.tensor):
                    initial[piece.tensor] = ((0, whole[piece.tensor].clone()),)
    # Filling touches all of this memory. Touch it only now: touched parts are remembered.
    stayed = (data for data, place in zip(whole, flat, strict=True) if place is None)
    hugepages.advise(*stayed, *storages)
    return weights


def zero_gaps(weights: Weights) -> None:
    """Write zeros between the tensors of every chunk that lies as it travels.

    Call after a model was filled from storage: an abandoned pull may have left bytes in the gaps,
    and digests cover the gaps.
    """
    for chunk in weights.manifest.chunks():
        if not chunk.packed:
            continue
        data = weights.contiguous(chunk)
        if data is None:
            continue
        # Gaps are many and tiny, and a numpy call costs a fraction of a torch call.
        memory = data.numpy() if data.device.type == "cpu" else data
        for first, end in chunk.gaps():
            memory[first:end] = 0


def _new(nbytes: int, device: torch.device) -> torch.Tensor:
    """A new storage as a flat uint8 tensor, all zeros."""
    if device.type == "cpu":
        return hugepages.fresh(nbytes)
    return torch.zeros(nbytes, dtype=torch.uint8, device=device)


def _places(chunk: Chunk, storage: torch.Tensor) -> list[torch.Tensor]:
    """The place of each piece of `chunk` in `storage`, flat uint8."""
    starts = [piece.offset for piece in chunk.pieces]
    ends = [*starts[1:], chunk.nbytes]
    # One split, gaps included: thousands of slices would take as long as the transfer.
    sizes = [end - start for start, end in zip(starts, ends, strict=True)]
    return [
        part[: piece.nbytes] if part.numel() != piece.nbytes else part
        for part, piece in zip(torch.split(storage, sizes), chunk.pieces, strict=True)
    ]


def _contents(
    chunk: Chunk, tensors: Sequence[torch.Tensor], page_map: PageMap
) -> dict[int, Contents] | None:
    """What the tensors of a mostly empty chunk hold, by position in the manifest."""
    if tensors[0].device.type != "cpu":
        return None
    left = chunk.nbytes // _MOSTLY_EMPTY
    found: dict[int, Contents] = {}
    for piece, tensor in zip(chunk.pieces, tensors, strict=True):
        begin = tensor.data_ptr()
        touched = list(page_map.touched(begin, piece.nbytes))
        left -= sum(end - first for first, end in touched)
        if left < 0:
            return None
        found[piece.tensor] = tuple(
            (first, ctypes.string_at(begin + first, end - first)) for first, end in touched
        )
    return found


def _copy(tensor: torch.Tensor, place: torch.Tensor, page_map: PageMap) -> None:
    """Write the contents of `tensor` to `place`, which holds zeros."""
    old = flat_bytes(tensor)
    if tensor.device.type != "cpu":
        place.copy_(old)
        return
    source, target = old.numpy(), place.numpy()
    for first, end in page_map.touched(old.data_ptr(), old.numel()):
        # The allocator's own data touches pages too, and writing zeros would cost a fault.
        if source[first:end].any():
            np.copyto(target[first:end], source[first:end])


def _point(tensors: Sequence[torch.Tensor], chunk: Chunk, storage: torch.Tensor) -> None:
    """Make `tensors` use their places in `storage`."""
    typed: dict[torch.dtype, torch.Tensor] = {}
    for piece, tensor in zip(chunk.pieces, tensors, strict=True):
        size = tensor.element_size()
        if tensor.dtype not in typed:
            typed[tensor.dtype] = storage[: chunk.nbytes // size * size].view(tensor.dtype)
        tensor.data = typed[tensor.dtype].as_strided(
            tensor.shape, tensor.stride(), piece.offset // size
        )


def _is_remembered(manifest: Manifest, number: int) -> bool:
    tensor = manifest.tensors[number]
    return tensor.kind == "buffer" or tensor.nbytes < _REMEMBER_BELOW


def _is_movable(tensor: torch.Tensor, alone: _Holders) -> bool:
    """Whether `tensor` is plain, fills its storage, and is the storage's only user.

    `alone`: the holder counts of a tensor that is known to be its storage's only user.
    """
    if _Holders.of(tensor) != alone:
        return False
    storage = tensor.untyped_storage()
    return (
        tensor.storage_offset() == 0
        and storage.nbytes() == tensor.numel() * tensor.element_size()
        # Not resizable: memory that torch did not allocate, or that numpy has had.
        and storage.resizable()
        and tensor.is_leaf
        and tensor.grad is None
        and not (tensor.is_inference() or tensor.is_conj() or tensor.is_neg())
        and not (tensor.device.type == "cpu" and (storage.is_shared() or tensor.is_pinned()))
    )


class _Holders(NamedTuple):
    """How many holders a tensor's memory has. Counting adds to the counts: only compare them."""

    storage: int
    """Tensors inside torch, views and detached ones included."""
    tensor: int
    """Holders of the tensor inside torch: more than its Python object if it was exported."""
    python: int
    """Python references to the storage object."""

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Holders:
        storage = tensor.untyped_storage()
        shared = torch._C._storage_Use_Count(storage._cdata)
        return cls(shared, int(tensor._use_count()), sys.getrefcount(storage))  # type: ignore[attr-defined]
