"""Runs a function of CPU tensors on device tensors.

The function runs once the current stream has finished its earlier work, and ends before the call
returns. Like an operator on an NPU, it does not wait for other streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from fakecann import record
from fakecann.hostview import host_view, is_on_device, plain, to_device

KEY = "PrivateUse1"
"""torch's name for what a device outside of torch implements."""


def run(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    device: torch.device | None = None,
) -> Any:
    """Call `function` with host views and bring what is new in its result to the device.

    `device` is where a result goes when no argument tells.
    """
    record.ran(name)
    found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    device = next((tensor.device for tensor in found if is_on_device(tensor)), device)
    if device is None or device.index is None:
        device = torch.device("npu", torch.npu.current_device())
    torch.npu.current_stream(device).synchronize()
    given: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def down(tensor: torch.Tensor) -> torch.Tensor:
        view = host_view(plain(tensor))
        given[id(view)] = (tensor, view)
        return view

    def up(tensor: torch.Tensor) -> torch.Tensor:
        return given[id(tensor)][0] if id(tensor) in given else to_device(tensor, device)

    host_args, host_kwargs = tree_map_only(torch.Tensor, down, (tuple(args), dict(kwargs)))
    # The CPU kernel must not meet `with torch.device("npu")` of whoever called.
    with torch._C.DisableTorchFunction():
        return tree_map_only(torch.Tensor, up, function(*host_args, **host_kwargs))
