"""Keeps strangers at a ROUTER within a budget: those that have not proved the key, or never will.

libzmq accepts every connection, and gives each some seconds to prove itself. So a flood that sends
nothing could use up all descriptors of the process. A doorkeeper counts, by the ROUTER's own
events. When half of the places are taken, it ends the connections that have been silent for
longest, so that an honest newcomer still gets in. If that is not enough, it shuts the doors, and
also while the process has few descriptors left for anything else.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import zmq

from netmesh.io import monitored
from netmesh.io.descriptors import Descriptors
from netmesh.io.doors import Door
from netmesh.io.newcomers import KEYED_BYTES, KEYLESS_BYTES, Newcomers

SHARE: Final = 8
"""Strangers may use an eighth of all descriptors at one port. A worker has three ports (mesh, and
a control port for target and draft), so most of the descriptors are left however many come."""

LOOK_S: Final = 1.0
"""Seconds between two looks while nothing happens. The process may lack descriptors for reasons
that no event here tells of, and libzmq would then spin."""

BUSY_LOOK_S: Final = 0.05
"""Seconds between two looks while many strangers are there."""

_EVENTS: Final = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_SERIAL: Final = itertools.count()
_OTHER_KEY: Final = 0x11000001
"""The failure of a handshake (ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC) whose two sides have different
keys."""


@dataclass(slots=True)
class Strangers:
    """The connections of one ROUTER. Changes by its events, in their order."""

    unproved: int = 0
    """Connections that stand and have not proved the key."""

    proved: int = 0
    """Connections that stand and have."""

    other_key: int = 0
    """Handshakes that failed because the other side has another key, since the start."""

    _failed: bool = field(default=False, repr=False)

    def saw(self, event: int, value: int = 0) -> None:
        """Take in one event. Every connection is accepted, succeeds or fails, and ends."""
        if event == zmq.EVENT_ACCEPTED:
            self.unproved += 1
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.unproved = max(0, self.unproved - 1)
            self.proved += 1
        elif event == zmq.EVENT_DISCONNECTED:
            # libzmq names no connection, but reports a failure right before the end it leads to.
            if self._failed or self.proved == 0:
                self.unproved = max(0, self.unproved - 1)
            else:
                self.proved -= 1
            self._failed = False
        else:
            self._failed = True
            self.other_key += value == _OTHER_KEY


class Doorkeeper:
    """Watches one or more ROUTERs behind the same doors. Belongs to the thread that owns these."""

    def __init__(
        self,
        listening: socket.socket,
        name: str,
        log: logging.Logger,
        *,
        keyed: bool,
        counters: Counter[str] | None = None,
        descriptors: Descriptors | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`listening` is ours from now on; `name` says in the log whose port it is. `keyed` says
        whether clients have to prove a key."""
        self._doors = [Door(listening)]
        self._proof_bytes = KEYED_BYTES if keyed else KEYLESS_BYTES
        self._name = name
        self._log = log
        self._counters = Counter() if counters is None else counters
        self._descriptors = descriptors or Descriptors()
        self._clock = clock
        self._watched: dict[zmq.Socket[bytes], tuple[zmq.Socket[bytes], Strangers]] = {}
        self._newcomers = {
            door.port: Newcomers(door.port, self._proof_bytes) for door in self._doors
        }
        self._shut = False
        self._due = clock() + LOOK_S

    @property
    def due(self) -> float:
        """When to `look` at the latest."""
        return self._due

    @property
    def unproved(self) -> int:
        """Connections that have not proved the key, at all ROUTERs."""
        return sum(strangers.unproved for _, strangers in self._watched.values())

    def also(self, listening: socket.socket) -> None:
        """Keep another door of the same ROUTERs."""
        door = Door(listening)
        if self._shut:
            door.shut()
        self._doors.append(door)
        self._newcomers[door.port] = Newcomers(door.port, self._proof_bytes)

    def leave(self, listening: socket.socket) -> None:
        """Close a door, for good; its port is no longer ours."""
        port = listening.getsockname()[1]
        for door in [door for door in self._doors if door.port == port]:
            self._doors.remove(door)
            door.close()
        del self._newcomers[port]

    def attend(
        self, context: zmq.Context[zmq.Socket[bytes]], router: zmq.Socket[bytes]
    ) -> zmq.Socket[bytes]:
        """Watch a ROUTER, before it is bound. Returns a socket to poll: `look` when it is
        readable. Raises ZMQError."""
        where = f"inproc://doorkeeper.{next(_SERIAL)}"
        events: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        try:
            events.setsockopt(zmq.LINGER, 0)
            # Without a limit: at a limit, libzmq's thread would wait for ours before it goes on
            # with any connection, and could wait for ever for one that stops watching.
            events.setsockopt(zmq.RCVHWM, 0)
            router.monitor(where, _EVENTS)
            events.connect(where)
        except zmq.ZMQError:
            events.close(linger=0)
            raise
        self._watched[router] = (events, Strangers())
        return events

    def events(self, router: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """What `attend` returned for this ROUTER."""
        return self._watched[router][0]

    def dismiss(self, router: zmq.Socket[bytes]) -> None:
        """Stop watching a ROUTER that is about to be closed. Does nothing for one that is not
        watched."""
        events, _ = self._watched.pop(router, (None, None))
        if events is not None:
            router.disable_monitor()
            events.close(linger=0)

    def look(self) -> None:
        """Take in what has happened, and shut or open the doors."""
        for events, strangers in self._watched.values():
            before = strangers.other_key
            self._take(events, strangers)
            if strangers.other_key > before:
                self._tell_of_other_keys(strangers.other_key - before)
        unproved, most = self.unproved, max(1, self._descriptors.limit() // SHARE)
        if unproved > most // 2:
            self._counters["strangers.ended"] += self._end(unproved - most // 4)
        free, reserve = self._descriptors.free, self._descriptors.reserve
        if not self._shut and (unproved > most or free < reserve):
            self._close_doors(unproved, free)
        elif self._shut and unproved <= most // 2 and free >= reserve + reserve // 4:
            self._shut = False
            for door in self._doors:
                door.open()
        if free == 0:
            # libzmq tries again and again to accept who waits at the door.
            self._counters["strangers.turned_away"] += sum(d.turn_away() for d in self._doors)
        busy = self._shut or unproved > most // 2
        self._due = self._clock() + (BUSY_LOOK_S if busy else LOOK_S)

    def close(self) -> None:
        """Close the doors for good. ROUTERs that are still watched belong to the caller."""
        for door in self._doors:
            door.close()

    def _take(self, events: zmq.Socket[bytes], strangers: Strangers) -> None:
        while True:
            try:
                event, value = monitored.parse(events.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            strangers.saw(event, value)
            for newcomers in self._newcomers.values():
                if event == zmq.EVENT_ACCEPTED:
                    newcomers.came(value, self._clock())
                elif event == zmq.EVENT_DISCONNECTED:
                    newcomers.went(value)

    def _end(self, count: int) -> int:
        ended = 0
        for newcomers in self._newcomers.values():
            ended += newcomers.end(count - ended, self._clock())
        return ended

    def _close_doors(self, unproved: int, free: int) -> None:
        self._shut = True
        for door in self._doors:
            door.shut()
        count = self._counters["strangers.shut_out"] = self._counters["strangers.shut_out"] + 1
        if count & (count - 1) == 0:
            self._log.warning(
                "%s: port %d lets nobody in for a moment (%d times so far): %d connections have "
                "proved nothing, %d file descriptors are free",
                self._name,
                self._doors[0].port,
                count,
                unproved,
                free,
            )

    def _tell_of_other_keys(self, more: int) -> None:
        before = self._counters["strangers.other_key"]
        self._counters["strangers.other_key"] = count = before + more
        if count.bit_length() != before.bit_length():
            self._log.warning(
                "%s: somebody with another cluster key, or another MESH_NAME, connects to port %d "
                "(%d times so far): compare MESH_KEY_FILE and MESH_NAME on all hosts",
                self._name,
                self._doors[0].port,
                count,
            )
