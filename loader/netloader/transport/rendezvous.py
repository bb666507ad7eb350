"""How the two ranks of a session find each other.

The source listens before the replica is told the address, so there is no race for a free port, and
no connection attempt comes too early. Connections are read side by side (`arrivals.py`), so
strangers delay nobody. The connection that proves the session's secret becomes the store
(`store.py`) over which a backend opens the group. Further ones become the group's own, if it takes
any. Once the group is formed, nothing listens any more.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from netloader.errors import BlockedPort, TransportError
from netloader.transport.arrivals import Arrivals
from netloader.transport.base import REPLICA, SOURCE, Backend, Group
from netloader.transport.reach import blocked, unanswered
from netloader.transport.store import LANE, PROOF, AuthenticatedStore, left
from netmesh import Door, listen

STRANGER_S: Final = 1.0
"""Seconds that a connection may take to prove that it is the replica's. Loopback, and any network
that weights travel on, need a thousandth of that."""

_BACKLOG: Final = 64


def _listen(host: str) -> socket.socket:
    """Raises `OSError` when the address is not ours."""
    return listen(host, None, None, backlog=_BACKLOG)


class Rendezvous:
    """The source's side of one session's meeting point."""

    def __init__(
        self,
        host: str,
        timeout_s: float,
        *,
        stranger_s: float = STRANGER_S,
        listen: Callable[[str], socket.socket] = _listen,
    ) -> None:
        """Listen, with `listen`, for a replica that reaches this side at `host`. Raises `OSError`
        when the address is not ours.

        `timeout_s` bounds `open`; `stranger_s` bounds the time that each connection may take there.
        """
        self._listener = listen(host)
        self._door = Door(self._listener)
        self.port: int = self._listener.getsockname()[1]
        self.host = host
        self.secret = secrets.token_hex(16)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # Guards the fields below.
        self._closed = False
        self._opening = False
        self._arrivals = Arrivals(self._listener, self.secret, stranger_s)

    def open(self, backend: Backend) -> Group:
        """Wait for the replica and form the group. Raises `TransportError`."""
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            if self._closed:
                raise _closed()
            self._opening = True
        try:
            store = self._meet(backend.connections, deadline)
            try:
                return _open(backend, store, SOURCE, store.host, self._timeout_s)
            finally:
                store.close()
        finally:
            with self._lock:
                self._opening = False
            self._arrivals.close()
            self.close()

    def close(self) -> None:
        """Stop listening, and stop waiting for the replica, from any thread. Idempotent.

        A group, once formed, does not need the rendezvous.
        """
        with self._lock:
            self._closed = True
            if self._opening:
                # A thread that is about to wait on a closed socket would wait on the next one with
                # its number.
                _wake(self._listener)
                self._arrivals.wake()
            else:
                self._door.close()

    def _meet(self, lanes: int, deadline: float) -> AuthenticatedStore:
        try:
            return self._arrivals.meet(lanes, deadline)
        except TimeoutError:
            raise TransportError(f"the replica did not come within {self._timeout_s:g} s") from None
        except OSError as error:
            if self._closed:
                raise _closed() from None
            raise TransportError(f"the rendezvous cannot take the replica in: {error}") from None


def join(
    host: str,
    port: int,
    secret: str,
    backend: Backend,
    timeout_s: float,
    connect_s: float | None = None,
) -> Group:
    """The replica's side: meet the source at its rendezvous, where the first connection may take
    `connect_s` (None: as long as everything). Raises `TransportError`, and `BlockedPort` when the
    connect gets no answer."""
    deadline = time.monotonic() + timeout_s
    answer_by = deadline if connect_s is None else min(deadline, time.monotonic() + connect_s)
    store = AuthenticatedStore(_connect(host, port, answer_by), secret, REPLICA, deadline)
    try:
        store.set(PROOF, "")
        for number in range(backend.connections):
            store.lanes.append(_connect(host, port, deadline))
            AuthenticatedStore(store.lanes[-1], secret, REPLICA, deadline).set(LANE, str(number))
        return _open(backend, store, REPLICA, store.host, timeout_s)
    finally:
        store.close()


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), left(deadline))
    except OSError as error:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if unanswered(error):
            raise BlockedPort(blocked("data", address, error)) from None
        raise TransportError(f"the rendezvous {address} does not answer: {error}") from None


def _open(
    backend: Backend, store: AuthenticatedStore, rank: int, host: str, timeout_s: float
) -> Group:
    try:
        return backend.open(store, rank, host, timedelta(seconds=timeout_s))
    except TransportError:
        raise
    except (RuntimeError, OSError) as error:
        raise TransportError(f"the rendezvous broke: {error}") from None


def _wake(one: socket.socket) -> None:
    """Make the thread that waits on a socket, or is about to, see that waiting is over."""
    with contextlib.suppress(OSError):  # Not connected, or closed already: nobody waits on it.
        one.shutdown(socket.SHUT_RDWR)


def _closed() -> TransportError:
    return TransportError("the rendezvous was closed")
