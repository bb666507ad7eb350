"""Who comes to a rendezvous: connections are read side by side until the replica is complete.

A connection says who it is by its first entry, which only the replica can make. The others are
closed: after a wrong entry at once, after silence in `stranger_s`. However many of them come, they
cost the replica no time, and this process no more than `_MAX_UNPROVEN` descriptors.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import time
from typing import Final

from netloader.errors import TransportError
from netloader.transport.base import REPLICA, SOURCE
from netloader.transport.store import (
    HEAD_BYTES,
    LANE,
    PROOF,
    AuthenticatedStore,
    body_bytes,
    entry,
    left,
)

_log = logging.getLogger(__name__)

_MAX_UNPROVEN: Final = 32
"""Connections that may be read at once. A further one takes the place of the oldest; a replica's
entry follows its connection within a round trip."""

_MAX_FIRST_ENTRY: Final = 64
"""Bytes of a first entry: a short key and a number."""


class Arrivals:
    """Belongs to the thread that calls `meet`; any thread may call `wake`."""

    def __init__(self, listener: socket.socket, secret: str, stranger_s: float) -> None:
        self._listener = listener
        self._secret = secret
        self._stranger_s = stranger_s
        self._unproven: dict[socket.socket, _Newcomer] = {}
        """In the order in which they came."""
        self._main: socket.socket | None = None
        self._lanes: dict[int, socket.socket] = {}
        self._met = False

    def meet(self, lanes: int, deadline: float) -> AuthenticatedStore:
        """Wait for the replica's store and for its `lanes` further connections.

        Raises `TimeoutError`, `TransportError` when the replica leaves, and `OSError` when the
        listener is shut down.
        """
        self._listener.settimeout(0)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while self._main is None or len(self._lanes) < lanes:
                for key, _ in selector.select(self._patience(left(deadline))):
                    self._hear(selector, key.fileobj, lanes)  # type: ignore[arg-type]
                self._dismiss_silent(selector)
        store = AuthenticatedStore(self._main, self._secret, SOURCE, deadline)
        store.lanes = [self._lanes[number] for number in range(lanes)]
        self._lanes, self._met = {}, True
        return store

    def wake(self) -> None:
        """Make the store that `meet` has returned fail at once."""
        main = self._main
        if main is not None:
            with contextlib.suppress(OSError):  # Closed already: nobody waits on it.
                main.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections that `meet` has not handed out."""
        kept = () if self._met or self._main is None else (self._main,)
        for one in (*self._unproven, *self._lanes.values(), *kept):
            one.close()
        self._unproven.clear()
        self._lanes.clear()

    def _hear(self, selector: selectors.BaseSelector, one: socket.socket, lanes: int) -> None:
        if one is self._listener:
            self._welcome(selector)
        elif one is self._main:
            # It has left, or its next entry is here, which the store will read.
            selector.unregister(one)
            if not _has_bytes(one):
                raise TransportError("the replica left the rendezvous")
        elif one in self._unproven:
            try:
                said = self._unproven[one].read()
            except (OSError, TransportError) as error:
                _log.debug("a stranger at the rendezvous: %s", error)
                self._dismiss(selector, one)
                return
            if said is not None:
                self._take(selector, one, *said, lanes)

    def _welcome(self, selector: selectors.BaseSelector) -> None:
        try:
            one, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # It has gone again.
        if len(self._unproven) >= _MAX_UNPROVEN:
            self._dismiss(selector, next(iter(self._unproven)))
        one.settimeout(0)
        self._unproven[one] = _Newcomer(one, self._secret, time.monotonic() + self._stranger_s)
        selector.register(one, selectors.EVENT_READ)

    def _take(
        self,
        selector: selectors.BaseSelector,
        one: socket.socket,
        key: str,
        value: bytes,
        lanes: int,
    ) -> None:
        """Use a connection of the replica for what it says it is."""
        number = int(value) if key == LANE and value.isdigit() else -1
        if key == PROOF and self._main is None:
            # Stays with the selector: the replica may leave before its other connections are here.
            self._main = one
        elif 0 <= number < lanes and number not in self._lanes:
            self._lanes[number] = one
            selector.unregister(one)
        else:
            self._dismiss(selector, one)
            return
        del self._unproven[one]

    def _patience(self, at_most: float) -> float:
        """Seconds until a stranger has been silent for too long."""
        until = min((newcomer.until for newcomer in self._unproven.values()), default=None)
        return at_most if until is None else max(0.0, min(at_most, until - time.monotonic()))

    def _dismiss_silent(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for one in [one for one, newcomer in self._unproven.items() if newcomer.until <= now]:
            self._dismiss(selector, one)

    def _dismiss(self, selector: selectors.BaseSelector, one: socket.socket) -> None:
        selector.unregister(one)
        del self._unproven[one]
        one.close()


class FirstEntry:
    """The first entry of a connection, from bytes that come in any portions."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._data = b""
        self.needed = HEAD_BYTES
        """Bytes to read next, and not one more: what follows the entry is for the group."""

    def feed(self, part: bytes) -> tuple[str, bytes] | None:
        """Take at most `needed` bytes. Returns key and value once the entry is complete. Raises
        `TransportError` for a stranger's."""
        self._data += part
        self.needed -= len(part)
        if not self.needed and len(self._data) == HEAD_BYTES:
            self.needed = body_bytes(self._data, _MAX_FIRST_ENTRY)
        if self.needed:
            return None
        return entry(self._data[:HEAD_BYTES], self._data[HEAD_BYTES:], self._secret, REPLICA)


class _Newcomer:
    """A connection whose first entry is not complete."""

    def __init__(self, connection: socket.socket, secret: str, until: float) -> None:
        self.until = until
        self._connection = connection
        self._entry = FirstEntry(secret)

    def read(self) -> tuple[str, bytes] | None:
        """Read what is there of the first entry. Returns key and value once it is complete. Raises
        `OSError`, and `TransportError` for a stranger's."""
        while True:
            try:
                part = self._connection.recv(self._entry.needed)
            except BlockingIOError:
                return None
            if not part:
                raise TransportError("it left")
            said = self._entry.feed(part)
            if said is not None:
                return said


def _has_bytes(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
