"""One well-formed example of every message kind: where the fuzzer starts from."""

from __future__ import annotations

from typing import Final

import orjson

from mesh_inspect.recording.lines import RecordingHead, head_line, step_line
from netloader.discovery import advert
from netloader.discovery.advert import Feed, Holding
from netloader.protocol import messages
from netloader.upstream import messages as upstream
from netloader.weights.manifest import Manifest, Tensor
from netmesh.address import Address
from netmesh.bootstrap.directory import HostEntry
from netmesh.core.claims import Claim
from netmesh.core.member import Member
from netmesh.core.messages import (
    NOBODY,
    Ack,
    Buckets,
    Busy,
    Digest,
    Entry,
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
from netmesh.core.records import Generation, MemberId, Status, new_generation, pack_advert

STARTED_MS: Final = 1_790_000_000_000
ME: Final = MemberId("10.0.0.1:17946")
_OTHER: Final = MemberId("10.0.0.2:17946")
_THIRD: Final = MemberId("[fe80::1]:17947")
_MINE: Final = new_generation(STARTED_MS, 1)
_THEIRS: Final = new_generation(STARTED_MS, 2)
_ADVERT: Final = pack_advert({"holdings": [{"n": 1}], "schema": 1, "x": None})

_ALIVE = Claim(_OTHER, _THEIRS, 0, Status.ALIVE, 1, _ADVERT)
_ACCUSED = Claim(ME, _MINE, 0, Status.SUSPECT, 1, None, (_OTHER,), (_OTHER,), True)
_DEAD = Claim(_THIRD, _THEIRS, 7, Status.DEAD, 3, _ADVERT, (_OTHER, ME))
_CLAIMS = (_ALIVE, _ACCUSED, _DEAD)

PEER: Final[Message] = Join(_OTHER, _THEIRS, 3, 0, _ALIVE)
"""Makes the sender of all the other messages known."""

MESH: Final[tuple[Message, ...]] = (
    PEER,
    Ping(_OTHER, _THEIRS, 1, 2, 3, _CLAIMS),
    Ack(_OTHER, _THEIRS, 1, 2, 3),
    Relay(_OTHER, _THEIRS, 4, _THIRD),
    Relayed(_OTHER, _THEIRS, 4, True),
    Gossip(_OTHER, _THEIRS, _CLAIMS),
    Observe(NOBODY, Generation(0), 0),
    State(_OTHER, _THEIRS, 5, 6, 7, _CLAIMS, 128),
    Busy(_OTHER, _THEIRS, 5, 750, (_ALIVE,)),
    Buckets(_OTHER, _THEIRS, 8, 9, tuple(range(256))),
    Digest(_OTHER, _THEIRS, False, (1, 255), (Entry(_THIRD, _THEIRS, 1, 2, 3),)),
    Exchange(_OTHER, _THEIRS, True, _CLAIMS, (ME, _THIRD), True),
    Ping(_OTHER, _THEIRS, 1, 2, 3, _CLAIMS, ME),
    Forget(NOBODY, Generation(0), _THIRD),
    Forgotten(_OTHER, _THEIRS, _THIRD, Status.LEFT),
)

_HEX = "0123456789abcdef" * 2

CONTROL_MESSAGES: tuple[messages.Message, ...] = (
    messages.Hello(
        replica="10.0.0.2:1",
        generation=5,
        identity=_HEX,
        fields={"model": "m", "tp_size": 2},
        content={"hub": "abc"},
        manifest=_HEX,
        chunk_bytes=1 << 25,
        backend="gloo",
    ),
    messages.Accept(
        session=_HEX,
        generation=5,
        identity=_HEX,
        manifest=_HEX,
        attributes={
            "a.b": True,
            "c": 1.5,
            "d": None,
            "e": {"x", "y"},
            "f": [3, (4.0, frozenset({5}))],
            "g": {"k": [], 1: {}},
        },
        host="10.0.0.1",
        port=4000,
        secret="s",
        have=((0, 7), (9, 12)),
    ),
    messages.Refuse(code="busy", reason="two sessions", retry_after_s=0.5),
    messages.Want(session=_HEX, chunks=(0, 1, 2)),
    messages.Have(session=_HEX, chunks=(3,)),
    messages.Done(session=_HEX),
    messages.Bye(session=_HEX, reason="enough"),
)

CONTROL: Final = tuple(messages.encode(message)[0] for message in CONTROL_MESSAGES)

MANIFEST: Final = Manifest(
    "runtime",
    1 << 25,
    (
        Tensor("a.weight", "parameter", (4, 8), (8, 1), "bfloat16", 64, ("b.weight",)),
        Tensor("a.scale", "buffer", (), (), "float32", 4),
    ),
).encode()

HOLDING: Final = orjson.dumps(
    advert.encode(
        [
            Holding(
                role="target",
                state="ready",
                identity=_HEX,
                fields={"model": "m", "tp_size": 2},
                content={"hub": "abc"},
                endpoint="10.0.0.1:4000",
                backend="gloo",
                nbytes=1 << 30,
                origin="storage",
                serving=1,
            )
        ]
    )
)

LOADING: Final = orjson.dumps(
    advert.encode(
        [
            Holding(
                role="draft",
                state="loading",
                identity=_HEX,
                fields={"model": "m", "tp_size": 2},
                content={},
                endpoint="10.0.0.1:4000",
                backend="gloo",
                pulling=1,
                total=1 << 30,
                held=1 << 28,
                rate=1 << 27,
                feeds=(Feed(endpoint="10.0.0.2:4000", generation=5, nbytes=1 << 28, rate=1),),
                awaits=(ME,),
            )
        ]
    )
)

RECORDING_HEAD: Final = head_line(RecordingHead(mesh="m", at=1.79e9, program="0.1.0"))

RECORDING_STEP: Final = step_line(
    1.79e9,
    [Member(ME, new_generation(STARTED_MS, 1), 2, Status.STALLED, 3, {"holdings": [{}]}, 0.0)],
    [_OTHER],
    whole=True,
    silence="nobody",
)

ENTRY: Final = HostEntry(
    address=Address("10.0.0.1", 17946),
    mesh="default",
    pid=7,
    started="81234",
    pid_namespace="pid:[4026531836]@b",
    net_namespace="net:[4026531840]@b",
).encode()

QUESTIONS: Final = tuple(
    upstream.encode_question(question)
    for question in (
        upstream.UpstreamJoin(3, "/models/m", 4, 1, 4000, "netloader_draft", "hbm"),
        upstream.UpstreamJoin(0, "m", 1, 1, 4001),
        upstream.Who(),
    )
)

ANSWERS: Final = (
    *(
        upstream.encode_answer(answer)
        for answer in (
            upstream.JoinAccepted("10.0.0.2:4001"),
            upstream.JoinRefused("another model"),
            upstream.MeshHere(),
        )
    ),
    b'{"label":"JOIN_ACK","content":{"name":"10.0.0.2:4001","transfer_shapes":[[2]]}}',
)
