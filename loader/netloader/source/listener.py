"""The port that a source listens on, across changes of the cluster key.

The listening socket is ours, and ZeroMQ gets a duplicate of it. New keys need a new ROUTER; with
both ROUTERs on one listening socket, no replica is refused in between. The earlier ROUTER stays
while it controls sessions, so a change of keys loses none of them. It cannot stop accepting
(unbinding it would end its connections too), but it opens no more sessions. One I/O thread serves
both, and Linux wakes it for the newest first. A replica that still reaches the earlier ROUTER dials
again (`handshake.py`).

Where replicas of vLLM Ascend's own Netloader may come too, the ROUTERs listen behind a front door,
which tells the two kinds apart (`frontdoor.py`).
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import zmq

from netloader.errors import ListenError
from netloader.protocol import messages
from netloader.source.frontdoor import FrontDoor
from netloader.system import affinity
from netmesh import (
    Descriptors,
    Doorkeeper,
    PortRange,
    SocketSecurity,
    ZapHandler,
    keep_alive,
    listen,
    new_router,
)

_log = logging.getLogger(__name__)

_BACKLOG = 256

_LOOPBACK = "127.0.0.1"

SESSION = 32
"""Descriptors that a session may open: two lanes with a listener, a connection and an event loop
each, the rendezvous, and strangers there. Both ends of an open session have 27 together."""

_QUEUED = 32
"""Messages of one connection that may wait, in each direction. A replica has a few; with the
default of 1,000, one that floods or does not read could take gigabytes."""

_LAST_WORDS_MS = 200
"""How long the last messages on a ROUTER may take to leave."""


@dataclass(frozen=True)
class ControlConnection:
    """The connection of one replica. ROUTERs number their connections independently, so the pair of
    both identifies one."""

    router: zmq.Socket[bytes]
    routing_id: bytes


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a source's ports are bound, and how others see them."""

    bind: str | None = None
    """Address that its ports are bound to; None: the one at which replicas reach it."""
    public_port: int | None = None
    """Port at which replicas reach the listener, where it is published under another one."""
    ports: PortRange | None = None
    """Where its ports are, if no other setting names them; None: anywhere."""

    def listen(self, host: str, port: int | None = None, backlog: int = _BACKLOG) -> socket.socket:
        """Listen for those who reach this source at `host`. Raises `OSError`."""
        return listen(self.bind or host, port, self.ports, backlog=backlog)


class Listener:
    """The sockets of one source. All but the constructor belongs to the source's thread."""

    def __init__(
        self,
        host: str,
        port: int | None,
        security: SocketSecurity,
        handshake_timeout_s: float,
        descriptors: Descriptors | None = None,
        *,
        has_door: bool = False,
        exposure: Exposure = Exposure(),
    ) -> None:
        """Listen for replicas that reach this source at `host`, on any free port when `port` is
        None. With `has_door`, callers wait
        until `open_door`.

        `descriptors` are those of this process. Raises `ListenError` when the port is taken or the
        address is not ours.
        """
        self.host = host
        self.exposure = exposure
        self._handshake_ms = round(handshake_timeout_s * 1000)
        outside = _listen(exposure, host, port)
        self.port: int = exposure.public_port or outside.getsockname()[1]
        self._outside = outside if has_door else None
        self._door: FrontDoor | None = None
        try:
            inside = replace(exposure, bind=None)
            self._socket = _listen(inside, _LOOPBACK, None) if has_door else outside
        except ListenError:
            outside.close()
            raise
        # Two ROUTERs may share the socket: the second to accept must not block until another
        # connection comes.
        self._socket.setblocking(False)
        self._descriptors = descriptors or Descriptors()
        self._doorkeeper = Doorkeeper(
            self._socket,
            "source",
            _log,
            keyed=security.enabled,
            descriptors=self._descriptors,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._security = security
        self._zap: ZapHandler | None = None
        self._retired: list[zmq.Socket[bytes]] = []
        self._watched: dict[zmq.Socket[bytes], zmq.Socket[bytes]] = {}
        """ROUTERs, each with the socket that tells of its strangers."""
        try:
            # ZeroMQ starts its threads here, and they should not run on an inference core.
            self._router = affinity.elsewhere(self._open)
        except zmq.ZMQError as error:
            self.close()
            raise ListenError(f"cannot listen on {self.endpoint}: {error}") from None

    @property
    def endpoint(self) -> str:
        """`host:port` for replicas."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def open_door(self, receive: Callable[[socket.socket, tuple[str, int], bytes], None]) -> None:
        """Let callers in. `receive` gets those who bring a JSON object (`FrontDoor`). Does nothing
        without a door."""
        if self._outside is not None and self._door is None:
            self._door = FrontDoor(self._outside, self._socket.getsockname()[:2], receive)

    def watch(self, readable: object) -> None:
        """Let `wait` also return when `readable` (anything with a `fileno`) becomes readable."""
        self._poller.register(readable, zmq.POLLIN)

    def wait(self, timeout_s: float | None) -> list[tuple[ControlConnection, list[bytes]]]:
        """Sleep until something happens, authenticate new connections, return what replicas
        said. Returns after a second at the latest."""
        said = []
        patience_s = max(0.0, self._doorkeeper.due - time.monotonic())
        patience_s = patience_s if timeout_s is None else min(timeout_s, patience_s)
        for ready, _ in self._poller.poll(int(patience_s * 1000 + 0.999)):
            if self._zap is not None and ready is self._zap.socket:
                self._zap.handle()
            elif ready in self._events:
                self._doorkeeper.look()
            elif ready is self._router or ready in self._retired:
                try:
                    routing_id, *frames = ready.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:  # The sender is gone, and its message with it.
                    continue
                said.append((ControlConnection(ready, routing_id), frames))
        if time.monotonic() >= self._doorkeeper.due:
            self._doorkeeper.look()
        return said

    def lack(self) -> str | None:
        """Why no session should be opened: few descriptors are left. None when there are
        enough."""
        return self._descriptors.lack(SESSION)

    def retired(self, caller: ControlConnection) -> bool:
        """Whether the keys have changed since this connection was opened."""
        return caller.router is not self._router

    def reply(
        self, caller: ControlConnection, message: messages.Message, attachment: bytes | None = None
    ) -> bool:
        """Send a message. Returns False when the replica is gone or does not read."""
        frames: Sequence[bytes] = [caller.routing_id, *messages.encode(message, attachment)]
        try:
            caller.router.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            _log.debug("could not answer a replica: %s", error)
            return False
        return True

    def rekey(self, security: SocketSecurity) -> None:
        """Accept replicas by these keys from now on. Raises `zmq.ZMQError` or `OSError`, and then
        nothing has changed.

        Adding a key costs no connection. When the first key changes or a key goes, connections that
        carry no session are cut, and replicas dial again by a remaining key.
        """
        before, after = self._security.rings, security.rings
        if self._zap is None or not before or not after:
            raise ValueError("a source cannot get its first key, or lose its last, while it runs")
        if before[0] != after[0] or not set(before) <= set(after):
            fresh = self._make_router(security)
            old, self._router = self._router, fresh
            self._retired.append(old)
        self._security = security
        self._zap.allow(security)

    def keep(self, callers: Collection[ControlConnection]) -> None:
        """Close the earlier ROUTERs to which none of these callers is connected."""
        used = {caller.router for caller in callers}
        for router in [router for router in self._retired if router not in used]:
            self._retired.remove(router)
            self._poller.unregister(router)
            self._unwatch(router)
            router.close(linger=_LAST_WORDS_MS)

    def close(self) -> None:
        """Stop listening and end all connections."""
        if self._door is not None:
            self._door.close()
        elif self._outside is not None:
            self._outside.close()
        self._doorkeeper.close()
        for router in self._watched:
            self._doorkeeper.dismiss(router)
        self._context.destroy(linger=0)

    def _open(self) -> zmq.Socket[bytes]:
        # Before the ROUTER: a replica that finds no handler is refused and must come again.
        self._zap = ZapHandler(self._context, self._security)
        self._poller.register(self._zap.socket, zmq.POLLIN)
        return self._make_router(self._security)

    def _make_router(self, security: SocketSecurity) -> zmq.Socket[bytes]:
        router = new_router(self._context)
        try:
            for option, value in (
                (zmq.LINGER, 0),
                (zmq.ROUTER_MANDATORY, 1),
                (zmq.BACKLOG, _BACKLOG),
                (zmq.HANDSHAKE_IVL, self._handshake_ms),
                (zmq.SNDHWM, _QUEUED),
                (zmq.RCVHWM, _QUEUED),
                (zmq.MAXMSGSIZE, messages.MAX_MESSAGE_BYTES),
                (zmq.IPV6, int(":" in self.host)),
                (zmq.USE_FD, self._socket.dup().detach()),
            ):
                router.setsockopt(option, value)
            keep_alive(router)
            security.apply_server(router)
            events = self._doorkeeper.attend(self._context, router)
            # The address is a formality: the ROUTER gets a socket that listens already.
            router.bind(f"tcp://{self.endpoint}")
        except (zmq.ZMQError, OSError):
            self._doorkeeper.dismiss(router)
            router.close(linger=0)
            raise
        self._watched[router] = events
        self._poller.register(events, zmq.POLLIN)
        self._poller.register(router, zmq.POLLIN)
        return router

    @property
    def _events(self) -> Collection[zmq.Socket[bytes]]:
        return self._watched.values()

    def _unwatch(self, router: zmq.Socket[bytes]) -> None:
        self._poller.unregister(self._watched.pop(router))
        self._doorkeeper.dismiss(router)


def _listen(exposure: Exposure, host: str, port: int | None) -> socket.socket:
    """Raises `ListenError`."""
    try:
        return exposure.listen(host, port)
    except OSError as error:
        at = exposure.bind or host
        raise ListenError(f"cannot listen on {at}:{port or '*'}: {error}") from None
