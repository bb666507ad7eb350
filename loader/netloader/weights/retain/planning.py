"""Before a model is laid out: what shall be kept of it, and does that fit into memory?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from netloader.system.memory import Available, text
from netloader.terms import KeepMode
from netloader.weights.formats import may_share_storages

_SMALL_PART = 8
"""Scales of the largest kind take this part of their weight: 16 bits for 32 weights of 4 bits."""

HEADROOM_BYTES = 256 * 2**20
"""Memory left free beside weights, originals and KV cache, for activations and compiled code. A
server killed in its first request costs more than one source fewer in the mesh."""


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
        nbytes for name, nbytes in parameters.items() if is_selected(name, names)
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


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def is_selected(name: str, names: Sequence[str] | None) -> bool:
    return names is None or any(part in name for part in names)
