"""Stores: what the two ranks of a group leave for each other while it opens.

A torch process group needs a store in which each rank leaves its address for the other. torch's
TCPStore shows every key to whoever connects, so a secret in its keys keeps nobody out
(docs/adr/0004-rendezvous.md). `AuthenticatedStore` is one TCP connection on which both sides send
their entries, each authenticated with the session's secret, which itself never travels there.
"""

from __future__ import annotations

import hmac
import socket
import struct
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport.base import peer_of

PROOF: Final = "proof"
"""Key of the first entry on the connection that becomes the store."""

LANE: Final = "lane"
"""Key of the only entry on a connection that the group takes over; its value is a number."""

_MAX_ENTRY: Final = 64 * 1024
"""Bytes of one entry. An address is 200 bytes, NCCL's root information 128, HCCL's 4,108."""

_MAX_ENTRIES: Final = 64

_HEAD: Final = struct.Struct("!I32s")
"""Length of key and value, then HMAC-SHA256."""

HEAD_BYTES: Final = _HEAD.size

_KEY_LENGTH: Final = struct.Struct("!H")


class AuthenticatedStore(Store):
    """What torch needs from a store, for two ranks: it sends this rank's entries and waits for the
    peer's.

    Waits end at the store's deadline, whatever timeout torch gives them.
    """

    def __init__(self, peer: socket.socket, secret: str, rank: int, deadline: float) -> None:
        """`peer` is connected to the other rank; `deadline` is a time of `time.monotonic`."""
        super().__init__()
        self.secret = secret
        self.lanes: list[socket.socket] = []
        """Further connections to the peer, in the same order at both ends."""
        self._peer = peer
        self._rank = rank
        self._deadline = deadline
        self._mine: dict[str, bytes] = {}
        self._theirs: dict[str, bytes] = {}

    @property
    def host(self) -> str:
        """This side's address towards the peer."""
        return str(self._peer.getsockname()[0])

    def take_lanes(self, count: int) -> list[socket.socket]:
        """Hand the connections over to a group, which closes them. Raises `TransportError` when
        there are not as many."""
        lanes, self.lanes = self.lanes, []
        if len(lanes) != count:
            self.lanes = lanes
            raise TransportError(f"{len(lanes)} connections came to the rendezvous, not {count}")
        return lanes

    def close(self) -> None:
        """Close the store's connection, and all that no group has taken over."""
        for one in (self._peer, *self.lanes):
            one.close()

    def set(self, key: str, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        name = key.encode()
        body = _KEY_LENGTH.pack(len(name)) + name + data
        try:
            self._peer.settimeout(left(self._deadline))
            self._peer.sendall(_HEAD.pack(len(body), _mac(self.secret, self._rank, body)) + body)
        except TimeoutError:
            raise TransportError("the peer does not read at the rendezvous") from None
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
        """Take one entry from the peer. Raises `TransportError` when no valid entry comes."""
        head = self._read(HEAD_BYTES, deadline)
        if len(self._theirs) >= _MAX_ENTRIES:
            raise TransportError("somebody sent too much to the rendezvous")
        body = self._read(body_bytes(head), deadline)
        key, value = entry(head, body, self.secret, peer_of(self._rank))
        self._theirs[key] = value

    def _read(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            try:
                self._peer.settimeout(left(deadline))
                part = self._peer.recv(size - len(data))
            except TimeoutError:
                raise TransportError("the peer went silent at the rendezvous") from None
            except OSError as error:
                raise TransportError(f"the peer left the rendezvous: {error}") from None
            if not part:
                raise TransportError("the peer left the rendezvous")
            data += part
        return data


def body_bytes(head: bytes, limit: int = _MAX_ENTRY) -> int:
    """Bytes that follow the `HEAD_BYTES` of an entry. Raises `TransportError` above `limit`."""
    length = int(_HEAD.unpack(head)[0])
    if length > limit:
        raise TransportError("somebody sent too much to the rendezvous")
    return length


def entry(head: bytes, body: bytes, secret: str, rank: int) -> tuple[str, bytes]:
    """Key and value of an entry that `rank` has sent. Raises `TransportError` for one by somebody
    else."""
    proof = _mac(secret, rank, body)
    if len(body) < _KEY_LENGTH.size or not hmac.compare_digest(_HEAD.unpack(head)[1], proof):
        raise TransportError("somebody without the session's secret is at the rendezvous")
    end = _KEY_LENGTH.size + int(_KEY_LENGTH.unpack_from(body)[0])
    if end > len(body):
        raise TransportError("an entry at the rendezvous is shorter than its key")
    # Nobody waits for a name that is not valid text.
    return body[_KEY_LENGTH.size : end].decode(errors="replace"), body[end:]


def _mac(secret: str, rank: int, body: bytes) -> bytes:
    """The rank is part of the code, so that a side's own entry cannot come back as the other's."""
    return hmac.digest(secret.encode(), bytes([rank]) + body, "sha256")


def met(store: Store) -> AuthenticatedStore:
    """The store of a rendezvous, which brings connections along. Raises `TransportError` for
    another one."""
    if not isinstance(store, AuthenticatedStore):
        raise TransportError(f"such a group opens at a rendezvous, not over a {type(store)}")
    return store


class RecordingStore(Store):
    """A store that passes everything on, and keeps the entries."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.mine: list[bytes] = []
        self.theirs: list[bytes] = []
        self._store = store

    def set(self, key: str, value: str | bytes) -> None:
        self.mine.append(value.encode() if isinstance(value, str) else bytes(value))
        self._store.set(key, value)  # type: ignore[arg-type]  # The stub knows only text.

    def get(self, key: str) -> bytes:
        value = self._store.get(key)
        if value not in self.mine:
            self.theirs.append(bytes(value))
        return value

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        if timeout is None:
            self._store.wait(list(keys))
        else:
            self._store.wait(list(keys), timeout)

    def check(self, keys: Sequence[str]) -> bool:
        return self._store.check(list(keys))

    def has_extended_api(self) -> bool:
        return False


def left(deadline: float) -> float:
    """Seconds until `deadline`. Raises `TimeoutError` when none are left: otherwise a peer that
    sends a byte at a time would gain a little time with each."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
