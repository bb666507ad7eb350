"""Device tensors as CPU tensors over the same bytes."""

from __future__ import annotations

import ctypes

import torch
import torch_npu

_FRACTAL_NZ = 29
_ND = 2


def is_on_device(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "npu"


def is_fractal(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in memory as FRACTAL_NZ."""
    return (
        is_on_device(tensor)
        and tensor.numel() > 0
        and int(torch_npu.get_npu_format(tensor)) == _FRACTAL_NZ
    )


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as rows and columns: itself, or a copy on the device that was FRACTAL_NZ."""
    if not is_fractal(tensor):
        return tensor
    tensor = torch_npu.npu_format_cast(tensor, _ND)
    torch.npu.current_stream(tensor.device).synchronize()
    return tensor


def host_view(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over the bytes of a device tensor, with its shape and strides.

    Raises `IndexError` for a tensor that leaves its storage: a CPU kernel would read past the end.
    """
    if not is_on_device(tensor):
        return tensor
    storage = tensor.untyped_storage()
    if tensor.numel() == 0:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    steps = zip(tensor.size(), tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps)
    room = storage.nbytes() // tensor.element_size()
    if last >= room:
        raise IndexError(
            f"fakecann: a tensor of shape {tuple(tensor.size())} needs {last + 1} elements of its "
            f"storage, which has {room}"
        )
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=room)
    return flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A new device tensor with the elements and strides of a CPU tensor."""
    made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
    host_view(made).copy_(tensor)
    return made
