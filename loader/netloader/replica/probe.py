"""A look at who listens at an endpoint, over a plain connection, before ZeroMQ dials.

ZeroMQ does not tell why it fails to get through. The first 32 bytes of the other side's greeting
show the cause: another service, a cluster key on one side only, or a source.

A source greets as soon as somebody connects, unless a front door stands before it
(`source/frontdoor.py`). Servers of vLLM Ascend's own Netloader say nothing either, and ZeroMQ's
bytes would end their only thread. So a peer that does not greet first is asked what it is, in
upstream's JSON, which all of them understand.
"""

from __future__ import annotations

import enum
import socket
import time
from typing import Final

from netloader.errors import ProtocolError, SourceLost, Unanswered
from netloader.replica.connection import Break, Broken
from netloader.transport.reach import blocked, unanswered
from netloader.upstream import messages

_SIGNATURE: Final = b"\xff" + bytes(7) + b"\x01\x7f"
_VERSION: Final = b"\x03\x01"
GREETED: Final = 32
"""Bytes of a ZMTP 3 greeting up to the end of the mechanism (ZeroMQ RFC 37)."""

_MAX_PORT: Final = 65_535
"""glibc's resolver takes the lowest 16 bits of a larger number, which is another peer's port."""

GREETS_FIRST_S: Final = 0.1
"""Seconds in which a source greets without being asked: a round trip, mostly."""


class Unreachable(SourceLost):
    """The endpoint has no source that this worker could talk to."""


class Kind(enum.Enum):
    """What listens at an endpoint."""

    ZEROMQ = "ZeroMQ"
    """A source of ours, as far as its first byte tells."""
    UPSTREAM = "vLLM Ascend's own Netloader"


def probe(endpoint: str, enabled: bool, timeout_s: float, greeting_timeout_s: float) -> None:
    """Look who is there; `enabled` says whether this worker has a cluster key.

    Raises `Unreachable` when the peer is not a source for this worker, `Broken` when it hangs up.
    """
    patience_s = min(timeout_s, greeting_timeout_s)
    kind, plain = _look(endpoint, timeout_s, patience_s)
    if kind is Kind.UPSTREAM:
        plain.close()
        raise Unreachable(
            endpoint,
            "is vLLM Ascend's own Netloader, whose weights cannot be verified: UPSTREAM says "
            "whether it is used all the same",
        )
    with plain:
        try:
            greeting = _greeting(plain, patience_s)
        except TimeoutError:
            raise _says_nothing(endpoint, patience_s) from None
        except OSError:
            raise Broken(endpoint, Break.CLOSED_EARLY) from None
    if len(greeting) < GREETED and may_be_zeromq(greeting):
        raise Broken(endpoint, Break.CLOSED_EARLY)
    wrong = complaint(greeting, enabled)
    if wrong is not None:
        raise Unreachable(endpoint, wrong)


def look(endpoint: str, timeout_s: float, patience_s: float) -> Kind:
    """What listens there. Raises `Unreachable`, `Broken` like `probe`; a server of vLLM Ascend's
    own Netloader that is busy with another replica says nothing, like a process that is stopped."""
    kind, plain = _look(endpoint, timeout_s, patience_s)
    plain.close()
    return kind


def _look(endpoint: str, timeout_s: float, patience_s: float) -> tuple[Kind, socket.socket]:
    """The kind of peer, and a connection to it on which nothing was said yet."""
    plain = _connect(endpoint, timeout_s)
    asked = False
    try:
        first = _first_bytes(plain, min(GREETS_FIRST_S, patience_s))
        if first is None:
            asked = True
            plain.sendall(messages.encode_question(messages.Who()))
            first = _first_bytes(plain, patience_s)
        if first is None:
            raise _says_nothing(endpoint, patience_s)
        if not first:
            raise Broken(endpoint, Break.CLOSED_EARLY)
        if first[:1] == b"{":
            said = _whole_answer(plain, time.monotonic() + patience_s)
            match said:
                case messages.MeshHere():
                    pass
                case messages.JoinRefused():
                    return Kind.UPSTREAM, plain
                case _:
                    raise Unreachable(endpoint, _not_zeromq(first))
        elif not may_be_zeromq(first):
            raise Unreachable(endpoint, _not_zeromq(first))
    except OSError:
        plain.close()
        raise Broken(endpoint, Break.CLOSED_EARLY) from None
    except SourceLost:
        plain.close()
        raise
    if asked:
        # ZeroMQ at the other end has taken our question for the beginning of a greeting.
        plain.close()
        plain = _connect(endpoint, timeout_s)
    return Kind.ZEROMQ, plain


def _connect(endpoint: str, timeout_s: float) -> socket.socket:
    """Raises `Unreachable`, or `Unanswered` when the connect gets no answer at all."""
    host, _, port = endpoint.rpartition(":")
    try:
        # A peer or a list gave the endpoint, so it may not be an address at all.
        number = int(port)
        if number > _MAX_PORT:
            raise ValueError(f"there is no port {number}")
        return socket.create_connection((host.strip("[]"), number), timeout_s)
    except OSError as error:
        if unanswered(error):
            raise Unanswered(endpoint, blocked("control", endpoint, error)) from None
        raise Unreachable(endpoint, f"cannot connect: {error}") from None
    except (ValueError, OverflowError) as error:
        raise Unreachable(endpoint, f"cannot connect: {error}") from None


def _says_nothing(endpoint: str, patience_s: float) -> Unreachable:
    return Unreachable(
        endpoint,
        f"accepts connections but says nothing within {patience_s:.2g} s: either another service "
        "has this port, or the process is stopped, or it is vLLM Ascend's own Netloader and busy",
    )


def _first_bytes(plain: socket.socket, timeout_s: float) -> bytes | None:
    """What the other side says first, left to be read again; None when it says nothing in time,
    nothing at all when it hangs up. Raises `OSError`."""
    plain.settimeout(timeout_s)
    try:
        return plain.recv(GREETED, socket.MSG_PEEK)
    except TimeoutError:
        return None


def _whole_answer(plain: socket.socket, until: float) -> messages.UpstreamAnswer | None:
    """The answer to our question; None when it is none. Raises `OSError`."""
    data = b""
    while not messages.is_whole(data):
        plain.settimeout(max(0.001, until - time.monotonic()))
        try:
            more = plain.recv(messages.MAX_ANSWER + 1 - len(data))
        except TimeoutError:
            return None
        if not more or len(data) > messages.MAX_ANSWER:
            return None
        data += more
    try:
        return messages.decode_answer(data)
    except ProtocolError:
        return None


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
        return _not_zeromq(greeting)
    mechanism = greeting[len(_SIGNATURE + _VERSION) :].rstrip(b"\0")
    if enabled and mechanism != b"CURVE":
        return (
            "has no cluster key, and this worker has one: set MESH_KEY_FILE there to the same key"
        )
    if not enabled and mechanism == b"CURVE":
        return "asks for a cluster key, and this worker has none: set MESH_KEY_FILE to the source's"
    return None


def _not_zeromq(said: bytes) -> str:
    return (
        f"does not speak ZeroMQ, it begins with {said!r}: another service has this port; correct "
        "the endpoint"
    )
