"""Messages of a lane encrypted and authenticated, so that nobody else on the wire reads weights.

The session's secret reaches the replica over the control connection, which the cluster key
encrypts. HKDF-SHA256 makes a key of the secret for each lane and direction, so no key ever seals
two streams. A message is a sequence of records: its header, then its bytes cut into records of
`RECORD_BYTES`. AES-128-GCM seals each record under the number of records before it. So a record
that is changed, repeated, left out or moved does not open, and the group ends.

The `cryptography` package does the work, outside the interpreter's lock.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Final

from netloader.errors import TransportError
from netloader.transport.base import RANKS, peer_of
from netloader.transport.lane import HEADER, check, fill

RECORD_BYTES: Final = 256 * 1024
"""Bytes of a record before sealing. The system sends a record from the processor's cache, and a
call costs some microseconds beside the hundred that sealing takes."""

_SEAL_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 16


class SealedFraming:
    """Seals what one end of one lane sends, and opens what it receives."""

    def __init__(self, secret: str, rank: int, lane: int, record_bytes: int = RECORD_BYTES) -> None:
        """`secret`: the session's, at least 128 bits that nobody else knows. `record_bytes`: into
        how long records a message is cut; the same at both ends.

        Raises `TransportError` where nothing can seal (`missing`).
        """
        lacks = missing()
        if lacks is not None:
            raise TransportError(lacks)
        self._record_bytes = record_bytes
        self._out = _Records(secret, rank, lane, record_bytes)
        self._in = _Records(secret, peer_of(rank), lane, record_bytes)

    def send(
        self, connection: socket.socket, tag: int, nbytes: int, blocks: Iterable[memoryview]
    ) -> None:
        connection.sendall(self._out.seal(memoryview(HEADER.pack(tag, nbytes))))
        for record in self._records(blocks):
            connection.sendall(self._out.seal(record))

    def recv(
        self, connection: socket.socket, tag: int, nbytes: int, rooms: Iterable[memoryview]
    ) -> None:
        header = bytearray(HEADER.size)
        self._in.open(connection, memoryview(header))
        check(bytes(header), tag, nbytes)
        for room in self._records(rooms):
            self._in.open(connection, room)

    def _records(self, blocks: Iterable[memoryview]) -> Iterator[memoryview]:
        """All blocks but the last are as long as some records."""
        for block in blocks:
            for start in range(0, len(block), self._record_bytes):
                yield block[start : start + self._record_bytes]


class _Records:
    """The records of one direction. Belongs to one thread."""

    def __init__(self, secret: str, rank: int, lane: int, record_bytes: int) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = f"netloader bulk, lane {lane}, from the {RANKS[rank]}".encode()
        key = HKDF(SHA256(), _KEY_BYTES, salt=None, info=info).derive(secret.encode())
        self._cipher = AESGCM(key)
        self._records = 0
        self._sealed = memoryview(bytearray(max(record_bytes, HEADER.size) + _SEAL_BYTES))

    def seal(self, data: memoryview) -> memoryview:
        """A record as it travels: valid until the next one is sealed."""
        sealed = self._sealed[: len(data) + _SEAL_BYTES]
        self._cipher.encrypt_into(self._nonce(), data, None, sealed)
        return sealed

    def open(self, connection: socket.socket, room: memoryview) -> None:
        """Read one record into `room`, which its bytes fill."""
        from cryptography.exceptions import InvalidTag

        sealed = self._sealed[: len(room) + _SEAL_BYTES]
        fill(connection, sealed)
        try:
            self._cipher.decrypt_into(self._nonce(), sealed, None, room)
        except InvalidTag:
            raise TransportError(
                "what it sent was changed on the way, or is not sealed by the session's secret"
            ) from None

    def _nonce(self) -> bytes:
        number, self._records = self._records, self._records + 1
        return number.to_bytes(_NONCE_BYTES, "big")


def missing() -> str | None:
    """What is missing here to seal messages; None when nothing is."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        return f"{_NEEDED}: {error}"
    return None if hasattr(AESGCM, "encrypt_into") else f"{_NEEDED}, and an older one is installed"


_NEEDED: Final = "to encrypt weights takes the package cryptography>=47"
