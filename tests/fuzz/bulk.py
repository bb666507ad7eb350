"""What is read from the connections of a session's bulk: the rendezvous, lanes, and the line.

The connection is played: it holds what the peer has said, and keeps what is said to it.
"""

from __future__ import annotations

import hmac
import struct
import time
from typing import Any, Final, cast

from netloader.errors import TransportError
from netloader.transport.arrivals import FirstEntry
from netloader.transport.base import REPLICA, SOURCE, peer_of
from netloader.transport.lane import HEADER, PlainFraming
from netloader.transport.sealed import SealedFraming
from netloader.transport.store import LANE, PROOF, AuthenticatedStore
from netloader.transport.turns import Note, Turns, Word

from .target import Target

SECRET: Final = "5" * 32
_RECORD_BYTES: Final = 64
_HEAD: Final = struct.Struct("!I32s")
_CHANGE: Final = struct.Struct("!BHB")
_POSTED: Final = tuple((tag, 64 * tag) for tag in range(4))


class PlayedConnection:
    """A connection whose other end has said `heard` and then hung up."""

    def __init__(self, heard: bytes, portion: int = 1 << 30) -> None:
        """At most `portion` bytes come or go at once."""
        self.heard = memoryview(heard)
        self.said = bytearray()
        self._portion = portion

    def settimeout(self, _: float | None) -> None:
        """Nothing waits here."""

    def recv(self, size: int) -> bytes:
        size = min(size, self._portion)
        part, self.heard = bytes(self.heard[:size]), self.heard[size:]
        return part

    def recv_into(self, room: memoryview, size: int, _: int) -> int:
        part = self.recv(size)
        room[: len(part)] = part
        return len(part)

    def sendall(self, data: bytes | memoryview) -> None:
        self.said += data

    def sendmsg(self, parts: list[memoryview]) -> int:
        data = b"".join(parts)[: self._portion]
        self.said += data
        return len(data)


def _played(heard: bytes, portion: int = 1 << 30) -> tuple[PlayedConnection, Any]:
    """A connection, and the same as the socket for which it stands."""
    made = PlayedConnection(heard, portion)
    return made, cast(Any, made)


def _entry_head(body: bytes) -> bytes:
    proof = hmac.digest(SECRET.encode(), bytes([REPLICA]) + body, "sha256")
    return _HEAD.pack(len(body), proof)


def _rendezvous(data: bytes) -> bool:
    """An entry, in portions, by a replica (the first byte even) or by whoever wrote the proof."""
    how, body = (data[0], data[1:]) if data else (1, b"")
    sent = body if how & 1 else _entry_head(body) + body
    portion = 1 + (how >> 1)
    first = _first_entry(sent, portion)
    connection, end = _played(sent, portion)
    store = AuthenticatedStore(end, SECRET, SOURCE, time.monotonic() + 60)
    try:
        store.receive(time.monotonic() + 60)
    except TransportError:
        assert first is None, "a stranger is taken for the replica"
        return False
    used = len(sent) - len(connection.heard)
    key, value = _entry_of(sent[_HEAD.size : used])
    assert store.check([key]) and store.get(key) == value, "another entry than was sent"
    assert first in (None, (key, value)), "both readers see the same"
    other, end = _played(b"")
    AuthenticatedStore(end, SECRET, REPLICA, time.monotonic() + 60).set(key, value)
    exact = "\ufffd" not in key  # a name that is no text is read as one
    assert not exact or bytes(other.said) == sent[:used], "another entry after encoding"
    return True


def _entry_of(body: bytes) -> tuple[str, bytes]:
    end = 2 + int.from_bytes(body[:2], "big")
    return body[2:end].decode(errors="replace"), body[end:]


def _first_entry(sent: bytes, portion: int) -> tuple[str, bytes] | None:
    reader = FirstEntry(SECRET)
    at = 0
    try:
        while at < len(sent):
            assert 0 < reader.needed <= 64, "it reads what is not its own"
            part = sent[at : at + min(portion, reader.needed)]
            at += len(part)
            said = reader.feed(part)
            if said is not None:
                return said
    except TransportError:
        pass
    return None


def _lane(data: bytes) -> bool:
    """A message with the posted header (the first byte even) or with any other."""
    how, tag, size = data[0] if data else 1, *struct.unpack("!QH", data[1:11].ljust(10, b"\0"))
    came = data[11:]
    sent = came if how & 1 else HEADER.pack(tag, size) + came
    connection, end = _played(sent, 1 + how)
    room = bytearray(size)
    try:
        PlainFraming().recv(end, tag, size, [memoryview(room)])
    except (TransportError, OSError):
        return False
    used = len(sent) - len(connection.heard)
    assert used == HEADER.size + size, "it reads what is not of this message"
    back, end = _played(b"", 1 + how)
    PlainFraming().send(end, tag, size, [memoryview(room)])
    assert bytes(back.said) == sent[:used], "another message after sending it on"
    return True


def _sealed(data: bytes) -> bool:
    """Up to three sealed messages, changed on the way as the rest of the input says."""
    how = data[0] if data else 0
    sizes = [size % 300 for size in struct.unpack("!3H", data[1:7].ljust(6, b"\0"))][: how % 4]
    messages = [bytes((number + 1,)) * size for number, size in enumerate(sizes)]
    way, end = _played(b"")
    source = SealedFraming(SECRET, SOURCE, 0, _RECORD_BYTES)
    for tag, message in enumerate(messages):
        source.send(end, tag, len(message), [memoryview(message)])
    whole = bytes(way.said)
    changes = data[7:]
    sent = changes if how & 4 else _changed(whole, changes)
    _, end = _played(sent, 4096)
    replica = SealedFraming(SECRET, peer_of(SOURCE), 0, _RECORD_BYTES)
    for tag, message in enumerate(messages):
        room = bytearray(len(message))
        try:
            replica.recv(end, tag, len(room), [memoryview(room)])
        except (TransportError, OSError):
            assert sent != whole, "what was not changed is refused"
            return False
        assert room == message, "changed bytes were taken"
    return bool(messages)


def _changed(data: bytes, changes: bytes) -> bytes:
    changed = bytearray(data)
    for at in range(0, len(changes) - _CHANGE.size + 1, _CHANGE.size):
        what, place, value = _CHANGE.unpack_from(changes, at)
        place = place % len(changed) if changed else 0
        match what % 5:
            case 0 if changed:
                changed[place] ^= value
            case 1:
                del changed[place : place + value]
            case 2:
                changed[place:place] = bytes((value,))
            case 3:
                changed[place:place] = changed[place : place + value]
            case _:
                pass
    return bytes(changed)


def _turns(data: bytes) -> bool:
    """Notes to an end that has posted four transfers each way: the source's, or (the first byte
    odd) the replica's."""
    rank = data[0] & 1 if data else SOURCE
    turns: Turns[tuple[int, int]] = Turns(rank)
    for tag, size in _POSTED:
        for sends in (True, False):
            turns.post(sends, tag, size, (tag, size))
    begun = []
    size = Note.FORMAT.size
    try:
        for at in range(1, len(data) - size + 1, size):
            note = Note.decode(data[at : at + size])
            assert note.encode() == data[at : at + size], "another note after encoding"
            if (transfer := turns.hear(note)) is not None:
                begun.append(transfer)
            begun += [transfer for _, transfer in turns.calls()]
    except TransportError:
        return False
    assert all(begun.count(one) <= 2 for one in _POSTED), "a transfer begins twice"
    return bool(begun)


def _body(key: str, value: bytes) -> bytes:
    return len(key).to_bytes(2, "big") + key.encode() + value


def _notes(*words: Word) -> bytes:
    return b"".join(Note(word, tag, size).encode() for tag, size in _POSTED for word in words)


TARGETS: Final = (
    Target(
        "rendezvous",
        _rendezvous,
        (
            *(
                bytes((how,)) + _body(key, value)
                for how in (0, 6, 254)
                for key, value in ((PROOF, b""), (LANE, b"1"), ("tcp/replica", b""))
            ),
            b"\x7f" + _entry_head(_body(LANE, b"0")) + _body(LANE, b"0"),
        ),
        1,
    ),
    Target(
        "lane",
        _lane,
        (
            b"\xfe" + struct.pack("!QH", 7, 5) + b"hello",
            b"\x0b" + struct.pack("!QH", 7, 5) + HEADER.pack(7, 5) + b"hello",
            b"\0" + struct.pack("!QH", 1 << 60, 0),
        ),
        11,
    ),
    Target(
        "sealed",
        _sealed,
        (
            b"\2" + struct.pack("!3H", 40, 3, 0),
            b"\3" + struct.pack("!3H", 1, 0, 250),
            b"\xf9" + struct.pack("!3H", 40, 0, 0) + _CHANGE.pack(4, 0, 0),
        ),
        7,
    ),
    Target(
        "turns",
        _turns,
        (
            b"\0" + _notes(Word.SENDS, Word.RECEIVES),
            b"\1" + _notes(Word.CALL_SOURCE, Word.CALL_REPLICA),
        ),
        1,
    ),
)
