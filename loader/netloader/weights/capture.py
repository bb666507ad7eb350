"""The tensors of a model: taken from it, compared with a peer's, read and written as bytes.

A model's weights are captured in the `checkpoint` layout, between vLLM's `load_weights` and its
`process_weights_after_loading`. Names and tensor references must be taken then, because vLLM later
repacks, re-ties, wraps and frees tensors. Everything that a checkpoint may hold travels: all
parameters and all persistent buffers, aliases once. Buffers that are not persistent (rotary tables,
expert maps) do not travel: each rank computes its own from the config when it builds the model. If
`load_weights` writes to them all the same, `buffers.py` notices.

`capture` raises `ManifestError` for tensors that cannot travel in this layout, and the worker loads
from storage. These are tensors on the meta device (online quantisation), uninitialised or wrapped
ones (GGUF, torchao), tensors with gaps, tensors off the model's device, and tensors that lie in one
of an NPU's own formats already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from netloader.errors import ManifestError
from netloader.weights.formats import Recast, blocked_format, finish, flat_bytes
from netloader.weights.manifest import CHUNK_BYTES, Chunk, Kind, Manifest, Piece, Tensor

DigestKind = Literal["xxh3", "reduce"]
"""How a chunk's digest is computed (`digests.py`): from host memory, or where a device has it."""

Contents = tuple[tuple[int, bytes | torch.Tensor], ...]
"""A tensor's bytes as runs, each with the position of its first byte; zeros in between."""


@dataclass(frozen=True)
class Weights:
    """A model's tensors beside the manifest that describes them, in the same order.

    Holding this object keeps the memory alive, even after the model has replaced the tensors.
    """

    manifest: Manifest
    tensors: tuple[torch.Tensor, ...]
    """Flat views, one dimension, dtype uint8: writing to them writes the model. Empty for a tensor
    in `recast`."""
    device_type: str = "cpu"
    """The model's device type: kept tensors may be elsewhere."""
    digest_kind: DigestKind | None = None
    """How its digests are computed; None: by the kind of memory that the model is in. Weights that
    came from a source have the digests of that source."""
    initial: Mapping[int, Contents] = field(default_factory=dict, compare=False, repr=False)
    """What tensors held before anything was received into them, by position, as far as `arrange`
    knows. A checkpoint may lack parts of a model (scales, rotary caches, padding), so giving up a
    pull means putting these contents back."""
    recast: Mapping[int, Recast] = field(default_factory=dict, compare=False, repr=False)
    """Tensors that no longer lie as they were loaded, by position: `pack` and `read` give their
    loaded bytes, and nothing writes to them."""

    @cached_property
    def device(self) -> torch.device:
        """The model's device, with its number where a tensor tells it."""
        there = (data.device for data in self.tensors if data.device.type == self.device_type)
        return next(there, torch.device(self.device_type))

    def view(self, piece: Piece) -> torch.Tensor:
        """The bytes of one piece, shape [nbytes], uint8, in place. Not for a tensor in `recast`."""
        return self.tensors[piece.tensor][piece.start : piece.start + piece.nbytes]

    def contiguous(self, chunk: Chunk) -> torch.Tensor | None:
        """Memory in which a chunk lies exactly as it travels: shape [chunk.nbytes], uint8.

        None for a packed chunk whose tensors do not lie where the chunk places them, and for a
        chunk of a tensor in `recast`. Otherwise nothing needs packing: writing to this memory
        writes the model, gaps included.
        """
        return self._contiguous[chunk.id]

    @cached_property
    def _contiguous(self) -> tuple[torch.Tensor | None, ...]:
        return tuple(self._in_one_run(chunk) for chunk in self.manifest.chunks())

    def _in_one_run(self, chunk: Chunk) -> torch.Tensor | None:
        if self.recast and any(piece.tensor in self.recast for piece in chunk.pieces):
            return None
        if not chunk.packed:
            return self.view(chunk.pieces[0])
        first = self.tensors[chunk.pieces[0].tensor]
        # Transports carry what is on the model's device; a processed model has more elsewhere.
        if self.manifest.layout == "runtime" and first.device != self._device:
            return None
        start, storage = first.data_ptr(), first.untyped_storage()
        # A storage of exactly the chunk's size has nothing in the gaps, so nobody else's bytes are
        # read or written there.
        if chunk.payload != chunk.nbytes and storage.nbytes() != chunk.nbytes:
            return None
        if first.storage_offset() + chunk.nbytes > storage.nbytes():
            return None
        for piece in chunk.pieces:
            data = self.tensors[piece.tensor]
            if data.data_ptr() != start + piece.offset:
                return None
            if data.untyped_storage().data_ptr() != storage.data_ptr():
                return None
        return first.as_strided((chunk.nbytes,), (1,))

    def pack(self, chunk: Chunk, staging: torch.Tensor) -> torch.Tensor:
        """A chunk as it travels: in place if it already lies that way, else copied to `staging`.

        `staging` is uint8 and has at least `chunk.nbytes`. A copy is returned as the used part of
        `staging`, with zeros in the gaps. Waits for the device: no tensor is read after this.
        """
        in_place = self.contiguous(chunk)
        if in_place is not None:
            return in_place
        for first, end in chunk.gaps():
            staging[first:end].zero_()
        for piece in chunk.pieces:
            self._copy_to(staging[piece.offset : piece.offset + piece.nbytes], piece)
        finish(staging)
        return staging[: chunk.nbytes]

    def unpack(self, chunk: Chunk, staging: torch.Tensor) -> None:
        """Copy a packed chunk from `staging` into the tensors, ignoring the gaps. Waits for the
        device: `staging` may be used again after this."""
        for piece in chunk.pieces:
            _copy(self.view(piece), staging[piece.offset : piece.offset + piece.nbytes])
        finish(staging)

    def staging(self) -> torch.Tensor:
        """New memory that any chunk can be packed into: uint8, on the model's device if a tensor is
        there."""
        nbytes = self.manifest.chunk_bytes
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    @cached_property
    def _device(self) -> torch.device:
        there = (data.device for data in self.tensors if data.device.type == self.device_type)
        return next(there, torch.device("cpu"))

    @property
    def temporary_bytes(self) -> int:
        """Device memory that reading a chunk takes at most, besides `staging`."""
        longest = self.manifest.chunk_bytes
        return max((one.memory_for(longest) for one in self.recast.values()), default=0)

    def read(self, number: int) -> torch.Tensor:
        """The bytes of one whole tensor: shape [nbytes], uint8, in place or a copy."""
        return self.recast[number].whole() if number in self.recast else self.tensors[number]

    def _copy_to(self, target: torch.Tensor, piece: Piece) -> None:
        if piece.tensor in self.recast:
            self.recast[piece.tensor].copy_to(target, piece.start)
        else:
            _copy(target, self.view(piece))

    def put_back(self, piece: Piece) -> bool:
        """Restore a piece's `initial` contents; False, with nothing done, if they are unknown."""
        contents = self.initial.get(piece.tensor)
        if contents is None:
            return False
        self.view(piece).zero_()
        end = piece.start + piece.nbytes
        for first, data in contents:
            run = _as_tensor(data)
            start, stop = max(first, piece.start), min(first + run.numel(), end)
            if start < stop:
                part = run[start - first : stop - first]
                self.view(Piece(piece.tensor, start, stop - start)).copy_(part)
        return True

    def put_back_all(self) -> None:
        """Restore the `initial` contents of all tensors, except where these are zeros.

        Call only before storage is read: bytes that have arrived are overwritten.
        """
        for number, contents in self.initial.items():
            for first, data in contents:
                # The memory holds zeros already; writing them would be its first touch.
                if isinstance(data, torch.Tensor) or data.count(0) != len(data):
                    run = _as_tensor(data)
                    self.view(Piece(number, first, run.numel())).copy_(run)

    def sha256(self) -> dict[str, str]:
        """SHA-256 of every tensor's bytes, by name. For reports; reads everything."""
        return {
            tensor.name: hashlib.sha256(host_buffer(self.read(number).cpu())).hexdigest()
            for number, tensor in enumerate(self.manifest.tensors)
        }


def capture(model: nn.Module, *, chunk_bytes: int = CHUNK_BYTES) -> Weights:
    """Describe and reference every tensor of `model` in the checkpoint layout.

    Raises `ManifestError` naming the first tensor that cannot travel, and why.
    """
    # As in `arrange`: vLLM's default device and parameter classes would add Python calls.
    with torch._C.DisableTorchFunction():
        manifest, tensors = inventory(model, chunk_bytes)
        flat = tuple(flat_bytes(tensor) for tensor in tensors)
    return Weights(manifest, flat, flat[0].device.type if flat else "cpu")


def inventory(model: nn.Module, chunk_bytes: int) -> tuple[Manifest, list[torch.Tensor]]:
    """The manifest of `model` in the checkpoint layout, and its tensors in the same order.

    Raises `ManifestError` naming the first tensor that cannot travel, and why.
    """
    first: dict[int, int] = {}
    rows: list[tuple[str, Kind, torch.Tensor, list[str]]] = []
    for name, kind, tensor in _named_tensors(model):
        known = first.get(id(tensor))
        if known is not None:
            rows[known][3].append(name)
            continue
        first[id(tensor)] = len(rows)
        rows.append((name, kind, tensor, []))
    device = next((row[2].device for row in rows), torch.device("cpu"))
    described = tuple(
        Tensor(
            name,
            kind,
            tuple(tensor.shape),
            tensor.stride(),
            str(tensor.dtype).removeprefix("torch."),
            tensor.numel() * tensor.element_size(),
            tuple(aliases),
        )
        for name, kind, tensor, aliases in rows
        if _check(name, tensor, device)
    )
    return Manifest("checkpoint", chunk_bytes, described), [row[2] for row in rows]


def host_buffer(data: torch.Tensor) -> memoryview:
    """The memory of a flat uint8 host tensor, without copying."""
    return data.numpy().data


def _as_tensor(data: bytes | torch.Tensor) -> torch.Tensor:
    if isinstance(data, torch.Tensor):
        return data
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy bytes without torch's OpenMP pool, which on CPU belongs to inference."""
    if target.device.type == source.device.type == "cpu":
        np.copyto(target.numpy(), source.numpy())
    else:
        target.copy_(source)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Kind, torch.Tensor]]:
    # remove_duplicate=False: aliases of tied weights must be known to be compared.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, "parameter", parameter
    computed = frozenset(
        f"{prefix}.{key}" if prefix else key
        for prefix, module in model.named_modules(remove_duplicate=False)
        for key in module._non_persistent_buffers_set
    )
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name not in computed:
            yield name, "buffer", buffer


def _check(name: str, tensor: torch.Tensor, device: torch.device) -> bool:
    is_plain = type(tensor) in (nn.Parameter, torch.Tensor)  # Skips the slower check below.
    if not is_plain and isinstance(tensor, (UninitializedBuffer, UninitializedParameter)):
        reason = "it gets its shape only while it is loaded"
    elif _has_inner_tensors(tensor):
        reason = f"{type(tensor).__name__} keeps its bytes in inner tensors"
    elif tensor.is_meta:
        reason = "it is made only while it is loaded (online quantisation)"
    elif tensor.device != device:
        reason = f"it lies on {tensor.device}, the model on {device}"
    elif not _is_dense(tensor):
        reason = f"its memory has gaps (shape {tuple(tensor.shape)}, stride {tensor.stride()})"
    elif (name_of_format := blocked_format(tensor)) is not None:
        reason = f"it was built in the format {name_of_format}, and plain rows and columns travel"
    else:
        return True
    raise ManifestError(f"{name} cannot travel: {reason}")


def _has_inner_tensors(tensor: torch.Tensor) -> bool:
    """torchao's wrappers, and vLLM's `SharedWeightParameter` with its partitions."""
    is_wrapper = type(tensor) is not nn.Parameter and is_traceable_wrapper_subclass(tensor)
    return bool(is_wrapper) or hasattr(tensor, "partitions")


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one run of memory, in any order of dimensions."""
    if tensor.is_contiguous():  # True of nearly all, and this runs for every tensor of a model.
        return True
    expected = 1
    for stride, size in sorted(
        (stride, size)
        for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
        if size != 1
    ):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True
