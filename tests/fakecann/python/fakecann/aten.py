"""torch's own operators on the emulated device: each by torch's CPU kernel.

Memory, views, storages, streams and plain copies stay torch_npu's: they are what is under test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from fakecann.fallback import KEY, run
from fakecann.hostview import is_fractal, is_on_device

Implementation = Callable[..., Any]

STAY: Final = frozenset(
    [
        *("empty.memory_format", "empty_strided", "empty_like", "new_empty_strided"),
        *("empty_with_format", "unsafe_empty_with_format", "empty_with_swapped_memory"),
        *("as_strided", "as_strided_", "view", "_reshape_alias", "unfold", "_lazy_clone"),
        *("view_as_real", "view_as_complex", "set_", "set_.source_Storage", "set_.source_Tensor"),
        *("set_.source_Storage_storage_offset", "is_set_to", "resize_", "resize_as_"),
        *("is_pinned", "_pin_memory", "record_stream", "_local_scalar_dense"),
        *("_copy_from_and_resize", "copy_memory_"),
    ]
)
"""Operators that compute nothing. torch_npu implements them on CANN's memory and streams."""

_MIX: Final = ("copy_", "_to_copy", "_copy_from", "index", "_index_put", "_unsafe_index")
"""First words of operators that take tensors of the host beside those of the device."""

_library: torch.library.Library | None = None
"""Keeps the registrations: they end with the object."""


def install() -> None:
    """Register an implementation for each operator that torch_npu has one for."""
    global _library
    _library = torch.library.Library("aten", "IMPL")
    special: dict[str, Implementation] = {
        "copy_": _stays_if("copy_", _is_plain_copy),
        "clone": _stays_if("clone", _is_plain_clone),
        "contiguous": _stays_if("contiguous", _is_plain_clone),
        "_to_copy": _to_copy,
    }
    for full_name in torch._C._dispatch_get_all_op_names():
        name = full_name.removeprefix("aten::")
        if name == full_name or name in STAY:
            continue
        if not torch._C._dispatch_has_kernel_for_dispatch_key(full_name, KEY):
            continue
        base, _, overload = name.partition(".")
        packet = getattr(torch.ops.aten, base, None)
        operator = getattr(packet, overload or "default", None)
        if operator is not None:
            implementation = special.get(name) or _by_cpu(operator, base, overload)
            _library.impl(name, implementation, KEY, allow_override=True)


def _by_cpu(operator: torch._ops.OpOverload, base: str, overload: str = "") -> Implementation:
    """An implementation by the CPU kernel of the same operator."""
    arguments = torch._C._get_schema(f"aten::{base}", overload).arguments
    aliases = [argument.alias_info for argument in arguments]
    writes = [alias is not None and alias.is_write for alias in aliases]
    mixes = base.startswith(_MIX)

    def implementation(*args: Any, **kwargs: Any) -> Any:
        _check(operator, args, writes, mixes)
        # A number that stands for a tensor arrives as the number.
        tensors = tuple(
            torch.tensor(value)
            if isinstance(value, (bool, int, float)) and str(argument.type) == "Tensor"
            else value
            for value, argument in zip(args, arguments, strict=False)
        )
        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cpu":
            kwargs["generator"] = None
        target = None if device is None else torch.device(device)
        return run(str(operator), operator, tensors, kwargs, target)

    return implementation


def _check(
    operator: torch._ops.OpOverload, args: tuple[Any, ...], writes: list[bool], mixes: bool
) -> None:
    """Refuse calls that would fail on an NPU and would work here."""
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    if not mixes and any(is_on_device(tensor) for tensor in tensors):
        for tensor in tensors:
            if not is_on_device(tensor) and tensor.dim() > 0:
                raise RuntimeError(f"fakecann: {operator} got tensors of the host and the device")
    for value, written in zip(args, writes, strict=False):
        if written and isinstance(value, torch.Tensor) and is_fractal(value):
            raise NotImplementedError(f"fakecann: {operator} into FRACTAL_NZ is not emulated")


def _stays_if(name: str, is_plain: Callable[..., bool]) -> Implementation:
    """torch_npu's own kernel for what `is_plain` says is no computation."""
    kernel = torch.library.get_kernel(f"aten::{name}", KEY)
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, KEY))
    by_cpu = _by_cpu(getattr(torch.ops.aten, name).default, name)

    def implementation(*args: Any, **kwargs: Any) -> Any:
        if is_plain(*args, **kwargs):
            return kernel.call_boxed(keys, *args, **kwargs)
        return by_cpu(*args, **kwargs)

    return implementation


def _is_plain_copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> bool:
    return (
        target.dtype == source.dtype
        and target.size() == source.size()
        and target.is_contiguous()
        and source.is_contiguous()
    )


def _is_plain_clone(tensor: torch.Tensor, **_: Any) -> bool:
    return tensor.is_contiguous()


def _to_copy(tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """`to`: a plain copy as a copy, so that it stays asynchronous; else by the CPU kernel."""
    target = torch.device(kwargs.get("device") or tensor.device)
    dtype = kwargs.get("dtype") or tensor.dtype
    non_blocking = bool(kwargs.get("non_blocking"))
    pinned = bool(kwargs.get("pin_memory"))
    on_host = tensor
    if is_on_device(tensor) and (dtype != tensor.dtype or not tensor.is_contiguous()):
        # Converted where it lies, then copied.
        options = {"dtype": dtype, "memory_format": kwargs.get("memory_format")}
        operator = torch.ops.aten._to_copy.default
        on_host = run(str(operator), operator, (tensor,), options)
    elif dtype != tensor.dtype:
        on_host = tensor.to(dtype)
    if on_host is not tensor and on_host.device == target:
        return on_host
    made = torch.empty_like(on_host, device=target, pin_memory=pinned and target.type == "cpu")
    return made.copy_(on_host, non_blocking=non_blocking)
