"""The transports that `pair --backend` compares with Gloo, and whose memory they carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netloader.transport import Backend, TransportError, backends_for
from netloader.transport.bounce import Staging
from netloader.transport.gloo import GlooBackend
from netloader.transport.staged import StagedBackend
from netloader.transport.tcp import TcpBackend

DEVICES: Final[Mapping[str, str]] = {
    "tcp": "cpu",
    "tcp-sealed": "cpu",
    "staged": "cpu",
    "staged-gloo": "cpu",
    "hccl": "npu",
}
"""By transport. Staged ones are measured on host memory that plays a device: a second buffer and a
real copy on either side, beside plain Gloo without them."""


STAGED: Final = frozenset({"staged", "staged-gloo"})


def backends_of(transport: str) -> tuple[Backend, Backend]:
    """Gloo and this transport. Raises `TransportError` where the machine lacks it."""
    if transport in STAGED:
        staged: TcpBackend | StagedBackend = StagedBackend(GlooBackend(), stages=lambda data: True)
        if transport == "staged":
            staged = TcpBackend(Staging(stages=lambda data: True))
        staged.name = transport
        return GlooBackend(), staged
    found = {one.name: one for one in backends_for(DEVICES[transport])}
    if transport not in found:
        raise TransportError(f"this machine has no {transport}")
    return found["gloo"], found[transport]
