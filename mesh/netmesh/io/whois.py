"""Who is behind an address: by which of our keys a member there serves, or why it is none of ours.

Gossip cannot tell. A peer with another key is cut off in the handshake, and a member of another
mesh drops what it cannot read. Everything here blocks for seconds: never call it from the gossip
thread.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import zmq

from netmesh.address import Address, numeric_address
from netmesh.core.records import MemberId
from netmesh.io import monitored
from netmesh.io.security import SocketSecurity, fingerprint, load_keys
from netmesh.settings import MeshSettings

ASK_AT_ONCE: Final = 16
"""Members asked in parallel; each costs a thread and some descriptors."""

_SIGNATURE: Final = b"\xff\0\0\0\0\0\0\0\x01\x7f"
_MECHANISM: Final = slice(12, 32)
_GREETED: Final = 32
"""Bytes of ZeroMQ's greeting (RFC 37) until the end of the mechanism's name."""

_EVENTS: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
)


def key_in_use(address: Address, security: SocketSecurity, timeout_s: float = 1.0) -> int | None:
    """Which of our keys (0: the first) the member at `address` serves by; None for another or if it
    does not answer in time. `security` has one key at least."""
    with own_context() as context:
        for ring in range(len(security.rings)):
            if _lets_in(context, address, security, ring, timeout_s):
                return ring
    return None


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many members serve by one key."""

    fingerprint: str | None
    """Of one of our keys. None: by another key, or they did not answer."""

    members: tuple[MemberId, ...]


def count_keys(
    settings: MeshSettings, members: Sequence[MemberId], timeout_s: float = 3.0
) -> tuple[KeyCount, ...]:
    """Who serves by which key: one entry for each of our keys in their order, and a last one for
    the rest.

    Asks all members, some at a time, and each for up to `timeout_s` a key. Raises SettingsError,
    also when there is no key.
    """
    keys = load_keys(settings)
    if not keys:
        raise settings.program.needs_key("MESH_KEY_FILE", "")
    security = SocketSecurity.from_keys(keys, settings.name)

    def ask(member: MemberId) -> int:
        address = numeric_address(member)
        ring = None if address is None else key_in_use(address, security, timeout_s)
        return len(keys) if ring is None else ring

    with ThreadPoolExecutor(ASK_AT_ONCE, thread_name_prefix="netmesh-keys") as pool:
        found = list(zip(members, pool.map(ask, members), strict=True))
    return tuple(
        KeyCount(
            fingerprint(keys[number]) if number < len(keys) else None,
            tuple(member for member, serves in found if serves == number),
        )
        for number in range(len(keys) + 1)
    )


def complaint(
    address: Address,
    security: SocketSecurity,
    answers: Callable[[zmq.Socket[bytes]], bool],
    timeout_s: float = 1.0,
) -> str | None:
    """Why who listens at `address` is no member of this mesh; None if it may be one, or if nobody
    listens.

    `answers` asks over a connected DEALER for what only members of this mesh answer.
    """
    try:
        spoken = mechanism(address, timeout_s)
    except OSError:
        return None
    if not spoken:
        return "is another program's"
    if security.enabled and spoken != b"CURVE":
        return "has no cluster key, and this member has one"
    if not security.enabled and spoken == b"CURVE":
        return "has a cluster key, and this member has none"
    if security.enabled:
        if key_in_use(address, security, timeout_s) is None:
            return "has another cluster key, or belongs to a mesh of another MESH_NAME"
        return None
    with own_context() as context, dealer_of(context, address) as dealer:
        dealer.connect(f"tcp://{address}")
        return None if answers(dealer) else "belongs to a mesh of another MESH_NAME, or is held up"


def mechanism(address: Address, timeout_s: float) -> bytes:
    """How ZeroMQ authenticates there; empty if it is not ZeroMQ. Raises OSError if nobody
    accepts."""
    deadline = time.monotonic() + timeout_s
    plain = socket.create_connection((address.host, address.port), timeout_s)
    greeting = b""
    # Whoever is silent or hangs up did not greet like a member.
    with plain, contextlib.suppress(OSError):
        plain.sendall(_SIGNATURE + b"\x03")
        while len(greeting) < _GREETED:
            plain.settimeout(max(0.001, deadline - time.monotonic()))
            part = plain.recv(_GREETED - len(greeting))
            if not part:
                break
            greeting += part
    if len(greeting) < _GREETED or greeting[:1] != b"\xff" or greeting[9:10] != b"\x7f":
        return b""
    return greeting[_MECHANISM].rstrip(b"\0")


def _lets_in(
    context: zmq.Context[zmq.Socket[bytes]],
    address: Address,
    security: SocketSecurity,
    ring: int,
    timeout_s: float,
) -> bool:
    with dealer_of(context, address) as dealer:
        security.apply_client(dealer, ring)
        events = dealer.get_monitor_socket(_EVENTS)
        try:
            dealer.connect(f"tcp://{address}")
            if not events.poll(int(timeout_s * 1000)):
                return False
            event = monitored.parse(events.recv_multipart()).event
            return event == int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        finally:
            dealer.disable_monitor()  # in this order: the reverse may make libzmq abort
            events.close(linger=0)


@contextlib.contextmanager
def own_context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context of the caller's own, for one question."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        yield context
    finally:
        context.term()


@contextlib.contextmanager
def dealer_of(
    context: zmq.Context[zmq.Socket[bytes]], address: Address
) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER that may connect to `address`, without keys so far."""
    dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    try:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IPV6, int(address.is_v6))
        yield dealer
    finally:
        dealer.close(linger=0)
