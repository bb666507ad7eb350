"""HCCL: memory of Ascend NPUs.

The group is HCCL's own communicator of two ranks (`acl.py`), not torch_npu's `ProcessGroupHCCL`.
That one cannot live beside a model that serves:

- its watchdog ends the process over an error of any group;
- it lends 32 streams in turn, so the model's groups would get those that our failures have spoilt;
- it passes operations through a queue whose first error silently drops what others queue later;
- it notes its stream in the tensors, so they can never be freed once the stream is gone;
- it destroys a communicator under the GIL, and two that are made at once corrupt its memory.

What HCCL itself does badly, and what is done about it here:

- It makes a communicator with a peer that may be gone, and waits for it for `HCCL_CONNECT_TIMEOUT`.
  So that happens in a thread that can be left behind, and a group is open once a byte has come both
  ways.
- Its operations have no tags, and one that the peer never joins blocks its stream for good. So an
  operation begins only once both ends have posted it (`called.py`), on a stream of the group's own.
- It notices late, or never, that the peer has died. The line between the ends does at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Final

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport import acl
from netloader.transport.base import RANKS, SOURCE, Group, peer_of
from netloader.transport.called import CalledGroup, Operation, first_line
from netloader.transport.hccl_forming import Forming
from netloader.transport.hccl_link import HcclLink, HcclOperation
from netloader.transport.line import Line, open_line
from netloader.transport.npu import MIB, NpuDevice, buffer_mib, current_device

_log = logging.getLogger(__name__)

_ROOT: Final = "netloader/hccl"
"""Key in the store: how the replica's HCCL finds the source's."""

_BUFFER_MIB: Final = 20
"""torch_npu's default of `P2P_HCCL_BUFFSIZE`."""

_BUFFERS: Final = 2
"""Buffers of that size that HCCL keeps on the device for each communicator."""

_SPARE_BYTES: Final = 64 * MIB
"""Device memory to leave free beside the buffers: HCCL also needs room for queues and notifies."""


class _HcclEnd:
    """A communicator on its link."""

    name = "HCCL"

    def __init__(
        self, device: NpuDevice, link: HcclLink, communicator: acl.Communicator, peer: int
    ) -> None:
        self._device = device
        self._link = link
        self._communicator = communicator
        self._peer = peer

    def here(self) -> AbstractContextManager[object]:
        acl.set_device(self._device.index)
        return nullcontext()

    def holds(self, data: torch.Tensor) -> bool:
        return data.device == self._device.torch

    def copy_of(self, data: torch.Tensor) -> torch.Tensor:
        with self._device.beside_the_model():
            return data.to(self._device.torch)

    def mark(self) -> acl.AclEvent:
        return self._device.mark()

    def begin(self, sends: bool, data: torch.Tensor, after: object) -> HcclOperation:
        assert isinstance(after, acl.AclEvent), "a mark of this end"
        elements = (data.data_ptr(), data.numel(), acl.UINT8)
        return self._link.move(self._communicator, sends, elements, self._peer, after)

    def break_off(self, under_way: Sequence[Operation]) -> bool:
        return self._link.break_off([one for one in under_way if isinstance(one, HcclOperation)])


class HcclBackend:
    """Opens HCCL groups on the device that is current where the backend is made."""

    name = "hccl"
    connections = 1

    def __init__(self) -> None:
        self._device = current_device()
        self._told = False

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        deadline = time.monotonic() + timeout.total_seconds()
        peer = RANKS[peer_of(rank)]
        device = self._device
        device.use()
        self._check_memory()
        line = open_line(store, rank)
        link: HcclLink | None = None
        try:
            link = HcclLink()
            if rank == SOURCE:
                root = acl.root_info()
                store.set(_ROOT, root)  # type: ignore[arg-type]  # The stub knows only text.
            else:
                root = bytes(store.get(_ROOT))
            forming = Forming(device, lambda: acl.Communicator(root, rank, _buffer_mib()))
            communicator = forming.result(lambda: _gone(line, peer), deadline)
            link.add(communicator)
        except (RuntimeError, TransportError) as error:
            line.hang_up()
            line.close()
            if link is not None:
                link.break_off(())
            raise TransportError(f"no HCCL group with the {peer}: {first_line(error)}") from None
        group = CalledGroup(_HcclEnd(device, link, communicator, peer_of(rank)), rank, line)
        try:
            self._exchange_a_byte(group, rank, deadline)
        except RuntimeError as error:  # The device has no room for it.
            group.abort(first_line(error))
            raise TransportError(f"no HCCL group with the {peer}: {first_line(error)}") from None
        return group

    def _exchange_a_byte(self, group: CalledGroup, rank: int, deadline: float) -> None:
        """Both ways, so that the first transfer does not find out what does not work. Raises
        `TransportError`."""
        with self._device.beside_the_model():
            mine = torch.tensor([rank], dtype=torch.uint8).to(self._device.torch)
            theirs = torch.empty_like(mine)
            arriving, leaving = group.recv(theirs, 0), group.send(mine, 0)
            for pending in (arriving, leaving):
                pending.wait(max(0.0, deadline - time.monotonic()))
            got = theirs.tolist()
        if got != [peer_of(rank)]:
            group.abort(f"the first byte is {got[0]}, not {peer_of(rank)}")
            raise TransportError(f"HCCL brought {got[0]} as the first byte, not {peer_of(rank)}")

    def _check_memory(self) -> None:
        """Raises `TransportError` when HCCL's buffers would not fit."""
        needed = _BUFFERS * _buffer_mib() * MIB
        free, index = self._device.free_bytes(), self._device.index
        if free < needed + _SPARE_BYTES:
            raise TransportError(
                f"device {index} has {free // MIB} MiB free, and an HCCL group takes "
                f"{needed // MIB} MiB for its buffers beside {_SPARE_BYTES // MIB} MiB to spare: "
                "lower gpu_memory_utilization or P2P_HCCL_BUFFSIZE"
            )
        if not self._told:
            self._told = True
            _log.info(
                "HCCL takes %d MiB of device %d for each session; %d MiB are free",
                needed // MIB,
                index,
                free // MIB,
            )


def _gone(line: Line, peer: str) -> str | None:
    """Whether the peer hangs up, in words. Nothing is said on the line yet."""
    line.peek()
    return f"the {peer} has left" if line.gone else None


def _buffer_mib() -> int:
    return buffer_mib("P2P_HCCL_BUFFSIZE", _BUFFER_MIB)
