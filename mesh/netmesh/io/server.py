"""Incoming connections: one listening port, one ROUTER on it, the ZAP handler behind it.

The listening socket is ours, and ZeroMQ gets a duplicate. So the port stays open without a gap
while a ROUTER with other keys replaces the present one. In a gap, connections would be refused, and
to all others a refused connection means that this member is dead.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import zmq

from netmesh.address import Address
from netmesh.errors import BindError
from netmesh.io.doorkeeper import Doorkeeper
from netmesh.io.links import harden
from netmesh.io.reactor import Reactor
from netmesh.io.router_ids import is_named, new_router
from netmesh.io.security import SocketSecurity, ZapHandler
from netmesh.ports import PortRange, listen

BACKLOG = 1024
"""Connections that wait to be accepted. A cold start of 2,000 members brings many at once."""

TAKE_S = 15.0
"""Seconds between two attempts to take the well-known port, as often as seeds are asked again."""

_BATCH = 64
"""Messages read before other sockets have their turn."""


class Server:
    """The inbound side of one shell. Belongs to the shell's thread once that thread runs."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        reactor: Reactor,
        security: SocketSecurity,
        counters: Counter[str],
        received: Callable[[bytes, list[bytes]], None],
        log: logging.Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._log = log or logging.getLogger("netmesh")
        self._context = context
        self._reactor = reactor
        self._security = security
        self._counters = counters
        self._received = received
        self._listener: socket.socket | None = None
        self._others: list[socket.socket] = []
        self._missed: Address | None = None
        self._take_at = float("inf")
        self._doorkeeper: Doorkeeper | None = None
        self._router: zmq.Socket[bytes] | None = None
        self._zap: ZapHandler | None = None

    def listen(
        self,
        host: str,
        port: int | None,
        well_known: Sequence[int] = (),
        ports: PortRange | None = None,
    ) -> int:
        """Listen on `host` and `port`; returns the port.

        If `port` is None, listens on the first of `well_known` that is free, else on a free one, of
        `ports` if there are such. As soon as the first of them is free, listens there, too. Raises
        BindError.
        """
        wanted = [port] if port is not None else [*well_known, None]
        try:
            self._listener = _first_free(host, wanted, ports)
        except OSError as error:
            raise BindError(str(Address(host, port or 0)), str(error)) from None
        self._doorkeeper = Doorkeeper(
            self._listener,
            "mesh",
            self._log,
            keyed=self._security.enabled,
            counters=self._counters,
        )
        # Before the ROUTER, because a client that meets no handler is refused and must retry.
        self._zap = ZapHandler(self._context, self._security, self._counters)
        self._reactor.add(self._zap.socket, self._zap.handle)
        self._router = self._make_router(self._listener)
        bound: int = self._listener.getsockname()[1]
        if port is None and well_known and bound != well_known[0]:
            self._missed = Address(host, well_known[0])
            self._take_at = self._clock() + TAKE_S
        return bound

    def rekey(self, security: SocketSecurity) -> None:
        """Serve with other keys from now on.

        All clients are disconnected and must prove a key of `security`. A key that was removed
        opens no connection any more.
        """
        assert self._zap is not None and self._listener is not None
        self._security = security
        self._zap.allow(security)
        self._replace_router(self._listener)

    @property
    def due(self) -> float:
        """When `tend` has something to do."""
        strangers = float("inf") if self._doorkeeper is None else self._doorkeeper.due
        return min(strangers, self._take_at)

    def tend(self, now: float) -> None:
        """Look after strangers and the well-known port, if it is time."""
        if self._doorkeeper is not None and now >= self._doorkeeper.due:
            self._doorkeeper.look()
        if now >= self._take_at:
            self._take_at = now + TAKE_S
            self._take()

    def _take(self) -> None:
        """Listen on the port that was taken at the start, if it is free now.

        Whoever had it is gone, and nobody else would answer at the address of this host's seed.
        """
        assert self._missed is not None
        try:
            listening = _listener(self._missed.host, self._missed.port)
        except OSError:
            return  # still taken
        try:
            self._listen_also(listening)
        except (zmq.ZMQError, OSError):  # no descriptor left; the next time may do
            return
        self._take_at = float("inf")
        self._log.info("mesh: also listening on port %d, which has become free", self._missed.port)

    def move(self, well_known: Sequence[int] = (), ports: PortRange | None = None) -> int:
        """Leave the port for another one of the same host, and return that: the first of
        `well_known` that is free, which a firewall lets through, else a free one, of `ports` if
        there are such.

        Whoever connects to the old port afterwards is refused. All clients are disconnected. Raises
        OSError and ZMQError for lack of descriptors, and has changed nothing then.
        """
        assert self._listener is not None and self._doorkeeper is not None
        left = self._listener
        listening = _first_free(left.getsockname()[0], [*well_known, None], ports)
        try:
            self._replace_router(listening)
        except (zmq.ZMQError, OSError):
            listening.close()
            raise
        self._listener = listening
        self._doorkeeper.also(listening)
        self._doorkeeper.leave(left)
        port: int = listening.getsockname()[1]
        if self._missed is not None and self._missed.port == port:
            self._take_at = float("inf")
        return port

    def _listen_also(self, listening: socket.socket) -> None:
        assert self._router is not None and self._doorkeeper is not None
        try:
            self._bind(self._router, listening)
        except (zmq.ZMQError, OSError):
            listening.close()
            raise
        self._others.append(listening)
        self._doorkeeper.also(listening)

    def reply(self, to: bytes, frames: list[bytes]) -> None:
        """Queue `frames` for the connection `to`; drop them if it is gone or its queue is full."""
        assert self._router is not None
        try:
            self._router.send_multipart([to, *frames], zmq.DONTWAIT)
            self._counters["sent"] += 1
            self._counters["sent_bytes"] += sum(map(len, frames))
        except zmq.Again:
            self._counters["dropped.reply_queue_full"] += 1
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._counters["dropped.reply_peer_gone"] += 1

    def close(self, linger_s: float = 0.0) -> None:
        """Close; `linger_s` bounds how long the context waits for answers to be sent."""
        if self._router is not None:
            self._drop(self._router, linger_s)
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        if self._zap is not None:
            self._reactor.remove(self._zap.socket)
            self._zap.close()

    def _replace_router(self, listener: socket.socket) -> None:
        assert self._router is not None
        old, self._router = self._router, self._make_router(listener)
        self._drop(old)

    def _make_router(self, listener: socket.socket) -> zmq.Socket[bytes]:
        assert self._doorkeeper is not None
        router = new_router(self._context)
        try:
            harden(router)
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._security.apply_server(router)
            events = self._doorkeeper.attend(self._context, router)
            self._bind(router, listener)
            for listening in self._others:
                self._bind(router, listening)
        except (zmq.ZMQError, OSError):  # no descriptor left; an open socket would block `term`
            self._doorkeeper.dismiss(router)
            router.close(linger=0)
            raise
        self._reactor.add(events, self._doorkeeper.look)
        self._reactor.add(router, lambda: self._readable(router))
        return router

    def _bind(self, router: zmq.Socket[bytes], listening: socket.socket) -> None:
        host, port = listening.getsockname()[:2]
        router.setsockopt(zmq.USE_FD, listening.dup().detach())
        router.setsockopt(zmq.IPV6, int(":" in host))
        router.bind(f"tcp://{Address(host, port)}")

    def _drop(self, router: zmq.Socket[bytes], linger_s: float = 0.0) -> None:
        assert self._doorkeeper is not None
        self._reactor.remove(router)
        self._reactor.remove(self._doorkeeper.events(router))
        self._doorkeeper.dismiss(router)
        router.close(linger=int(linger_s * 1000))

    def _readable(self, router: zmq.Socket[bytes]) -> None:
        for _ in range(_BATCH):
            if router is not self._router:
                return  # the last message led to a replacement
            try:
                connection, *frames = router.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if is_named(connection):
                self._counters["dropped.named_id"] += 1
                continue
            self._received(connection, frames)


def _listener(host: str, port: int | None, ports: PortRange | None = None) -> socket.socket:
    made = listen(host, port, ports, backlog=BACKLOG)
    # Two ROUTERs share the socket for a moment. The one that finds its queue empty must not wait.
    made.setblocking(False)
    return made


def _first_free(host: str, wanted: Sequence[int | None], ports: PortRange | None) -> socket.socket:
    """A socket that listens on the first of the ports that is free; None stands for any (`listen`).
    Raises the OSError of the last."""
    for number in wanted[:-1]:
        with suppress(OSError):  # taken
            return _listener(host, number, ports)
    return _listener(host, wanted[-1], ports)
