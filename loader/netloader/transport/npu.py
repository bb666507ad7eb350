"""Ascend NPUs as torch_npu has them. The only importer of torch_npu."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any, Final

import torch
from torch_npu import npu

from netloader.transport import acl

MIB: Final = 1 << 20


class NpuDevice:
    """What all groups of this process share on one device."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.torch = torch.device("npu", index)
        with npu.device(index):
            self._stream: Any = npu.SyncLaunchStream()
        self.lock = threading.Lock()
        self.left_behind = 0
        """Threads that still wait for peers that never came. Guarded by the lock."""

    def use(self) -> None:
        """Make it the calling thread's device, for torch_npu and for CANN."""
        npu.set_device(self.index)
        acl.set_device(self.index)

    def beside_the_model(self) -> Any:
        """A context in which the calling thread's work runs beside the model's streams."""
        return npu.stream(self._stream)

    def step_beside_the_model(self) -> None:
        """Let all further work of the calling thread on this device run so."""
        self.use()
        npu.set_stream(self._stream)

    def mark(self) -> acl.AclEvent:
        """What the calling thread has given its current stream until now. Raises `AclError`."""
        current: Any = npu.current_stream(self.index)
        return acl.AclEvent(ctypes.c_void_p(current.npu_stream))

    def free_bytes(self) -> int:
        """Memory that nobody has taken."""
        return int(npu.mem_get_info(self.index)[0])


_devices: dict[int, NpuDevice] = {}
_devices_lock = threading.Lock()


def current_device() -> NpuDevice:
    """The calling thread's."""
    index: int = npu.current_device()
    with _devices_lock:
        if index not in _devices:
            _devices[index] = NpuDevice(index)
        return _devices[index]


def buffer_mib(name: str, default: int) -> int:
    """MiB of one of a communicator's buffers, of which HCCL keeps two on the device: what the
    variable says, or torch_npu's default where that is no size."""
    try:
        return max(1, int(os.environ[name]))
    except (KeyError, ValueError):
        return default
