"""How the two ranks of a session find each other.

The source binds a socket and has its store listening before the replica is told the address: no
race for a free port, and no connection attempt that comes too early and then sits out torch's
retry back-off of 0.3 to 0.7 s. Keys carry a secret that travels on the control connection
only, so nobody else who reaches the port can take part.
"""

from __future__ import annotations

import logging
import secrets
import socket
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, TCPStore

from netloader.transport.base import REPLICA, SOURCE, Backend, Group, TransportError

_log = logging.getLogger(__name__)

_ARRIVED = "arrived"
"""Key that says the replica has come, or that waiting for it has no point any more."""


class Rendezvous:
    """The source's side of one session's meeting point."""

    def __init__(self, host: str, timeout_s: float) -> None:
        """Listen on a free port of `host`. Raises `OSError` when the address is not ours."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind((host, 0))
            listener.listen(2)
            self.port: int = listener.getsockname()[1]
            self.host = host
            self.secret = secrets.token_hex(16)
            self._timeout = timedelta(seconds=timeout_s)
            self._waiting = False
            self._store: TCPStore | None = TCPStore(
                host,
                self.port,
                is_master=True,
                timeout=self._timeout,
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )

    def open(self, backend: Backend) -> Group:
        """Wait for the replica and form the group. Raises `TransportError`."""
        self._waiting = True
        store = self._store
        if store is None:
            raise TransportError("the rendezvous is closed")
        meeting = PrefixStore(self.secret, store)
        try:
            meeting.wait([_ARRIVED], self._timeout)
        except RuntimeError:
            raise TransportError(
                f"the replica did not come within {self._timeout.total_seconds():g} s"
            ) from None
        self._waiting = False
        if self._store is None:
            raise TransportError("the rendezvous was closed")
        return backend.open(meeting, SOURCE, self.host, self._timeout)

    def close(self) -> None:
        """Stop listening, and stop waiting for the replica, from any thread. Idempotent.

        A group, once formed, does not need the store.
        """
        store, self._store = self._store, None
        if store is None or not self._waiting:
            return
        try:
            # A connection of its own: the waiting thread holds the lock of the other one.
            # torch's stub of TCPStore lacks clone.
            PrefixStore(self.secret, store.clone()).set(_ARRIVED, "")  # type: ignore[attr-defined]
        except RuntimeError as error:
            _log.debug("the rendezvous closes by its timeout only: %s", error)


def join(host: str, port: int, secret: str, backend: Backend, timeout_s: float) -> Group:
    """The replica's side: meet the source at its rendezvous. Raises `TransportError`."""
    timeout = timedelta(seconds=timeout_s)
    try:
        # The store's client goes on trying for twice the timeout where a plain socket is refused.
        socket.create_connection((host, port), timeout_s).close()
        store = TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)
        meeting = PrefixStore(secret, store)
        meeting.set(_ARRIVED, "")
        mine = _address_towards(host, port)
    except (RuntimeError, OSError) as error:
        raise TransportError(f"the rendezvous {host}:{port} does not answer: {error}") from None
    return backend.open(meeting, REPLICA, mine, timeout)


def _address_towards(host: str, port: int) -> str:
    """This machine's address as `host` sees it. Connecting UDP sends nothing: it picks a route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])
