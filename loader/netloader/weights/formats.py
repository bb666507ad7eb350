"""How weights lie in an accelerator's memory, and how to read those that no longer lie as loaded.

torch_npu describes shape and format once for each storage. A conversion to FRACTAL_NZ goes by that
description, not by the tensor's: a tensor that shares its storage is converted together with its
neighbours, beyond the end of the memory. So on an NPU every tensor keeps a storage of its own.

Weights travel as rows and columns (ND), on every device. After loading, vLLM Ascend turns linear
weights into FRACTAL_NZ, swaps their last two dimensions, or does both, and drops the original.
`Recast` reads the original's bytes back from the result, without a second copy of the weights.

Of FRACTAL_NZ this module knows only that the matrices of a stack lie one behind the other. The rest
is torch_npu's: its documented operator converts one whole matrix. Its views of such tensors neither
give the bytes of the format nor those of the rows.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch.utils.dlpack import from_dlpack

_ONE_STORAGE_EACH: Final = frozenset({"npu"})
"""Types of devices that describe the format of a storage as a whole."""

_NPU: Final = "npu"
_ND: Final = 2
_PLAIN: Final = frozenset({0, _ND, 30})
"""torch_npu's numbers of the formats without blocks: NCHW, ND and NCDHW. The number of dimensions
alone decides between them."""

_NARROW_BYTES: Final = 2
"""torch_npu lays wider elements out in blocks of another width, and vLLM Ascend converts none."""

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


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The whole storage of a tensor as it lies, whatever its format: flat uint8, with a description
    of its own."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    whole: torch.Tensor = from_dlpack(tensor.detach().as_strided((count,), (1,), 0))
    return whole.view(torch.uint8)


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
    """A lock, shared by all tensors of a model, so that one is converted at a time."""

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as loaded."""
        return self.shape[-1] * self.tensor.element_size()

    def memory_for(self, nbytes: int) -> int:
        """Device memory that `copy_to` takes at most for a run of so many bytes."""
        # A run may begin and end within a row.
        rows = min(self.nbytes, nbytes + 2 * self.row_bytes)
        if blocked_format(self.tensor) is None:
            return rows
        # One matrix, as it lies and converted.
        stacked = _is_stack(self.tensor)
        return rows + (2 * _raw_matrix_bytes(self.tensor) if stacked else self.nbytes)

    def copy_to(self, target: torch.Tensor, start: int = 0) -> None:
        """Fill `target`, flat uint8 on any device, with the loaded bytes from byte `start` on.

        Does not wait for the device.
        """
        row_bytes = self.row_bytes
        matrix_bytes = row_bytes * (self.shape[-2] if len(self.shape) > 1 else 1)
        end = start + target.numel()
        with self.one_at_a_time:
            for number in range(start // matrix_bytes, -(-end // matrix_bytes)):
                at = number * matrix_bytes
                lowest, highest = max(start - at, 0), min(end - at, matrix_bytes)
                first, last = lowest // row_bytes, -(-highest // row_bytes)
                rows = flat_bytes(self._matrix(number)[first:last].contiguous())
                skip = lowest - first * row_bytes
                target[at + lowest - start : at + highest - start].copy_(
                    rows[skip : skip + highest - lowest]
                )

    def whole(self) -> torch.Tensor:
        """A copy of the loaded bytes: shape [nbytes], uint8, on the tensor's device."""
        copy = torch.empty(self.nbytes, dtype=torch.uint8, device=self.tensor.device)
        self.copy_to(copy)
        return copy

    def _matrix(self, number: int) -> torch.Tensor:
        """One matrix of the stack as loaded: rows and columns, a view where possible."""
        tensor = self.tensor.detach()
        turned = tensor.dim() > 1 and not tensor.is_contiguous()
        # torch_npu converts a storage, so give it the tensor that fills the storage.
        base = tensor.transpose(-1, -2) if turned else tensor
        if blocked_format(base) is None:
            matrix = _matrices(base)[number]
        elif _is_stack(base):
            matrix = _converted(base, number)
        else:
            matrix = _matrices(torch.ops.npu.npu_format_cast(base, _ND))[number]
        return matrix.transpose(-1, -2) if turned != self.is_swapped else matrix


def _matrices(tensor: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor]:
    """The matrices of a contiguous tensor in plain order, as views. A vector is one row."""
    if tensor.dim() == 1:
        return (tensor.view(1, -1),)
    return tensor.flatten(0, -3) if tensor.dim() > 2 else (tensor,)


def _is_stack(tensor: torch.Tensor) -> bool:
    """Whether the matrices of a blocked tensor can be converted one by one."""
    return tensor.dim() > 2 and tensor.element_size() <= _NARROW_BYTES


def _raw_matrix_bytes(tensor: torch.Tensor) -> int:
    """Bytes of one matrix of a blocked stack as it lies in memory, padding included."""
    return tensor.untyped_storage().nbytes() // math.prod(tensor.shape[:-2])


def _converted(stack: torch.Tensor, number: int) -> torch.Tensor:
    """One matrix of a blocked stack as rows and columns."""
    matrix = torch.ops.npu.empty_with_format(
        stack.shape[-2:],
        dtype=stack.dtype,
        device=stack.device,
        acl_format=torch.ops.npu.get_npu_format(stack),
    )
    nbytes = _raw_matrix_bytes(stack)
    raw_bytes(matrix).copy_(raw_bytes(stack)[number * nbytes : (number + 1) * nbytes])
    return cast("torch.Tensor", torch.ops.npu.npu_format_cast(matrix, _ND))


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
