"""Which backends carry bytes of devices of which kind, best first.

First comes the device's own library, if this machine has it. Then come those that carry host
memory, by way of which any device's bytes travel: TCP of our own, Gloo for peers that do not have
that yet, and sealed TCP for peers that ask for it. So every device has a backend, and two kinds of
devices have some in common.

The `memory` backend is not among them. Both its ends live in one process, and every vLLM worker is
a process of its own. An operator who could select `memory` would get a worker that no peer can
reach.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from netloader.errors import TransportError
from netloader.transport import sealed
from netloader.transport.base import Backend
from netloader.transport.gloo import GlooBackend
from netloader.transport.staged import StagedBackend
from netloader.transport.tcp import SealedBackend, TcpBackend

_log = logging.getLogger(__name__)


def _hccl() -> Backend:
    from netloader.transport.hccl import HcclBackend

    return HcclBackend()


def _nccl() -> Backend:
    from netloader.transport.nccl import NcclBackend

    return NcclBackend()


FASTEST: Final[Mapping[str, Callable[[], Backend]]] = {"npu": _hccl, "cuda": _nccl}
"""The collective library of each kind of device, by torch's device type. Making a backend may
import a device's library, so a backend is made only when a device of its kind needs it."""


def backends_for(
    device_type: str,
    fastest: Mapping[str, Callable[[], Backend]] = FASTEST,
    *,
    encrypted: bool = False,
) -> tuple[Backend, ...]:
    """The backends for devices of this torch type, best first: at least one, and no two of one
    name.

    `encrypted`: only such that nobody else on the network can read. Raises `TransportError` if this
    machine has none.
    """
    lacks = sealed.missing()
    if encrypted:
        if lacks is not None:
            raise TransportError(lacks)
        return (_for_device(device_type, SealedBackend()),)
    host = [TcpBackend(), GlooBackend(), *([] if lacks else [SealedBackend()])]
    return (
        *_own(device_type, fastest),
        *(_for_device(device_type, backend) for backend in host),
    )


def _for_device(device_type: str, backend: Backend) -> Backend:
    """What carries bytes of a device by a backend that carries host memory."""
    return backend if device_type == "cpu" else StagedBackend(backend)


def _own(device_type: str, fastest: Mapping[str, Callable[[], Backend]]) -> tuple[Backend, ...]:
    """The library of a kind of device, if it has one and this machine has that."""
    make = fastest.get(device_type)
    if make is None:
        return ()
    try:
        return (make(),)
    except (ImportError, OSError, RuntimeError, TransportError) as error:
        _log.warning("bytes of %s devices travel by way of host memory: %s", device_type, error)
        return ()
