"""What is fuzzed, and what must hold: a value or the one error type, and values encode again.

An input is bytes. Those of the mesh have a few bytes of head, so that most of the effort goes into
bodies behind a header that is right, and not into guessing a magic number.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import orjson

from mesh_inspect.recording import lines
from netloader.discovery import advert
from netloader.errors import ManifestError, ProtocolError
from netloader.protocol import messages
from netloader.upstream import messages as upstream
from netloader.weights import manifest
from netmesh.bootstrap.directory import HostEntry
from netmesh.core.effects import Reply, Send
from netmesh.core.engine import Engine
from netmesh.core.events import Connection, Received, Tick
from netmesh.core.messages import Message
from netmesh.core.records import MemberId, Status, new_generation, new_record
from netmesh.core.settings import ProtocolSettings
from netmesh.core.wire import HEADER, MAGIC, PROTOCOL_VERSION, Codec, mesh_tag
from netmesh.errors import RemoteProtocolError

from . import bulk
from .seeds import (
    ANSWERS,
    CONTROL,
    ENTRY,
    HOLDING,
    LOADING,
    MANIFEST,
    ME,
    MESH,
    PEER,
    QUESTIONS,
    RECORDING_HEAD,
    RECORDING_STEP,
    STARTED_MS,
)
from .target import Target

NAME = "fuzz"
CODEC = Codec(NAME)
_TAG = mesh_tag(NAME)

FRAMED, RAW, CUT = 0, 1, 2
"""First byte of an input: a right header and any body; any header; any number of frames."""

HEAD = 27
"""Bytes before the body of a FRAMED input: form, kind, flag, generation, sequence, size, root."""

_MORE = 0xFF
"""Between the messages of an input of `engine`: never part of a JSON text."""


def frames_of(data: bytes) -> list[bytes]:
    """The frames that an input of `wire` stands for."""
    form = data[0] % 4 if data else CUT
    if form == RAW:
        return [data[1 : 1 + HEADER.size], data[1 + HEADER.size :]]
    if form == CUT:
        count = data[1] % 5 if len(data) > 1 else 0
        rest = data[2:]
        size = -(-len(rest) // count) if count else 0
        return [rest[i * size : (i + 1) * size] for i in range(count)]
    return framed(data)


def framed(data: bytes) -> list[bytes]:
    """A header that is right in everything that does not depend on the kind, and a body."""
    head, body = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:]
    generation = int.from_bytes(head[3:11], "big")
    sequence, size = int.from_bytes(head[11:15], "big"), int.from_bytes(head[15:19], "big")
    root = int.from_bytes(head[19:27], "big")
    header = HEADER.pack(
        *(MAGIC, PROTOCOL_VERSION, head[1], head[2], _TAG),
        *(generation, sequence, size, root, len(body)),
    )
    return [header, body]


def _wire(data: bytes) -> bool:
    try:
        message = CODEC.decode(frames_of(data))
    except RemoteProtocolError:
        return False
    again = CODEC.decode(CODEC.encode(message))
    assert again == message, "another message after encoding"
    return True


def _engine(data: bytes) -> bool:
    """Up to eight messages and the time between them, into a member that knows one other."""
    me = new_record(ME, new_generation(STARTED_MS, 1), {"model": "m"})
    engine = Engine(ProtocolSettings(), me, random.Random(1))
    now, accepted = 100.0, False
    for event in (None, *data.split(bytes((_MORE,)))[:8]):
        if event is None:
            message: Message = PEER
        else:
            now += event[0] / 16 if event else 0.0
            try:
                message = CODEC.decode(framed(event))
            except RemoteProtocolError:
                continue
            accepted = True
        for effect in engine.handle(Received(Connection(b"c"), message), now):
            if isinstance(effect, Send | Reply):
                CODEC.encode(effect.message)
        engine.check()
        if engine.deadline() <= now:
            engine.handle(Tick(), now)
            engine.check()
    mine = engine.record(MemberId(ME))
    assert mine is not None and mine.status is Status.ALIVE, "talked to death"
    return accepted


def _control(data: bytes) -> bool:
    attached = data[0] if data else 0
    body = data[1:]
    frames = [body]
    if attached & 1:
        frames = [body, bytes(attached)]
    elif attached == 2:
        frames = [body] * 3
    try:
        message, attachment = messages.decode(frames)
    except ProtocolError:
        return False
    sent = messages.encode(message, attachment)
    # Not the messages: a number that is none is unequal to itself.
    assert messages.encode(*messages.decode(sent)) == sent, "another message after encoding"
    return True


def _manifest(data: bytes) -> bool:
    try:
        read = manifest.decode(data)
    except ManifestError:
        return False
    assert manifest.decode(read.encode()) == read, "another manifest after encoding"
    return True


def _advert(data: bytes) -> bool:
    try:
        value = orjson.loads(data)
    except ValueError:
        return False
    if not isinstance(value, dict):
        return False  # the mesh delivers objects only
    holdings = advert.decode(value)
    assert advert.decode(advert.encode(holdings)) == holdings, "other holdings after encoding"
    return bool(holdings)


def _recording(data: bytes) -> bool:
    """A line of a recording: the first byte says which."""
    try:
        if data[:1] and data[0] & 1:
            head = lines.head_of(data[1:])
            assert lines.head_of(lines.head_line(head)) == head, "another head after encoding"
            return True
        step = lines.step_of(data[1:])
    except lines.LineError:
        return False
    members = [one.at(step.at) for one in step.members]
    written = lines.step_line(
        step.at, members, map(MemberId, step.gone), whole=step.whole, silence=step.silence
    )
    again = lines.step_of(written)
    assert [one.at(step.at) for one in again.members] == members, "other members after encoding"
    assert (again.gone, again.whole) == (step.gone, step.whole), "another step after encoding"
    return True


def _entry(data: bytes) -> bool:
    entry = HostEntry.decode(data)
    if entry is None:
        return False
    assert HostEntry.decode(entry.encode()) == entry, "another entry after encoding"
    assert "/" not in entry.name and len(entry.name) < 255, "no name of a file"
    return True


def _upstream(data: bytes) -> bool:
    """What an end of upstream's protocol says: a question first, or (the first byte odd) an
    answer."""
    said = data[1:]
    try:
        if data[:1] and data[0] & 1:
            answer = upstream.decode_answer(said)
            again = upstream.decode_answer(upstream.encode_answer(answer))
            assert type(again) is type(answer), "another answer after encoding"
        else:
            question = upstream.decode_question(said)
            assert upstream.is_whole(said), "the front door would wait for more"
            sent = upstream.encode_question(question)
            assert upstream.decode_question(sent) == question, "another question after encoding"
    except ProtocolError:
        return False
    return True


def _mesh_seeds() -> Iterable[bytes]:
    for message in MESH:
        header, body = CODEC.encode(message)
        _, _, kind, flags, _, generation, sequence, size, root, _ = HEADER.unpack(header)
        numbers = generation.to_bytes(8, "big") + sequence.to_bytes(4, "big")
        numbers += size.to_bytes(4, "big") + root.to_bytes(8, "big")
        # The upper byte of the flags is the newest version that its sender speaks.
        yield bytes((FRAMED, kind, flags & 0xFF)) + numbers + body


_FRAMED_SEEDS = tuple(_mesh_seeds())
_OTHER_FORMS = tuple(
    seed
    for message in MESH
    for header, body in [CODEC.encode(message)]
    for seed in (bytes((RAW,)) + header + body, bytes((CUT, 1)) + header + body)
)

TARGETS = (
    Target("wire", _wire, _FRAMED_SEEDS + _OTHER_FORMS, HEAD),
    Target(
        "engine",
        _engine,
        (*_FRAMED_SEEDS, bytes((_MORE,)).join(_FRAMED_SEEDS[:4])),
        HEAD,
    ),
    Target("control", _control, tuple(b"\0" + body for body in CONTROL), 1),
    Target("manifest", _manifest, (MANIFEST,), 0),
    Target("advert", _advert, (HOLDING, LOADING), 0),
    Target(
        "recording",
        _recording,
        tuple(bytes((odd,)) + line for line, odd in ((RECORDING_HEAD, 1), (RECORDING_STEP, 0))),
        1,
    ),
    Target("entry", _entry, (ENTRY,), 0),
    Target(
        "upstream",
        _upstream,
        tuple(bytes((odd,)) + said for odd, all in enumerate((QUESTIONS, ANSWERS)) for said in all),
        1,
    ),
    *bulk.TARGETS,
)
