"""Checks buffers that a model computes for itself, and whether `load_weights` left them alone.

Rotary tables, masks and maps are computed from config and rank when a model is built. Those that
are not persistent do not travel: a replica has computed its own. This only works if loading weights
does not write to them, which this module checks. A persistent buffer travels. If no checkpoint
filled the buffer, it holds the source's computed value. A replica that computes another value (from
another `max_model_len`, say) must not take it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from netloader.errors import ManifestError
from netloader.plain import MAX_COMPUTED
from netloader.weights import digests
from netloader.weights.formats import flat_bytes

Digests = Mapping[str, str]
"""32 hex digits by buffer name."""


def snapshot(model: nn.Module) -> dict[str, str]:
    """Digest of every buffer of `model` that has memory, by name. Each buffer is read once,
    on the host, so that two kinds of devices can compare what they computed."""
    seen: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if buffer.is_meta or buffer.layout is not torch.strided:
            continue
        if id(buffer) not in seen:
            dense = buffer if _is_run(buffer) else buffer.contiguous()
            seen[id(buffer)] = digests.of_bytes(flat_bytes(dense), "xxh3").hex()
        found[name] = seen[id(buffer)]
    return found


def computed(model: nn.Module, before: Digests, now: Digests) -> dict[str, str]:
    """Digests of the persistent buffers that are unchanged since the model was built.

    `before` and `now` are snapshots from before and after `load_weights`. Raises `ManifestError`
    naming a buffer that was written to but is not persistent: such a buffer would not travel.
    """
    kept: dict[str, str] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for key in module._buffers:
            name = f"{prefix}.{key}" if prefix else key
            if name not in before or name not in now:
                continue
            unchanged = before[name] == now[name]
            if key in module._non_persistent_buffers_set:
                if not unchanged:
                    raise ManifestError(
                        f"load_weights wrote to {name}, which is no persistent buffer and does "
                        "not travel"
                    )
            elif unchanged:
                kept[name] = now[name]
    if len(kept) > MAX_COMPUTED:
        raise ManifestError(f"load_weights left {len(kept)} persistent buffers as they were")
    return kept


def check_equal(mine: Digests, theirs: Digests) -> None:
    """Raise `ManifestError` when this model computes a buffer differently from its source.

    `mine`: a snapshot taken before anything was received.
    """
    for name, digest in theirs.items():
        if mine.get(name) != digest:
            raise ManifestError(
                f"the source computed {name:.200} to something else than this worker, and its "
                "checkpoint does not hold it"
            )


def _is_run(buffer: torch.Tensor) -> bool:
    """Whether the elements lie in one run, in any order."""
    if buffer.is_contiguous():
        return True
    span = 1 + sum(
        (size - 1) * stride for size, stride in zip(buffer.shape, buffer.stride(), strict=True)
    )
    return buffer.numel() > 0 and span == buffer.numel() and 0 not in buffer.stride()
