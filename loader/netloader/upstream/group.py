"""The process group of one upstream transfer: how its two ends meet, and what they do in it.

Upstream's replica is rank 0. It hosts a `TCPStore` on the port that its JOIN names, and the source,
rank 1, comes there. Keys in the store begin with the replica's address as the source told it, so
both ends must take the text from JOIN_ACK. Whole tensors follow, one after the other in the order
of `named_parameters`, and then a barrier.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol

import torch
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from netloader.errors import TransportError

_log = logging.getLogger(__name__)

REPLICA_RANK: Final = 0
SOURCE_RANK: Final = 1

_RANKS: Final = 2

_AGAIN_S: Final = 0.02
"""Seconds until the replica's port is tried again: its store is there within milliseconds."""

_LEAST_S: Final = 0.1
"""Least time for one attempt."""


class OrderedGroup(Protocol):
    """One end. Belongs to one thread, but for `close`."""

    def beside_the_model(self) -> None:
        """Let what the calling thread does on the device from now on run beside the model, not in
        its stream."""

    def send(self, data: torch.Tensor, timeout_s: float) -> None:
        """Send a contiguous tensor and wait until it has left. Raises `TransportError`."""

    def recv(self, data: torch.Tensor, timeout_s: float) -> None:
        """Receive into a contiguous tensor and wait until it is full. Raises `TransportError`."""

    def barrier(self, timeout_s: float) -> None:
        """Wait until the other end is here too. Raises `TransportError`."""

    def close(self, reason: str = "") -> None:
        """Leave, from any thread: `send`, `recv` and `barrier` raise. Idempotent.

        Once this has returned, no tensor is read or written any more.
        """


class OrderedCarrier(Protocol):
    """A way to carry whole tensors."""

    device: torch.device
    """Where tensors must lie."""

    def open(
        self, store: Store, rank: int, timeout_s: float, gone: Callable[[], bool]
    ) -> OrderedGroup:
        """Join the group of this store. `gone` tells whether the other end has left, as far as
        anybody knows; it may be called from any thread. Raises `TransportError`."""


def carrier_for(device_type: str) -> OrderedCarrier | None:
    """Upstream's way to carry tensors of the current device; None where it has none."""
    if device_type != "npu":
        return None
    try:
        from netloader.transport.hccl_ordered import HcclCarrier

        return HcclCarrier()
    except (ImportError, OSError, RuntimeError) as error:
        _log.warning("no transfers with vLLM Ascend's own Netloader: %s", error)
        return None


def meet_replica(
    name: str, port: int, group_name: str, timeout_s: float, gone: Callable[[], bool]
) -> Store:
    """The source's side: the store that a replica hosts on `port` of the host in `name`.

    Raises `TransportError`, soon after `gone` says that nobody will come.
    """
    host, deadline = name.partition(":")[0], time.monotonic() + timeout_s
    _wait_for(host, port, deadline, gone)
    left_s = max(_LEAST_S, deadline - time.monotonic())
    try:
        store = TCPStore(host, port, _RANKS, False, timedelta(seconds=left_s))
    except RuntimeError as error:
        raise TransportError(
            f"the replica's store on {host}:{port} cannot be reached: {_first_line(error)}"
        ) from None
    return _prefixed(store, host, port, group_name)


def meet_source(listener: socket.socket, name: str, group_name: str, timeout_s: float) -> Store:
    """The replica's side: host a store on `listener`, and wait there for the source.

    Takes over `listener`. Raises `TransportError`.
    """
    host, port = name.partition(":")[0], int(listener.getsockname()[1])
    own = str(listener.getsockname()[0])
    try:
        store = TCPStore(
            own,
            port,
            _RANKS,
            True,
            timedelta(seconds=timeout_s),
            master_listen_fd=listener.detach(),
        )
    except RuntimeError as error:
        raise TransportError(
            f"the source did not come to {own}:{port} within {timeout_s:g} s: {_first_line(error)}"
        ) from None
    return _prefixed(store, host, port, group_name)


def _wait_for(host: str, port: int, deadline: float, gone: Callable[[], bool]) -> None:
    """Wait until somebody listens there. `TCPStore` would try for its whole time, whatever happens,
    and then print a trace."""
    while True:
        try:
            with socket.create_connection((host, port), max(_LEAST_S, deadline - time.monotonic())):
                return
        except OSError as error:
            if gone():
                raise TransportError("the replica has left") from None
            if time.monotonic() > deadline:
                raise TransportError(
                    f"the replica's store on {host}:{port} cannot be reached: {error}"
                ) from None
        time.sleep(_AGAIN_S)


def _prefixed(store: Store, host: str, port: int, group_name: str) -> Store:
    return PrefixStore(f"tcp://{host}:{port}/{group_name}/", store)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
