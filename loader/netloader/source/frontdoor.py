"""One port for two kinds of replicas: ours speak ZeroMQ, upstream's send one JSON object.

A first byte of 0xff begins a ZeroMQ greeting, and a brace begins a JSON object. Both kinds of
replicas speak first, so the door says nothing until it has heard one. It carries ZeroMQ's bytes to
and from the listener behind it, and hands a whole JSON object over together with its connection.

Strangers cannot hold the door. Those who have not yet said what they are share a limited number of
places, and the oldest of them leaves when a new one comes. A JSON object must be whole within a
time and a size. One thread does all this, and nothing makes it wait: it reads from one side only
what the other side has room for.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from netloader.system import affinity
from netloader.upstream import messages

_log = logging.getLogger(__name__)

_ZEROMQ: Final = b"\xff"
_JSON: Final = b"{"

_READ: Final = 64 * 1024
_TICK_S: Final = 0.1
"""Seconds between two looks at the time limits."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """What strangers may take."""

    strangers: int = 64
    """Connections that have not said anything, or not a whole JSON object. Honest replicas speak
    within a round trip, so 64 places last for hundreds of them a second."""

    carried: int = 512
    """ZeroMQ connections at once: 64 sessions, as many that ask, and their retries."""

    patience_s: float = 3.0
    """Seconds in which a stranger must have said what it wants. ZeroMQ's handshake has as long."""

    flush_s: float = 1.0
    """Seconds that the last bytes to one side may take after the other side has hung up."""

    buffered: int = 1 << 20
    """Bytes that wait for one side of a carried connection."""


@dataclass(eq=False, slots=True)
class _Guest:
    """Somebody whose kind is not known yet."""

    end: socket.socket
    address: tuple[str, int]
    until: float
    said: bytes = b""


@dataclass(eq=False, slots=True)
class _Half:
    """One direction's reader and the other's writer."""

    end: socket.socket
    peer: _Half | None = None
    waiting: bytearray = field(default_factory=bytearray)
    """Bytes to send to this end."""
    finished: bool = False
    """Whether this end has hung up."""
    watched: int = 0


@dataclass(eq=False, slots=True)
class _Carried:
    """A ZeroMQ connection from outside, and the one to the listener that goes with it."""

    outer: _Half
    inner: _Half
    until: float | None = None
    """When to give up flushing, once one end has hung up."""

    @property
    def halves(self) -> tuple[_Half, _Half]:
        return self.outer, self.inner


class FrontDoor:
    """Owns a listening socket, and the thread that accepts on it."""

    def __init__(
        self,
        listener: socket.socket,
        behind: tuple[str, int],
        receive: Callable[[socket.socket, tuple[str, int], bytes], None],
        limits: DoorLimits | None = None,
    ) -> None:
        """Carry ZeroMQ's connections to `behind`. `receive` gets a connection, the address of its
        other end, and the JSON object that came over it. It is called by the door's thread, must
        not wait, and owns the connection from then on."""
        self._listener = listener
        self._behind = behind
        self._receive = receive
        self._limits = limits or DoorLimits()
        self._guests: dict[socket.socket, _Guest] = {}
        self._carried: dict[_Carried, None] = {}
        self._refused = 0
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{affinity.OURS}door", daemon=True)
        for one in (listener, self._wake_reader):
            one.setblocking(False)
        self._deaf = True
        self._listen()
        self._selector.register(self._wake_reader, selectors.EVENT_READ, lambda: None)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end all connections that the door still owns. Idempotent."""
        self._closing.set()
        with contextlib.suppress(OSError):  # Full or closed: the thread wakes anyway.
            self._wake_writer.send(b"\0")
        self._thread.join()

    def _run(self) -> None:
        affinity.step_aside(background=True)
        try:
            while not self._closing.is_set():
                ready = self._selector.select(_TICK_S if self._busy() else None)
                self._listen()
                for key, _ in ready:
                    key.data()
                self._expire(time.monotonic())
        finally:
            self._end_all()

    def _busy(self) -> bool:
        ending = any(one.until is not None for one in self._carried)
        return self._deaf or bool(self._guests) or ending

    def _listen(self) -> None:
        """Accept connections, also again after a failure and a pause."""
        if self._deaf:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            self._deaf = False

    def _end_all(self) -> None:
        for guest in list(self._guests.values()):
            self._dismiss(guest)
        for carried in list(self._carried):
            self._end(carried)
        self._selector.close()
        for one in (self._listener, self._wake_reader, self._wake_writer):
            one.close()

    # Guests

    def _accept(self) -> None:
        try:
            end, address = self._listener.accept()
        except OSError as error:
            # Out of descriptors, or the caller has gone again. The kernel keeps the others.
            _log.debug("a connection could not be accepted: %s", error)
            self._selector.unregister(self._listener)
            self._deaf = True
            return
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while len(self._guests) >= self._limits.strangers:
            self._dismiss(next(iter(self._guests.values())))
        guest = _Guest(end, address[:2], time.monotonic() + self._limits.patience_s)
        self._guests[end] = guest
        self._selector.register(end, selectors.EVENT_READ, lambda: self._hear(guest))

    def _hear(self, guest: _Guest) -> None:
        if guest.end not in self._guests:
            return  # Dismissed by an earlier event of the same round.
        try:
            data = guest.end.recv(messages.MAX_QUESTION + 1 - len(guest.said))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._dismiss(guest)
            return
        guest.said += data
        if guest.said[:1] == _ZEROMQ:
            self._forget(guest)
            self._carry(guest)
        elif guest.said[:1] != _JSON or len(guest.said) > messages.MAX_QUESTION:
            self._dismiss(guest)
        elif guest.said[-1:] in b"} \r\n" and messages.is_whole(guest.said):
            self._forget(guest)
            self._hand_over(guest)

    def _hand_over(self, guest: _Guest) -> None:
        try:
            self._receive(guest.end, guest.address, guest.said)
        except Exception:  # noqa: BLE001
            # One stranger's words must not close the door to everybody.
            _log.exception("what %s said could not be received", guest.address[0])
            guest.end.close()

    def _forget(self, guest: _Guest) -> None:
        self._selector.unregister(guest.end)
        del self._guests[guest.end]

    def _dismiss(self, guest: _Guest) -> None:
        self._forget(guest)
        guest.end.close()

    def _expire(self, now: float) -> None:
        for guest in [guest for guest in self._guests.values() if now >= guest.until]:
            self._dismiss(guest)
        late = [one for one in self._carried if one.until is not None and now >= one.until]
        for carried in late:
            self._end(carried)

    # Carried connections

    def _carry(self, guest: _Guest) -> None:
        if len(self._carried) >= self._limits.carried:
            self._refused += 1
            if self._refused & (self._refused - 1) == 0:  # The 1st, 2nd, 4th, 8th ... time.
                _log.warning(
                    "%d connections are open: one more, from %s, was refused (%d so far)",
                    len(self._carried),
                    guest.address[0],
                    self._refused,
                )
            guest.end.close()
            return
        family = socket.AF_INET6 if ":" in self._behind[0] else socket.AF_INET
        try:
            inner = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            _log.debug("a connection could not be carried: %s", error)
            guest.end.close()
            return
        inner.setblocking(False)
        inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The listener is in this process, so the kernel answers at once. An error comes with the
        # first read.
        inner.connect_ex(self._behind)
        outer_half, inner_half = _Half(guest.end), _Half(inner)
        outer_half.peer, inner_half.peer = inner_half, outer_half
        carried = _Carried(outer_half, inner_half)
        self._carried[carried] = None
        inner_half.waiting += guest.said
        self._move(carried)

    def _move(self, carried: _Carried) -> None:
        """Move what can be moved in both directions, and watch for what cannot."""
        if carried not in self._carried:
            return
        try:
            for half in carried.halves:
                self._read(half)
                self._write(half)
            # What was read from the inner end can go out now.
            self._write(carried.outer)
        except OSError:
            self._end(carried)
            return
        if carried.outer.finished or carried.inner.finished:
            if not any(half.waiting and not half.finished for half in carried.halves):
                self._end(carried)
                return
            carried.until = carried.until or time.monotonic() + self._limits.flush_s
        for half in carried.halves:
            self._watch(carried, half)

    def _read(self, half: _Half) -> None:
        """Take what an end says, as far as the other end's buffer has room."""
        assert half.peer is not None
        room = self._limits.buffered - len(half.peer.waiting)
        if half.finished or room <= 0:
            return
        try:
            data = half.end.recv(min(room, _READ))
        except BlockingIOError:
            return
        if data:
            half.peer.waiting += data
        else:
            half.finished = True

    def _write(self, half: _Half) -> None:
        if half.waiting:
            with contextlib.suppress(BlockingIOError):
                del half.waiting[: half.end.send(half.waiting)]

    def _watch(self, carried: _Carried, half: _Half) -> None:
        assert half.peer is not None
        room = len(half.peer.waiting) < self._limits.buffered
        wanted = selectors.EVENT_READ if room and not half.finished else 0
        wanted |= selectors.EVENT_WRITE if half.waiting else 0
        if wanted == half.watched:
            return
        if half.watched and wanted:
            self._selector.modify(half.end, wanted, lambda: self._move(carried))
        elif wanted:
            self._selector.register(half.end, wanted, lambda: self._move(carried))
        else:
            self._selector.unregister(half.end)
        half.watched = wanted

    def _end(self, carried: _Carried) -> None:
        self._carried.pop(carried, None)
        for half in carried.halves:
            if half.watched:
                self._selector.unregister(half.end)
                half.watched = 0
            half.end.close()
