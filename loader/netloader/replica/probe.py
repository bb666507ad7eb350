"""A look at who listens at an endpoint, over a plain connection, before ZeroMQ dials.

ZeroMQ does not tell why it fails to get through. The first 32 bytes of the other side's greeting
show the cause: another service, a cluster key on one side only, or a source.
"""

from __future__ import annotations

import socket
import time
from typing import Final

from netloader.errors import SourceLost
from netloader.replica.connection import Break, Broken

_SIGNATURE: Final = b"\xff" + bytes(7) + b"\x01\x7f"
_VERSION: Final = b"\x03\x01"
GREETED: Final = 32
"""Bytes of a ZMTP 3 greeting up to the end of the mechanism (ZeroMQ RFC 37)."""


class Unreachable(SourceLost):
    """The endpoint has no source that this worker could talk to."""


def probe(endpoint: str, enabled: bool, timeout_s: float, greeting_timeout_s: float) -> None:
    """Look who is there; `enabled` says whether this worker has a cluster key.

    Raises `Unreachable` when the peer is not a source for this worker, `Broken` when it hangs up.
    """
    host, _, port = endpoint.rpartition(":")
    try:
        # A peer or a list gave the endpoint, so it may not be an address at all.
        plain = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    except (OSError, ValueError, OverflowError) as error:
        raise Unreachable(endpoint, f"cannot connect: {error}") from None
    patience_s = min(timeout_s, greeting_timeout_s)
    with plain:
        try:
            greeting = _greeting(plain, patience_s)
        except TimeoutError:
            raise Unreachable(
                endpoint,
                f"accepts connections but says nothing within {patience_s:.2g} s: either "
                "another service has this port, or the process is stopped",
            ) from None
        except OSError:
            raise Broken(endpoint, Break.CLOSED_EARLY) from None
    if len(greeting) < GREETED and may_be_zeromq(greeting):
        raise Broken(endpoint, Break.CLOSED_EARLY)
    wrong = complaint(greeting, enabled)
    if wrong is not None:
        raise Unreachable(endpoint, wrong)


def _greeting(plain: socket.socket, timeout_s: float) -> bytes:
    """The other side's first bytes: fewer than `GREETED` where these suffice, or where no more
    come.

    Raises `OSError`, also for a peer that says nothing in time.
    """
    until = time.monotonic() + timeout_s
    # Just enough to make the other side send its mechanism before it judges ours.
    plain.sendall(_SIGNATURE + _VERSION[:1])
    greeting = b""
    while len(greeting) < GREETED and may_be_zeromq(greeting):
        plain.settimeout(max(0.001, until - time.monotonic()))
        got = plain.recv(GREETED - len(greeting))
        if not got:
            break
        greeting += got
    return greeting


def may_be_zeromq(greeting: bytes) -> bool:
    """Whether a ZeroMQ greeting can begin like this. The sender may choose bytes 1 to 8 freely."""
    return greeting[:1] in (b"", b"\xff") and (len(greeting) < 10 or greeting[9:10] == b"\x7f")


def complaint(greeting: bytes, enabled: bool) -> str | None:
    """Why a peer with this greeting cannot be a source; None when it may be one."""
    if not may_be_zeromq(greeting):
        return (
            f"does not speak ZeroMQ, it begins with {greeting!r}: another service has this port; "
            "correct the endpoint"
        )
    mechanism = greeting[len(_SIGNATURE + _VERSION) :].rstrip(b"\0")
    if enabled and mechanism != b"CURVE":
        return (
            "has no cluster key, and this worker has one: set MESH_KEY_FILE there to the same key"
        )
    if not enabled and mechanism == b"CURVE":
        return "asks for a cluster key, and this worker has none: set MESH_KEY_FILE to the source's"
    return None
