"""How the two ranks of a session find each other.

The source binds a socket and has its store listening before the replica is told the address: no
race for a free port, and no connection attempt that comes too early and then sits out torch's
retry back-off (FACTS: 0.3 to 0.7 s). Keys carry a secret that travels on the control connection
only, so nobody else who reaches the port can take part.
"""

from __future__ import annotations

import secrets
import socket
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, TCPStore

from netloader.transport.base import REPLICA, SOURCE, Backend, Group, TransportError


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
        if self._store is None:
            raise TransportError("the rendezvous is closed")
        return backend.open(PrefixStore(self.secret, self._store), SOURCE, self.host, self._timeout)

    def close(self) -> None:
        """Stop listening. The group, once formed, does not need the store."""
        self._store = None


def join(host: str, port: int, secret: str, backend: Backend, timeout_s: float) -> Group:
    """The replica's side: meet the source at its rendezvous. Raises `TransportError`."""
    timeout = timedelta(seconds=timeout_s)
    try:
        store = TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)
    except RuntimeError as error:
        raise TransportError(f"the rendezvous {host}:{port} does not answer: {error}") from None
    return backend.open(PrefixStore(secret, store), REPLICA, _address_towards(host, port), timeout)


def _address_towards(host: str, port: int) -> str:
    """This machine's address as `host` sees it. Connecting UDP sends nothing: it picks a route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])
