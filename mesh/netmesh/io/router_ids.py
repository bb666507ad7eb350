"""ROUTERs whose next connection's id nobody can guess.

libzmq numbers a ROUTER's connections from a number that it takes from C's `rand` when the socket is
made. Nobody seeds `rand`, so the number would be the same in every process. A client may name an id
of its own, of any bytes. If a client has named the id whose turn comes next, libzmq ends the
process: `routing_socket_base_t::add_out_pipe` (libzmq 4.3.5, src/socket_base.cpp) asserts that the
id is new.
"""

from __future__ import annotations

import ctypes
import secrets
from typing import Final

import zmq

_GIVEN: Final = b"\0"
"""First byte of the ids that a ROUTER gives (libzmq, src/router.cpp)."""


def new_router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """A ROUTER that begins to number its connections at random. Raises ZMQError."""
    ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))
    router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    return router


def is_named(connection: bytes) -> bool:
    """Whether the client has named this id itself, which no client of ours does."""
    return not connection.startswith(_GIVEN)
