"""Outgoing connections: one DEALER for each peer in use. The least recently used closes first.

Watched peers (ring successors) keep their DEALER and have a socket monitor: a broken connection is
the fastest sign of a crash (about a millisecond). The number of links is bounded whatever the size
of the mesh, and so is the number of file descriptors.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from netmesh.address import Locate, numeric_address
from netmesh.core.records import MemberId
from netmesh.io import monitored
from netmesh.io.reactor import Reactor
from netmesh.io.security import SocketSecurity

MAX_LINKS = 40
"""Links at once. A link costs two descriptors (socket and wake-up), and a peer's link to us one.
On average as many come in as go out, so 3 x 40 + monitors + a dozen stays below 200."""

IDLE_S = 30.0
"""An unwatched link that is unused for this long is closed, which also frees its peer's
descriptor."""

SEND_QUEUE = 64
"""Messages that wait for one peer (SNDHWM). More are dropped: stale probes are worthless."""

RECEIVE_QUEUE = 256
"""Messages that wait for us on one connection (RCVHWM). Beyond that, TCP makes the peer wait."""

MAX_FRAME = 1024 * 1024
"""Bytes in one frame (MAXMSGSIZE). If a peer announces more, the connection ends before the bytes
are read."""

MAX_WATCHED = 16
"""Watch links honoured; the protocol asks for four."""

LOOK_S = 0.5
"""How often links to members that have died meanwhile are looked for."""

_BATCH = 64
"""Messages read from one socket before the others have their turn."""

_MONITORED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_LOST = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED)


def harden(socket: zmq.Socket[bytes]) -> None:
    """Set the options of every TCP socket here.

    No heartbeats: with a stalled reader they abort libzmq (libzmq#3937). TCP keepalive notices a
    vanished host instead.
    """
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, MAX_FRAME),
        (zmq.SNDHWM, SEND_QUEUE),
        (zmq.RCVHWM, RECEIVE_QUEUE),
        (zmq.HANDSHAKE_IVL, 3000),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, 3),
        (zmq.TCP_KEEPALIVE_INTVL, 1),
        (zmq.TCP_KEEPALIVE_CNT, 3),
        # Keepalive does nothing while data waits for an acknowledgement, so bound that time as
        # well. A mended cable is then usable after seconds, not after TCP's minutes of back-off.
        (zmq.TCP_MAXRT, 6000),
    ):
        socket.setsockopt(option, value)


@dataclass(slots=True, eq=False)
class _PeerLink:
    member: MemberId
    socket: zmq.Socket[bytes]
    used: float
    ring: int
    monitor: zmq.Socket[bytes] | None = None
    watched: bool = False
    fleeting: bool = False
    """To somebody who is no live member: the connection is made once, and its end ends the link."""
    reported: bool = False
    confirmed: bool = False
    unconfirmed: deque[list[bytes]] = field(default_factory=lambda: deque(maxlen=8))


class Links:
    """The DEALERs of one shell. Belongs to the shell's thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        reactor: Reactor,
        security: SocketSecurity,
        counters: Counter[str],
        *,
        received: Callable[[MemberId, list[bytes]], None],
        lost: Callable[[MemberId], None],
        locate: Locate = numeric_address,
        live: Callable[[MemberId], bool] = lambda member: True,
    ) -> None:
        """`live` tells members from the dead and from strangers, to whom ZeroMQ must not connect
        again and again."""
        self._context = context
        self._reactor = reactor
        self._security = security
        self._counters = counters
        self._received = received
        self._lost = lost
        self._locate = locate
        self._live = live
        self._look_at = 0.0
        self._links: OrderedDict[MemberId, _PeerLink] = OrderedDict()
        self._watched: frozenset[MemberId] = frozenset()
        self._rings: dict[MemberId, int] = {}

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, member: MemberId) -> bool:
        return member in self._links

    def send(self, member: MemberId, frames: list[bytes], now: float) -> None:
        """Queue `frames` for `member`, over a new link if need be; a full queue drops them."""
        link = self._links.get(member)
        if link is None:
            link = self._open(member, now)
            if link is None:
                return
        link.used = now
        self._links.move_to_end(member)
        if not link.confirmed:
            link.unconfirmed.append(frames)
        self._push(link, frames)

    def watch(self, members: frozenset[MemberId], now: float) -> None:
        """Make `members` the complete set of watched peers."""
        if len(members) > MAX_WATCHED:
            self._counters["dropped.watch"] += len(members) - MAX_WATCHED
            members = frozenset(sorted(members)[:MAX_WATCHED])
        for member in self._watched - members:
            link = self._links.get(member)
            if link is not None:
                link.watched = False
                self._settle(link)
        self._watched = members
        for member in members:
            link = self._links.get(member)
            # A monitor reports only changes, so it must exist before the connection does.
            if link is not None and not link.watched:
                if link.monitor is None:
                    self._monitor(link)
                link.watched = True
            elif link is None:
                self._open(member, now)

    def rekey(self, security: SocketSecurity, now: float) -> None:
        """Use other keys from now on. All links are opened anew, the watched ones at once."""
        self._security = security
        self._rings.clear()
        self.close()
        for member in self._watched:
            self._open(member, now)

    def expire(self, now: float) -> None:
        """Close links that were not used for a while, and those to members that have died."""
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for link in list(self._links.values()):
                if not (link.watched or link.fleeting or self._live(link.member)):
                    self._close(link)
        while self._links:
            member, link = next(iter(self._links.items()))
            if now - link.used < IDLE_S:
                return
            if link.watched:
                link.used = now
                self._links.move_to_end(member)
            else:
                self._close(link)

    def close(self, linger_s: float = 0.0) -> None:
        """Close all; `linger_s` bounds how long the context waits for farewells to be sent."""
        for link in list(self._links.values()):
            self._close(link, linger_s)

    def _open(self, member: MemberId, now: float) -> _PeerLink | None:
        address = self._locate(member)
        if address is None:
            self._counters["dropped.bad_address"] += 1
            return None
        self._make_room()
        ring = self._rings.get(member, 0)
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        harden(socket)
        socket.setsockopt(zmq.IPV6, int(address.is_v6))
        fleeting = not self._live(member)
        socket.setsockopt(zmq.RECONNECT_IVL, -1 if fleeting else 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 0 if fleeting else 2000)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, 3000)
        self._security.apply_client(socket, ring)
        link = _PeerLink(
            member, socket, now, ring, watched=member in self._watched, fleeting=fleeting
        )
        # With one key there is no other to try, and no need to keep messages for a second try.
        link.confirmed = len(self._security.rings) < 2
        try:
            if link.watched or link.fleeting or not link.confirmed:
                self._monitor(link)
            socket.connect(f"tcp://{address}")
        except zmq.ZMQError:  # no descriptor left; an open socket would block `Context.term`
            self._unmonitor(link)
            socket.close(linger=0)
            raise
        self._links[member] = link
        self._reactor.add(socket, lambda: self._readable(link))
        self._counters["links.opened"] += 1
        return link

    def _make_room(self) -> None:
        while len(self._links) >= MAX_LINKS:
            victim = next((link for link in self._links.values() if not link.watched), None)
            if victim is None:
                return
            self._close(victim)
            self._counters["links.evicted"] += 1

    def _close(self, link: _PeerLink, linger_s: float = 0.0) -> None:
        del self._links[link.member]
        self._reactor.remove(link.socket)
        self._unmonitor(link)  # before the socket, because libzmq may abort in the other order
        link.socket.close(linger=int(linger_s * 1000))

    def _push(self, link: _PeerLink, frames: list[bytes]) -> None:
        try:
            link.socket.send_multipart(frames, zmq.DONTWAIT)
            self._counters["sent"] += 1
            self._counters["sent_bytes"] += sum(map(len, frames))
        except zmq.Again:
            self._counters["dropped.send_queue_full"] += 1

    def _readable(self, link: _PeerLink) -> None:
        for _ in range(_BATCH):
            try:
                frames = link.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            link.used = max(link.used, 0.0)
            self._received(link.member, frames)
            if self._links.get(link.member) is not link:
                return  # the message made us close this link

    def _monitor(self, link: _PeerLink) -> None:
        monitor = link.socket.get_monitor_socket(_MONITORED)
        link.monitor = monitor
        self._reactor.add(monitor, lambda: self._observed(link))

    def _unmonitor(self, link: _PeerLink) -> None:
        monitor, link.monitor = link.monitor, None
        if monitor is None:
            return
        self._reactor.remove(monitor)
        link.socket.disable_monitor()
        monitor.close(linger=0)

    def _settle(self, link: _PeerLink) -> None:
        """Remove the monitor when nothing needs it any more."""
        needed = link.watched or link.fleeting or not link.confirmed
        if link.monitor is not None and not needed:
            self._unmonitor(link)

    def _observed(self, link: _PeerLink) -> None:
        while link.monitor is not None:
            try:
                event = monitored.parse(link.monitor.recv_multipart(zmq.DONTWAIT)).event
            except zmq.Again:
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                link.confirmed = True
                link.reported = False
                link.unconfirmed.clear()
                self._settle(link)
            elif event in _LOST:
                self._broken(link)
                return
            elif event != zmq.EVENT_CONNECTED:
                self._counters["links.handshake_failed"] += 1
                if not link.confirmed:
                    self._next_ring(link)
                    return

    def _broken(self, link: _PeerLink) -> None:
        """A connection ended or (CLOSED) could not be made. Reported once until the link works."""
        if link.watched and not link.reported:
            link.reported = True
            self._lost(link.member)
        if link.fleeting and self._links.get(link.member) is link:
            self._close(link)
            if link.watched and link.member in self._watched:
                self._open(link.member, link.used)

    def _next_ring(self, link: _PeerLink) -> None:
        """The peer serves with another of our keys: open the link anew with the next key."""
        if len(self._rings) > 4096:
            self._rings.clear()
        self._rings[link.member] = (link.ring + 1) % len(self._security.rings)
        waiting, used = list(link.unconfirmed), link.used
        self._close(link)
        again = self._open(link.member, used)
        if again is not None:
            for frames in waiting:
                again.unconfirmed.append(frames)
                self._push(again, frames)
