"""After post-processing: what survived, can all be served, and what does that cost?"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from netloader.errors import ManifestError
from netloader.system.memory import text
from netloader.weights.capture import Weights
from netloader.weights.digests import of_bytes, of_weights
from netloader.weights.formats import Recast, blocked_format, recasts
from netloader.weights.manifest import Tensor
from netloader.weights.retain.keeping import Held, Kept
from netloader.weights.retain.uses import Uses, reachable, storage_key


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
        storage_key(data): data.untyped_storage().nbytes()
        for data in serve
        if data.numel() > 0 and not uses.hold(data)
    }
    weights = Weights(
        kept.manifest, tuple(serve), kept.device_type, kept.digest_kind, recast=recast
    )
    return Originals(weights, sum(ours.values()), stuck)


def _is_used(uses: Uses, data: torch.Tensor) -> bool:
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


def _equal(copy: torch.Tensor, data: torch.Tensor) -> bool:
    """Whether two flat uint8 tensors hold the same bytes."""
    if copy.device.type == data.device.type == "cpu":
        # Avoids torch's thread pool, which on CPU belongs to inference.
        return np.array_equal(copy.numpy(), data.numpy())
    return torch.equal(copy, data.to(copy.device))


def _uses(kept: Kept, model: nn.Module) -> Uses:
    """The memory that `model` uses, as far as it can matter here.

    If parameters and buffers still use all loaded tensors, the tensors that kernels hold besides
    cannot change what survived or its cost. They are then not searched for, which would take most
    of the time.
    """
    registered = Uses.by((*model.parameters(), *model.buffers()))
    places = (held.place.data() for held in kept.held)
    if all(data is not None and (data.numel() == 0 or registered.touch(data)) for data in places):
        return registered
    return Uses.by(reachable(model))
