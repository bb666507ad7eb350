"""How weights lie in an accelerator's memory, and how to read those that no longer lie as loaded.

torch_npu describes shape and format once for each storage. A conversion to FRACTAL_NZ goes by that
description, not by the tensor's: a tensor that shares its storage is converted together with its
neighbours, beyond the end of the memory. So on an NPU every tensor keeps a storage of its own.

Weights travel as rows and columns (ND), on every device. After loading, vLLM Ascend turns linear
weights into FRACTAL_NZ, swaps their last two dimensions, or does both, and drops the original.
`Recast` reads the original's bytes back from the result, without a second copy of the weights.

Nothing here knows the bytes of FRACTAL_NZ: torch_npu converts whole tensors, by its documented
operator. Its views of such tensors neither give the bytes of the format nor those of the rows.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import torch

_ONE_STORAGE_EACH: Final = frozenset({"npu"})
"""Types of devices that describe the format of a storage as a whole."""

_NPU: Final = "npu"
_ND: Final = 2
_PLAIN: Final = frozenset({0, _ND, 30})
"""torch_npu's numbers of the formats without blocks: NCHW, ND and NCDHW. The number of dimensions
alone decides between them."""

_NAMES: Final = {3: "NC1HWC0", 4: "FRACTAL_Z", 29: "FRACTAL_NZ"}


def may_share_storages(device_type: str) -> bool:
    """Whether tensors on such a device may be views of one storage."""
    return device_type not in _ONE_STORAGE_EACH


def blocked_format(tensor: torch.Tensor) -> str | None:
    """Name of the format if the tensor's memory does not hold its elements in plain order."""
    if tensor.device.type != _NPU:
        return None
    # torch knows this operator as soon as there are tensors on an NPU.
    number = int(torch.ops.npu.get_npu_format(tensor))
    return None if number in _PLAIN else _NAMES.get(number, f"format {number}")


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a dense tensor in plain order: shape [nbytes], uint8, in memory order."""
    return tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8)


@dataclass(frozen=True)
class Recast:
    """A tensor whose loaded bytes can be read back from what post-processing made of it.

    Whoever makes one must compare digests: that the shapes fit proves nothing.
    """

    tensor: torch.Tensor
    """As the model holds it now."""
    shape: tuple[int, ...]
    """As it was loaded, contiguous."""
    is_swapped: bool
    """Whether the last two dimensions have changed places."""
    one_at_a_time: AbstractContextManager[object]
    """A lock, shared by all tensors of a model, so that there is one temporary at a time."""

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def temporary_bytes(self) -> int:
        """Device memory that `copy_to` takes for the whole tensor, besides the copied rows."""
        return self.nbytes if blocked_format(self.tensor) is not None else 0

    def copy_to(self, target: torch.Tensor, start: int = 0) -> None:
        """Fill `target`, flat uint8 on any device, with the loaded bytes from byte `start` on.

        Takes `temporary_bytes`, and a copy of the rows in question where dimensions have changed
        places. Does not wait for the device.
        """
        with self.one_at_a_time:
            plain = self._plain()
            end = start + target.numel()
            if plain.is_contiguous():
                target.copy_(flat_bytes(plain)[start:end])
                return
            matrices = plain.flatten(0, -3) if plain.dim() > 2 else (plain,)
            row_bytes = self.shape[-1] * self.tensor.element_size()
            batch_bytes = self.shape[-2] * row_bytes
            for batch in range(start // batch_bytes, -(-end // batch_bytes)):
                at = batch * batch_bytes
                lowest, highest = max(start - at, 0), min(end - at, batch_bytes)
                first, last = lowest // row_bytes, -(-highest // row_bytes)
                copied = flat_bytes(matrices[batch][first:last].contiguous())
                skip = lowest - first * row_bytes
                target[at + lowest - start : at + highest - start].copy_(
                    copied[skip : skip + highest - lowest]
                )

    def whole(self) -> torch.Tensor:
        """A copy of the loaded bytes: shape [nbytes], uint8, on the tensor's device."""
        copy = torch.empty(self.nbytes, dtype=torch.uint8, device=self.tensor.device)
        self.copy_to(copy)
        return copy

    def _plain(self) -> torch.Tensor:
        """The tensor in its loaded shape and plain order of memory; a view where possible."""
        tensor = self.tensor.detach()
        turned = tensor.dim() > 1 and not tensor.is_contiguous()
        if blocked_format(tensor) is not None:
            # torch_npu converts a storage, so give it the tensor that fills the storage.
            base = tensor.transpose(-1, -2) if turned else tensor
            tensor = torch.ops.npu.npu_format_cast(base, _ND)
            tensor = tensor.transpose(-1, -2) if turned else tensor
        return tensor.transpose(-1, -2) if self.is_swapped else tensor


def recasts(
    now: torch.Tensor,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    one_at_a_time: AbstractContextManager[object],
) -> tuple[Recast, ...]:
    """The ways in which `now` may hold what was loaded as a contiguous tensor of `shape`.

    Several for a square matrix, none if the elements cannot be the same. Only a digest tells
    whether one of them does hold it.
    """
    if now.is_meta or now.layout is not torch.strided:
        return ()
    # vLLM's parameters have classes of their own, whose operations are Python's.
    with torch._C.DisableTorchFunction():
        now = now.detach()
    if now.dtype != dtype:
        # W4A8: int8 with two int4 each becomes int32 with eight, over the same memory.
        if now.is_floating_point() or dtype.is_floating_point or not now.is_contiguous():
            return ()
        if now.dim() == 0 or now.shape[-1] * now.element_size() % dtype.itemsize:
            return ()
        now = now.view(dtype)
    turns = [False] if math.prod(shape) == 0 or len(shape) < 2 else [False, True]
    return tuple(
        Recast(now, shape, turn, one_at_a_time)
        for turn in turns
        if tuple(now.shape) == ((*shape[:-2], shape[-1], shape[-2]) if turn else shape)
    )


def finish(tensor: torch.Tensor) -> None:
    """Wait until this thread's work on a tensor's device is done, so that others may use the
    tensor's memory. Work on host memory is done at once."""
    if tensor.device.type != "cpu":
        torch.get_device_module(tensor.device).current_stream(tensor.device).synchronize()
