"""Messages as bytes: exactly two frames, a fixed binary header and one JSON object.

`Codec.decode` turns any bytes into a `Message` or raises `RemoteProtocolError`, in time and memory
bounded by the frame limit. Nothing is parsed before the header and the lengths agree.
`Codec.encode` produces nothing that `decode` refuses. Never pickle.
"""

from __future__ import annotations

import hashlib
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from netmesh.core import fields
from netmesh.core.claims import Claim
from netmesh.core.messages import (
    NOBODY,
    Ack,
    Buckets,
    Busy,
    Digest,
    Exchange,
    Forget,
    Forgotten,
    Gossip,
    Join,
    Message,
    Observe,
    Ping,
    Relay,
    Relayed,
    State,
)
from netmesh.core.records import (
    BUCKETS,
    MAX_GENERATION,
    Generation,
    JsonObject,
    MemberId,
    Status,
)
from netmesh.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch

OLDEST_VERSION: Final = 1
PROTOCOL_VERSION: Final = 2
"""Versions that are understood: all from the oldest to this one. Version 2 has `Forget` and
`Forgotten`, and `Ping` names its target."""
MAGIC: Final = b"NM"
HEADER: Final = struct.Struct("!2sBBH8sQIIQI")
"""magic, version, kind, flags, mesh tag, generation, sequence, size, root, body length."""
MAX_BODY_BYTES: Final = 256 * 1024
MAX_CLAIMS: Final = 4096
MAX_SIZE: Final = 2**32 - 1
MAX_RETRY_MS: Final = 600_000
MAX_CLOCK_MS: Final = 2**53 - 1
ANSWER: Final = 1
"""Flag of a `Digest` or `Exchange` that answers a question."""
NEWEST_SHIFT: Final = 8
"""The upper half of the flags is the newest version that the sender understands; 0 in version 1."""
SINCE: Final = {Forget.kind: 2, Forgotten.kind: 2}
"""The version that brought a kind of message, for all kinds that came after version 1. The header
shows it, so that members of earlier versions still understand all other kinds."""
_HASHES: Final = struct.Struct(f"!{BUCKETS}I")


def mesh_tag(name: str) -> bytes:
    """8 bytes that tell apart meshes sharing a network and a key."""
    return hashlib.blake2b(name.encode(), digest_size=8, person=b"netmesh tag").digest()


class _Header:
    """The numbers of one decoded header, passed to the body decoders."""

    __slots__ = ("answer", "generation", "root", "sender", "sequence", "size")

    def __init__(
        self, sender: MemberId, flags: int, generation: int, sequence: int, size: int, root: int
    ) -> None:
        self.sender = sender
        self.answer = bool(flags & ANSWER)
        self.generation = Generation(generation)
        self.sequence = sequence
        self.size = size
        self.root = root


def _ping(h: _Header, b: JsonObject) -> Message:
    target = fields.member_id(b["to"], "to") if "to" in b else NOBODY
    return Ping(h.sender, h.generation, h.sequence, h.root, h.size, _claims(b), target)


def _ack(h: _Header, b: JsonObject) -> Message:
    return Ack(h.sender, h.generation, h.sequence, h.root, h.size, _claims(b))


def _relay(h: _Header, b: JsonObject) -> Message:
    target = fields.member_id(b.get("target"), "target")
    return Relay(h.sender, h.generation, h.sequence, target)


def _relayed(h: _Header, b: JsonObject) -> Message:
    return Relayed(h.sender, h.generation, h.sequence, fields.boolean(b.get("heard"), "heard"))


def _gossip(h: _Header, b: JsonObject) -> Message:
    return Gossip(h.sender, h.generation, _claims(b))


def _join(h: _Header, b: JsonObject) -> Message:
    me = fields.claim(b.get("me"), "me")
    if me.id != h.sender or me.generation != h.generation or me.advert is None:
        raise RemoteProtocolError("me is not the sender's own record")
    return Join(h.sender, h.generation, h.sequence, _cursor(b), me)


def _observe(h: _Header, b: JsonObject) -> Message:
    return Observe(h.sender, h.generation, _cursor(b))


def _state(h: _Header, b: JsonObject) -> Message:
    cursor = None if b.get("cursor") is None else _cursor(b)
    # Only for observers, and added later: whatever else it may be says nothing.
    clock = b.get("clock")
    clock_ms = clock if type(clock) is int and 0 <= clock <= MAX_CLOCK_MS else None
    return State(h.sender, h.generation, h.sequence, h.root, h.size, _claims(b), cursor, clock_ms)


def _busy(h: _Header, b: JsonObject) -> Message:
    retry = fields.integer(b.get("retry_ms"), "retry_ms", MAX_RETRY_MS)
    return Busy(h.sender, h.generation, h.sequence, retry, _claims(b))


def _buckets(h: _Header, b: JsonObject) -> Message:
    text = b.get("hashes")
    # 4 bytes become 3/4 of a base64 quad: the exact length is known before anything is decoded.
    if not isinstance(text, str) or len(text) != 4 * -(-_HASHES.size // 3):
        raise RemoteProtocolError(f"hashes are not {BUCKETS} base64 words")
    try:
        hashes = _HASHES.unpack(b64decode(text, validate=True))
    except (ValueError, struct.error) as error:
        raise RemoteProtocolError(f"hashes are not {BUCKETS} base64 words") from error
    return Buckets(h.sender, h.generation, h.root, h.size, hashes)


def _digest(h: _Header, b: JsonObject) -> Message:
    buckets = tuple(
        fields.integer(item, "buckets", BUCKETS - 1)
        for item in fields.array(b.get("buckets"), "buckets", BUCKETS)
    )
    listed = fields.array(b.get("entries"), "entries", MAX_CLAIMS)
    entries = tuple(fields.entry(item, "entries") for item in listed)
    return Digest(h.sender, h.generation, h.answer, buckets, entries)


def _exchange(h: _Header, b: JsonObject) -> Message:
    listed = fields.array(b.get("want", []), "want", MAX_CLAIMS)
    want = tuple(fields.member_id(item, "want") for item in listed)
    more = fields.boolean(b.get("more", False), "more")
    return Exchange(h.sender, h.generation, h.answer, _claims(b), want, more)


def _forget(h: _Header, b: JsonObject) -> Message:
    return Forget(h.sender, h.generation, fields.member_id(b.get("member"), "member"))


def _forgotten(h: _Header, b: JsonObject) -> Message:
    member, status = fields.member_id(b.get("member"), "member"), b.get("status")
    known = None if status is None else Status(fields.integer(status, "status", max(Status)))
    return Forgotten(h.sender, h.generation, member, known)


_DECODERS: Final[dict[int, Callable[[_Header, JsonObject], Message]]] = {
    Ping.kind: _ping,
    Ack.kind: _ack,
    Relay.kind: _relay,
    Relayed.kind: _relayed,
    Gossip.kind: _gossip,
    Join.kind: _join,
    Observe.kind: _observe,
    State.kind: _state,
    Busy.kind: _busy,
    Buckets.kind: _buckets,
    Digest.kind: _digest,
    Exchange.kind: _exchange,
    Forget.kind: _forget,
    Forgotten.kind: _forgotten,
}
_NUMBERED: Final = (Ping, Ack, Relay, Relayed, Join, State, Busy)
_FROM_NOBODY: Final = frozenset({Observe.kind, Forget.kind})


def _claims(body: JsonObject) -> tuple[Claim, ...]:
    listed = body.get("claims")
    return () if listed is None else fields.claims(listed, "claims", MAX_CLAIMS)


def _cursor(body: JsonObject) -> int:
    return fields.integer(body.get("cursor"), "cursor", MAX_SIZE)


class Codec:
    """Encodes and decodes for one mesh."""

    __slots__ = ("_tag", "mesh")

    def __init__(self, mesh: str) -> None:
        self.mesh = mesh
        self._tag = mesh_tag(mesh)

    def encode(self, message: Message) -> tuple[bytes, bytes]:
        """The two frames; LocalProtocolError when the message breaks a limit."""
        body = orjson.dumps(_body(message))
        if len(body) > MAX_BODY_BYTES:
            raise LocalProtocolError(f"{type(message).__name__} has {len(body)} bytes of body")
        flags = PROTOCOL_VERSION << NEWEST_SHIFT
        if isinstance(message, Digest | Exchange) and message.answer:
            flags |= ANSWER
        sequence = message.sequence if isinstance(message, _NUMBERED) else 0
        size, root = (
            (message.size, message.root)
            if isinstance(message, Ping | Ack | State | Buckets)
            else (0, 0)
        )
        try:
            header = HEADER.pack(
                MAGIC,
                SINCE.get(message.kind, 1),
                message.kind,
                flags,
                self._tag,
                message.generation,
                sequence,
                size,
                root,
                len(body),
            )
        except struct.error as error:
            raise LocalProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error
        return header, body

    def size(self, message: Message) -> int:
        """Encoded bytes of both frames; equal to what `encode` returns."""
        return HEADER.size + len(orjson.dumps(_body(message)))

    def decode(self, frames: Sequence[bytes]) -> Message:
        """The message, or RemoteProtocolError saying what is wrong with the bytes."""
        if len(frames) != 2:
            raise RemoteProtocolError(f"{len(frames)} frames, a message has 2")
        header, body = frames
        if len(header) < 3 or header[:2] != MAGIC:
            raise RemoteProtocolError("not a netmesh header")
        # The version is checked before the length, because another version may have another header.
        if not OLDEST_VERSION <= header[2] <= PROTOCOL_VERSION:
            raise VersionMismatch(header[2], OLDEST_VERSION, PROTOCOL_VERSION)
        if len(header) != HEADER.size:
            raise RemoteProtocolError(f"header of {len(header)} bytes, not {HEADER.size}")
        _, _, kind, flags, tag, generation, sequence, size, root, length = HEADER.unpack(header)
        if tag != self._tag:
            raise RemoteProtocolError(f"message of another mesh than {self.mesh!r}")
        if length != len(body) or length > MAX_BODY_BYTES:
            raise RemoteProtocolError(f"body of {len(body)} bytes, {length} announced")
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise RemoteProtocolError(f"unknown message kind {kind}")
        if generation > MAX_GENERATION:
            raise RemoteProtocolError(f"generation {generation} is out of range")
        content = fields.load(body)
        sender = content.get("from", "")
        if sender == "" and kind in _FROM_NOBODY:
            sender = NOBODY
        else:
            sender = fields.member_id(sender, "from")
        return decoder(_Header(MemberId(sender), flags, generation, sequence, size, root), content)

    def newest(self, frames: Sequence[bytes]) -> int:
        """The newest version that the sender of a decoded message understands."""
        flags: int = HEADER.unpack(frames[0])[3]
        return max(frames[0][2], flags >> NEWEST_SHIFT)


def _body(message: Message) -> dict[str, object]:
    body: dict[str, object] = {"from": message.sender} if message.sender else {}
    match message:
        case Ping() | Ack():
            if isinstance(message, Ping) and message.target:
                body["to"] = message.target
            if message.claims:
                body["claims"] = [fields.dump_claim(c) for c in message.claims]
        case Gossip():
            body["claims"] = [fields.dump_claim(c) for c in message.claims]
        case Relay():
            body["target"] = message.target
        case Relayed():
            body["heard"] = message.heard
        case Join():
            body["cursor"] = message.cursor
            body["me"] = fields.dump_claim(message.me)
        case Observe():
            body["cursor"] = message.cursor
        case State():
            body["claims"] = [fields.dump_claim(c) for c in message.claims]
            body["cursor"] = message.cursor
            if message.clock_ms is not None:
                body["clock"] = message.clock_ms
        case Busy():
            body["retry_ms"] = message.retry_after_ms
            body["claims"] = [fields.dump_claim(c) for c in message.claims]
        case Buckets():
            body["hashes"] = b64encode(_HASHES.pack(*message.hashes)).decode()
        case Digest():
            body["buckets"] = message.buckets
            body["entries"] = [fields.dump_entry(e) for e in message.entries]
        case Exchange():
            body["claims"] = [fields.dump_claim(c) for c in message.claims]
            if message.want:
                body["want"] = message.want
            if message.more:
                body["more"] = True
        case Forget():
            body["member"] = message.member
        case Forgotten():
            body["member"] = message.member
            body["status"] = None if message.status is None else int(message.status)
    return body
