"""How the two ranks of a session find each other.

A process group needs a store in which each rank leaves its address for the other. torch's TCPStore
would do, but it shows every key to whoever connects, so a secret in its keys keeps nobody out
(docs/adr/0004). Ours is one TCP connection on which both sides send their entries, each
authenticated with the session's secret. That travels on the control connection only and never here:
who does not know it can leave no entry that counts.

The source listens before the replica is told the address: no race for a free port, and no
connection attempt that comes too early. Nothing listens any more once the group is formed.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport.base import REPLICA, SOURCE, Backend, Group

_STRANGER_S = 1.0
"""How long somebody who connects may take to prove that he is the replica. Loopback and any network
that weights travel on need a thousandth; a stranger costs the replica this much waiting."""

_MAX_ENTRY = 64 * 1024
"""Bytes of one entry. An address is 200 bytes, NCCL's root information 128, HCCL's 4,108."""

_MAX_ENTRIES = 64
_HEAD = struct.Struct("!I32s")
"""Length of key and value, then HMAC-SHA256."""

_PROOF = "proof"


class Rendezvous:
    """The source's side of one session's meeting point."""

    def __init__(self, host: str, timeout_s: float) -> None:
        """Listen on a free port of `host`. Raises `OSError` when the address is not ours."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.bind((host, 0))
            self._listener.listen(16)
        except OSError:
            self._listener.close()
            raise
        self.port: int = self._listener.getsockname()[1]
        self.host = host
        self.secret = secrets.token_hex(16)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # Guards what follows.
        self._closed = False
        self._opening = False
        self._peer: socket.socket | None = None

    def open(self, backend: Backend) -> Group:
        """Wait for the replica and form the group. Raises `TransportError`."""
        deadline = time.monotonic() + self._timeout_s
        with self._lock:
            if self._closed:
                raise _closed()
            self._opening = True
        try:
            entries = self._meet(deadline)
            return _open(backend, entries, SOURCE, self.host, self._timeout_s)
        finally:
            with self._lock:
                self._opening = False
            self.close()

    def close(self) -> None:
        """Stop listening, and stop waiting for the replica, from any thread. Idempotent.

        A group, once formed, does not need the rendezvous.
        """
        with self._lock:
            self._closed = True
            for one in (self._listener, self._peer):
                if one is not None:
                    _wake(one)
                    # Whoever is about to wait on it would wait on what gets its number next.
                    if not self._opening:
                        one.close()

    def _meet(self, deadline: float) -> _Entries:
        while True:
            try:
                self._listener.settimeout(_left(deadline))
                peer, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    raise _closed() from None
                raise TransportError(
                    f"the replica did not come within {self._timeout_s:g} s"
                ) from None
            with self._lock:
                self._peer = peer
                if self._closed:
                    raise _closed()
            entries = _Entries(peer, self.secret, SOURCE, deadline)
            try:
                entries.receive(min(deadline, time.monotonic() + _STRANGER_S))
                return entries
            except TransportError:
                # Not the replica: it may still come.
                with self._lock:
                    self._peer = None
                    peer.close()
                    if self._closed:
                        raise _closed() from None


def join(host: str, port: int, secret: str, backend: Backend, timeout_s: float) -> Group:
    """The replica's side: meet the source at its rendezvous. Raises `TransportError`."""
    deadline = time.monotonic() + timeout_s
    try:
        peer = socket.create_connection((host, port), timeout_s)
    except OSError as error:
        raise TransportError(f"the rendezvous {host}:{port} does not answer: {error}") from None
    try:
        mine = str(peer.getsockname()[0])
        entries = _Entries(peer, secret, REPLICA, deadline)
        entries.set(_PROOF, "")
        return _open(backend, entries, REPLICA, mine, timeout_s)
    finally:
        peer.close()


def _open(backend: Backend, entries: _Entries, rank: int, host: str, timeout_s: float) -> Group:
    try:
        return backend.open(entries, rank, host, timedelta(seconds=timeout_s))
    except TransportError:
        raise
    except (RuntimeError, OSError) as error:
        raise TransportError(f"the rendezvous broke: {error}") from None


class _Entries(Store):
    """What torch asks of a store, for two ranks: mine are sent, the peer's are waited for."""

    def __init__(self, peer: socket.socket, secret: str, rank: int, deadline: float) -> None:
        super().__init__()
        self._peer = peer
        self._secret = secret.encode()
        self._rank = rank
        self._deadline = deadline
        self._mine: dict[str, bytes] = {}
        self._theirs: dict[str, bytes] = {}

    def set(self, key: str, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        body = struct.pack("!H", len(key)) + key.encode() + data
        try:
            self._peer.settimeout(_left(self._deadline))
            self._peer.sendall(_HEAD.pack(len(body), self._mac(self._rank, body)) + body)
        except OSError as error:
            raise TransportError(f"the peer left the rendezvous: {error}") from None
        self._mine[key] = data

    def get(self, key: str) -> bytes:
        while key not in self._mine and key not in self._theirs:
            self.receive(self._deadline)
        return self._mine[key] if key in self._mine else self._theirs[key]

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        for key in keys:
            self.get(key)

    def check(self, keys: Sequence[str]) -> bool:
        return all(key in self._mine or key in self._theirs for key in keys)

    def has_extended_api(self) -> bool:
        return False

    def receive(self, deadline: float) -> None:
        """Take one entry of the peer. Raises `TransportError` when none comes, or not from it."""
        length, mac = _HEAD.unpack(self._read(_HEAD.size, deadline))
        if length > _MAX_ENTRY or len(self._theirs) >= _MAX_ENTRIES:
            raise TransportError("somebody sent too much to the rendezvous")
        body = self._read(length, deadline)
        if length < 2 or not hmac.compare_digest(mac, self._mac(1 - self._rank, body)):
            raise TransportError("somebody without the session's secret is at the rendezvous")
        end = 2 + struct.unpack("!H", body[:2])[0]
        self._theirs[body[2:end].decode()] = body[end:]

    def _read(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            try:
                self._peer.settimeout(_left(deadline))
                part = self._peer.recv(size - len(data))
            except TimeoutError:
                raise TransportError("the peer went silent at the rendezvous") from None
            except OSError as error:
                raise TransportError(f"the peer left the rendezvous: {error}") from None
            if not part:
                raise TransportError("the peer left the rendezvous")
            data += part
        return data

    def _mac(self, rank: int, body: bytes) -> bytes:
        """The rank is part of it: what a side said must not come back to it as the other's."""
        return hmac.digest(self._secret, bytes([rank]) + body, "sha256")


def _left(deadline: float) -> float:
    """Seconds until then. Raises `TimeoutError` when there are none: who sends a byte at a time
    would otherwise get a little more for each."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _wake(one: socket.socket) -> None:
    """Let whoever waits on a socket, or will, see that it is over."""
    with contextlib.suppress(OSError):  # Not connected, or closed already: nobody waits on it.
        one.shutdown(socket.SHUT_RDWR)


def _closed() -> TransportError:
    return TransportError("the rendezvous was closed")
