"""What a source must keep so that it can still serve after vLLM has post-processed its weights.

A peer needs the bytes as `load_weights` left them. On CUDA and on Ascend most tensors survive
post-processing where they are; on CPU vLLM packs every linear weight and drops the original. So
there are two steps around post-processing: `keep` before it, by `INT8_CACHE`, and `settle` after
it, which finds out what survived and says whether this model can be served at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from netloader.config import KeepMode
from netloader.digests import of_weights
from netloader.errors import ManifestError
from netloader.weights import Weights

_COPY_BELOW = 64 * 1024
"""Tensors below this many bytes are copied rather than referenced. What vLLM writes in place while
it post-processes are scales, of a few bytes for a tensor to some KiB for one a channel; larger
tensors it replaces. One that it writes in place all the same is found by `changed`."""


@dataclass(frozen=True)
class Originals:
    """The tensors a source serves, and what they cost."""

    weights: Weights
    extra_bytes: int
    """Memory that is held for peers only: the model no longer uses it."""


@dataclass(frozen=True)
class Kept:
    """The state between `keep` and `settle`."""

    before: Weights
    """References to the tensors as they were loaded."""
    copies: tuple[torch.Tensor | None, ...]
    """What is held for the selected tensors: a copy, or the tensor itself; None: not selected."""


def keep(weights: Weights, mode: KeepMode, names: Sequence[str] | None) -> Kept:
    """Hold the originals of the tensors whose name has a part in `names` (None: of all).

    Call between `load_weights` and `process_weights_after_loading`. Time and memory: nothing where
    a reference is enough, one copy to host memory for `dram` on an accelerator.
    """

    def hold(name: str, data: torch.Tensor) -> torch.Tensor | None:
        if mode is KeepMode.NO or not (names is None or any(part in name for part in names)):
            return None
        if mode is KeepMode.DRAM and data.device.type != "cpu":
            return data.cpu()
        return data.clone() if data.numel() < _COPY_BELOW else data

    copies = tuple(
        hold(tensor.name, data)
        for tensor, data in zip(weights.manifest.tensors, weights.tensors, strict=True)
    )
    return Kept(weights, copies)


def settle(kept: Kept, model: nn.Module) -> Originals:
    """What can be served now that `model` has been post-processed.

    Parameters that stayed as they were are served from where they are, beside those of their
    chunk, and their copies dropped. Buffers keep theirs: models may write to them while they run
    (scales of a KV cache that are measured on the first request).

    Raises `ManifestError` when originals are gone that were not kept, naming how many, the first,
    and the setting that would have kept them.
    """
    in_use = _storages(model)
    serve: list[torch.Tensor] = []
    gone: list[str] = []
    extra = 0
    for tensor, data, copy in zip(
        kept.before.manifest.tensors, kept.before.tensors, kept.copies, strict=True
    ):
        # Where tensors share a storage, one that is in use keeps the others, too.
        survived = tensor.nbytes == 0 or data.untyped_storage().data_ptr() in in_use
        if copy is not None:
            # What was copied off an accelerator and is not in use there shall not be held there.
            may_stay = tensor.kind == "parameter" and (survived or copy.device == data.device)
            if copy is not data and may_stay and _equal(copy, data):
                copy = data
            serve.append(copy)
            if not survived or copy is not data:
                extra += tensor.nbytes
        elif survived:
            serve.append(data)
        else:
            gone.append(tensor.name)
    if gone:
        raise ManifestError(
            f"post-processing replaced {len(gone)} tensors ({gone[0]} first) whose originals are "
            "not kept: set INT8_CACHE to dram or hbm and let INT8_CACHE_NAME match them"
        )
    before = kept.before
    return Originals(Weights(before.manifest, tuple(serve), before.device_type), extra)


def changed(weights: Weights, digests: Sequence[bytes]) -> list[str]:
    """Names of tensors whose bytes are no longer those that `digests` were taken of.

    Chunk by chunk: of a packed chunk that changed, all tensors are named. Reads everything once.
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
        # Not torch's pool of threads, which on CPU belongs to inference.
        return np.array_equal(copy.numpy(), data.numpy())
    return torch.equal(copy, data.to(copy.device))


def _storages(model: nn.Module) -> frozenset[int]:
    tensors = [*model.parameters(), *model.buffers()]
    return frozenset(
        tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel() > 0
    )
