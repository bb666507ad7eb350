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
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from netloader.errors import TransportError
from netloader.system.threads import begin_with
from netloader.transport import acl, cudart, sealed
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


TRANSPORTS: Final = ("hccl", "nccl", "tcp", "gloo", "tcp-sealed")
"""Names of all backends that an operator may choose from."""

OWN_PORTS: Final = ("hccl", "nccl", "gloo")
"""Backends that open ports of their own, which nobody here chooses, beside the rendezvous."""

FASTEST: Final[Mapping[str, Callable[[], Backend]]] = {"npu": _hccl, "cuda": _nccl}
"""The collective library of each kind of device, by torch's device type. Making a backend may
import a device's library, so a backend is made only when a device of its kind needs it."""


BESIDE_CAPTURES: Final[Mapping[str, Callable[[], object]]] = {
    "npu": acl.copy_beside_captures,
    "cuda": cudart.copy_beside_captures,
}
"""What each of our threads that uses a device of a kind calls first, so that none spoils a graph
that the model captures meanwhile."""


def backends_for(
    device_type: str,
    allowed: Sequence[str] | None = None,
    fastest: Mapping[str, Callable[[], Backend]] = FASTEST,
    *,
    confined: bool = False,
) -> tuple[Backend, ...]:
    """The backends for devices of this torch type, best first, no two of one name. Threads of ours
    that begin from now on leave captures of the model's graphs alone.

    `allowed`: names of `TRANSPORTS`, best first; None: all, or when `confined` those that need no
    port but the rendezvous's, because others could not reach any other. Raises `TransportError` if
    this machine lacks what one of them needs, or if none of them carries bytes of such a device.
    """
    prepare = BESIDE_CAPTURES.get(device_type)
    if prepare is not None:
        begin_with(prepare)
    lacks = sealed.missing()
    if lacks is not None and allowed is not None and SealedBackend.name in allowed:
        raise TransportError(f"{SealedBackend.name}: {lacks}")
    if confined and allowed is None:
        allowed = [name for name in TRANSPORTS if name not in OWN_PORTS]
    gloo = GlooBackend()
    found: list[Backend] = [
        *_own(device_type, fastest),
        TcpBackend(),
        gloo if device_type == "cpu" else StagedBackend(gloo),
    ]
    if lacks is None:
        found.append(SealedBackend())
    if allowed is None:
        return tuple(found)
    chosen = tuple(one for name in allowed for one in found if one.name == name)
    if not chosen:
        names = ", ".join(one.name for one in found)
        raise TransportError(f"bytes of {device_type} devices travel by {names} here")
    return chosen


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
