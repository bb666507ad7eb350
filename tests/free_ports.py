"""Ports that were free a moment ago.

They lie below those that the kernel hands out by itself: one of these would often be somebody's
outgoing connection by the time that a test listens on it.
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from typing import Final

DRAFT_DISTANCE: Final = 10_000
"""From the port of a target's listener to that of its draft's."""

_FIRST, _LAST = 11_000, 22_700
"""A port of a draft, 10,000 above, is still below 32,768, where the kernel's begin."""

_MESHES: Final = range(17_900, 18_100)
"""Where members of a mesh look for each other with nothing set."""

_draw: Final = random.SystemRandom()
"""pytest-randomly would give every process the same sequence."""


def free_port(*distances: int, host: str = "127.0.0.1") -> int:
    """A free port, with free ones at these distances above."""
    while True:
        port = _draw.randrange(_FIRST, _LAST)
        wanted = [port, *(port + distance for distance in distances)]
        with ExitStack() as stack, suppress(OSError):
            for number in wanted:
                if number in _MESHES:
                    break
                stack.enter_context(socket.socket()).bind((host, number))
            else:
                return port
