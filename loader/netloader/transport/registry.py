"""Which backends carry bytes of devices of which kind, best first.

First comes the device's own library, if this machine has it, then Gloo, by way of host memory where
the device is not the host. So every device has a backend, and two kinds of devices have Gloo in
common.

The `memory` backend is not among them. Both its ends live in one process, and every vLLM worker is
a process of its own. An operator who could select `memory` would get a worker that no peer can
reach.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from netloader.errors import TransportError
from netloader.transport.base import Backend
from netloader.transport.gloo import GlooBackend
from netloader.transport.staged import StagedBackend

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
    device_type: str, fastest: Mapping[str, Callable[[], Backend]] = FASTEST
) -> tuple[Backend, ...]:
    """The backends for devices of this torch type, best first: at least one, and no two of one
    name."""
    if device_type == "cpu":
        return (GlooBackend(),)
    staged = StagedBackend(GlooBackend())
    make = fastest.get(device_type)
    if make is None:
        return (staged,)
    try:
        return (make(), staged)
    except (ImportError, OSError, RuntimeError, TransportError) as error:
        _log.warning("%s devices have only %s: %s", device_type, staged.name, error)
        return (staged,)
