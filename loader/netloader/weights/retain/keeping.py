"""Before post-processing: hold what would be lost, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from netloader.terms import KeepMode
from netloader.weights.capture import DigestKind, Weights
from netloader.weights.digests import of_bytes
from netloader.weights.manifest import Manifest, Tensor
from netloader.weights.retain.planning import is_selected

_COPY_BELOW = 64 * 1024
"""Parameters below this many bytes are copied, not referenced. During post-processing vLLM writes
scales in place, from a few bytes per tensor to some KiB with one per channel. It replaces larger
parameters; if it writes one of them in place all the same, `changed` finds it."""


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
        elif mode is not KeepMode.NO and is_selected(tensor.name, names):
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
