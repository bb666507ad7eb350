"""HCCL as vLLM Ascend's own Netloader uses it: whole tensors in order, then a barrier.

The other end is torch_npu's `ProcessGroupHCCL`, which knows neither our turns nor our line
(`hccl.py`). This end plays such a group with HCCL's own functions: a communicator for the tensors
and another for the barrier, which torch_npu makes out of a sum over both ranks. The lower rank
leaves in the store how its HCCL is found.

HCCL waits for the other end of a communicator up to `HCCL_CONNECT_TIMEOUT`, and an operation that
this end never joins blocks its stream. So communicators form in a thread that can be left behind,
one operation is under way at a time, and its end is asked for, never waited for. `gone` tells that
the other end has left: both ends keep the connection open by which they met.

The barrier costs a second communicator with HCCL's large buffers. Upstream's end waits in it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport import acl
from netloader.transport.called import first_line
from netloader.transport.hccl_forming import Forming
from netloader.transport.hccl_link import HcclLink, HcclOperation
from netloader.transport.npu import MIB, NpuDevice, buffer_mib, current_device

_log = logging.getLogger(__name__)

_TENSORS, _BARRIER = "0:1", "0"
"""Keys in the store of the two communicators: torch_npu names one for a pair after its ranks, and
counts the others."""

_VERSION: Final = "version_key"
"""Where torch_npu's other end looks for the version of its peer, and warns if it is not its own."""

_BUFFERS: Final = {_TENSORS: ("P2P_HCCL_BUFFSIZE", 20), _BARRIER: ("HCCL_BUFFSIZE", 200)}
"""The variables that size the buffers of each communicator, and torch_npu's defaults in MiB."""

_SPARE_MIB: Final = 128
"""Device memory to leave free beside HCCL's buffers."""

_TYPES: Final = {
    torch.int8: 0,
    torch.int16: 1,
    torch.int32: 2,
    torch.float16: 3,
    torch.float32: 4,
    torch.int64: 5,
    torch.uint64: 6,
    torch.uint8: acl.UINT8,
    torch.bool: acl.UINT8,
    torch.uint16: 8,
    torch.uint32: 9,
    torch.float64: 10,
    torch.bfloat16: 11,
    torch.float8_e4m3fn: 15,
    torch.float8_e5m2: 16,
}
"""HCCL's number of each type, as torch_npu's end gives it: both ends must name the same."""

_PAUSE_S: Final = 0.001

_LAST_WORDS_S: Final = 1.0
"""Seconds in which an operation may still end after the other end has left: it may have sent all
of it before."""

_not_released: list[object] = []
"""Memory that a broken communicator may still touch: it is never freed."""


class HcclCarrier:
    """Opens such groups on the device that is current where this is made."""

    def __init__(self) -> None:
        self._device = current_device()
        self.device = self._device.torch

    def open(
        self, store: Store, rank: int, timeout_s: float, gone: Callable[[], bool]
    ) -> HcclOrderedGroup:
        """Blocks no longer than it takes to look: the ends meet in their first operation, which may
        take `timeout_s`. Raises `TransportError` when HCCL's buffers would not fit, or the device
        has no stream left."""
        self._device.use()
        self._check_memory()
        try:
            return HcclOrderedGroup(self._device, _StoreRendezvous(store, rank, timeout_s), gone)
        except acl.AclError as error:
            raise TransportError(f"no HCCL group: {error}") from None

    def _check_memory(self) -> None:
        needed = sum(2 * buffer_mib(*variable) for variable in _BUFFERS.values())
        free = self._device.free_bytes() // MIB
        if free < needed + _SPARE_MIB:
            raise TransportError(
                f"device {self._device.index} has {free} MiB free, and a transfer with vLLM "
                f"Ascend's own Netloader takes {needed} MiB for HCCL's buffers beside {_SPARE_MIB} "
                "MiB to spare: lower gpu_memory_utilization or HCCL_BUFFSIZE"
            )


class _StoreRendezvous:
    """Where the two ends of a communicator find each other."""

    def __init__(self, store: Store, rank: int, timeout_s: float) -> None:
        self._store = store
        self.rank = rank
        self.timeout_s = timeout_s

    def form(self, key: str) -> acl.Communicator:
        """Blocks until the other end is there. Raises `AclError`, and `RuntimeError` when the store
        does."""
        if self.rank == 0:
            root = acl.root_info()
            self._store.set(key, root)  # type: ignore[arg-type]  # The stub knows only text.
            self._store.set(_VERSION, "netloader")
        else:
            root = bytes(self._store.get(key))
        return acl.Communicator(root, self.rank, buffer_mib(*_BUFFERS[key]))


class HcclOrderedGroup:
    """One end. Belongs to one thread, but for `close`."""

    def __init__(
        self, device: NpuDevice, rendezvous: _StoreRendezvous, gone: Callable[[], bool]
    ) -> None:
        """Raises `AclError`."""
        self._device = device
        self._rendezvous = rendezvous
        self._gone = gone
        self._lock = threading.Lock()  # Guards the fields below.
        self._link = HcclLink()
        self._why: str | None = None
        self._under_way: tuple[HcclOperation, torch.Tensor] | None = None
        self._closed = False
        self._tensors: acl.Communicator | None = None  # The first operation makes it.

    def beside_the_model(self) -> None:
        self._device.step_beside_the_model()

    def send(self, data: torch.Tensor, timeout_s: float) -> None:
        self._move(True, data, timeout_s)

    def recv(self, data: torch.Tensor, timeout_s: float) -> None:
        self._move(False, data, timeout_s)

    def barrier(self, timeout_s: float) -> None:
        communicator = self._form(_BARRIER)
        with _in_words("the barrier"), self._device.beside_the_model():
            one = torch.ones(1, dtype=torch.float32).to(self._device.torch)
            self._run(
                lambda: self._link.add_up(communicator, one.data_ptr(), self._device.mark()),
                one,
                timeout_s,
            )

    def close(self, reason: str = "") -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._why = self._why or reason or "the group is closed"
            self._device.use()
            self._take_down()

    def _move(self, sends: bool, data: torch.Tensor, timeout_s: float) -> None:
        kind = _TYPES.get(data.dtype)
        if kind is None:
            raise TransportError(f"HCCL has no type for {data.dtype}")
        if self._tensors is None:
            self._tensors = self._form(_TENSORS)
        communicator, peer = self._tensors, 1 - self._rendezvous.rank
        elements = (data.data_ptr(), data.numel(), kind)
        with _in_words(f"{'send' if sends else 'receive'} of {data.nbytes} bytes"):
            self._run(
                lambda: self._link.move(communicator, sends, elements, peer, self._device.mark()),
                data,
                timeout_s,
            )

    def _form(self, key: str) -> acl.Communicator:
        """Raises `TransportError`."""
        self._check()
        forming = Forming(self._device, lambda: self._rendezvous.form(key))
        made = forming.result(self._over, time.monotonic() + self._rendezvous.timeout_s)
        with self._lock:
            if self._why is None:
                self._link.add(made)
                return made
        made.destroy()
        raise TransportError(self._why)

    def _run(
        self, begin: Callable[[], HcclOperation], data: torch.Tensor, timeout_s: float
    ) -> None:
        """Begin an operation on `data`, and wait until it has ended. Raises `AclError` and
        `TransportError`."""
        deadline = time.monotonic() + timeout_s
        last_moment: float | None = None
        with self._lock:
            self._check()
            operation = begin()
            self._under_way = operation, data
        while not self._has_ended(operation):
            now = time.monotonic()
            if last_moment is None and self._gone():
                last_moment = now + _LAST_WORDS_S
            if last_moment is not None and now > last_moment:
                raise TransportError("the other end has left")
            if now > deadline:
                raise TransportError(f"timed out after {timeout_s:g} s")
            time.sleep(_PAUSE_S)

    def _has_ended(self, operation: HcclOperation) -> bool:
        with self._lock:
            self._check()
            if not operation.has_ended():
                return False
            self._under_way = None
            return True

    def _over(self) -> str | None:
        """Why no further communicator will form."""
        return self._why or ("the other end has left" if self._gone() else None)

    def _check(self) -> None:
        if self._why is not None:
            raise TransportError(self._why)

    def _take_down(self) -> None:
        """End what is under way, and the communicators. The caller holds the lock."""
        left, self._under_way = self._under_way, None
        try:
            released = self._link.break_off([] if left is None else [left[0]])
        except acl.AclError as error:
            _log.error("HCCL did not break off: %s", error)
            released = False
        if not released and left is not None:
            _log.error("HCCL may still touch %d bytes: they stay reserved", left[1].nbytes)
            _not_released.append(left)


@contextlib.contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Say of an error what has failed. Raises `TransportError`."""
    try:
        yield
    except (RuntimeError, TransportError) as error:
        raise TransportError(f"{what}: {first_line(error)}") from None
