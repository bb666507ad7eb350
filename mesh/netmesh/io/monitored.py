"""What libzmq says of a socket that is monitored.

pyzmq has a parser as well. It comes with asyncio, whose import takes longer than a look at a mesh
(`python -X importtime`: 35 ms).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

_EVENT: Final = struct.Struct("=Hi")
"""The first frame, in the order of the machine: zmq_socket_monitor(3). The second one is the
address."""


class Monitored(NamedTuple):
    """One event of a socket."""

    event: int
    """One of `zmq.EVENT_...`."""
    value: int
    """What it means depends on the event: mostly a descriptor or an errno."""


def parse(frames: Sequence[bytes]) -> Monitored:
    """Raises `struct.error` for frames that no monitor sends."""
    return Monitored(*_EVENT.unpack(frames[0]))
