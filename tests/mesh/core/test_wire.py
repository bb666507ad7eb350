import struct
from copy import deepcopy
from typing import cast

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netmesh.core.claims import MAX_WITNESSES, Claim
from netmesh.core.fields import claim_bytes, dump_claim, dump_entry, entry_bytes
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
from netmesh.core.records import (
    MAX_COUNTER,
    MAX_GENERATION,
    Generation,
    JsonObject,
    MemberId,
    Status,
    pack_advert,
)
from netmesh.core.wire import HEADER, MAX_BODY_BYTES, OLDEST_VERSION, PROTOCOL_VERSION, Codec
from netmesh.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch

CODEC = Codec("test")
ME = MemberId("10.0.0.1:17946")

ids = st.builds(
    lambda host, port: MemberId(f"{host}:{port}"),
    st.sampled_from(["10.0.0.1", "[fe80::1]", "node-7.example", "[::1]"]),
    st.integers(1, 65535),
)
generations = st.integers(0, MAX_GENERATION).map(Generation)
counters = st.integers(0, MAX_COUNTER)
words = st.integers(0, 2**32 - 1)
roots = st.integers(0, 2**64 - 1)
adverts = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
).map(lambda value: pack_advert(cast(JsonObject, value)))
witnesses = st.lists(ids, max_size=MAX_WITNESSES).map(tuple)
claims = st.builds(
    Claim,
    ids,
    generations,
    counters,
    st.sampled_from(Status),
    counters,
    st.none() | adverts,
    witnesses,
    witnesses,
    st.booleans(),
)
several = st.lists(claims, max_size=3).map(tuple)
entries = st.builds(Entry, ids, generations, counters, st.integers(0, 4), counters)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, ids, generations, words, roots, words, several, st.just(NOBODY) | ids),
    st.builds(Ack, ids, generations, words, roots, words, several),
    st.builds(Relay, ids, generations, words, ids),
    st.builds(Relayed, ids, generations, words, st.booleans()),
    st.builds(Gossip, ids, generations, several),
    st.builds(
        lambda claim, advert, sequence, cursor: Join(
            claim.id,
            claim.generation,
            sequence,
            cursor,
            Claim(claim.id, claim.generation, 0, Status.ALIVE, 1, advert),
        ),
        claims,
        adverts,
        words,
        words,
    ),
    st.builds(Observe, st.just(NOBODY), st.just(Generation(0)), words),
    st.builds(
        State, ids, generations, words, roots, words, several, st.none() | words, st.none() | words
    ),
    st.builds(Busy, ids, generations, words, st.integers(0, 600_000), several),
    st.builds(
        Buckets, ids, generations, roots, words, st.tuples(*[words] * 4).map(lambda t: t * 64)
    ),
    st.builds(
        Digest,
        ids,
        generations,
        st.booleans(),
        st.lists(st.integers(0, 255), max_size=4).map(tuple),
        st.lists(entries, max_size=3).map(tuple),
    ),
    st.builds(
        Exchange,
        ids,
        generations,
        st.booleans(),
        several,
        st.lists(ids, max_size=3).map(tuple),
        st.booleans(),
    ),
    st.builds(Forget, st.just(NOBODY), st.just(Generation(0)), ids),
    st.builds(Forgotten, ids, generations, ids, st.none() | st.sampled_from(Status)),
)


def framed(body: bytes, *, kind: int = Ping.kind, version: int = PROTOCOL_VERSION) -> list[bytes]:
    header, _ = CODEC.encode(Ping(ME, Generation(1), 1, 2, 3))
    parts = list(HEADER.unpack(header))
    parts[1], parts[2], parts[-1] = version, kind, len(body)
    return [HEADER.pack(*parts), body]


@given(messages)
def test_what_is_encoded_is_decoded_to_the_same(message: Message) -> None:
    frames = CODEC.encode(message)
    assert CODEC.decode(frames) == message
    assert CODEC.size(message) == sum(map(len, frames))


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_random_frames_are_refused_with_one_error(frames: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        CODEC.decode(frames)


NASTY: list[object] = [
    *(None, True, -1, 0, 256, 2**32, 2**63, 2**64 - 1, 1.5, 1e308, "", "x" * 300, "é" * 1368),
    *([], {}, [[]], {"a": {}}, ["a:1"], [None] * 9, "a:1", "host:0", "0"),
]


def places(value: object) -> list[tuple[dict[str, object] | list[object], str | int]]:
    """Every place in a JSON value where something else could stand."""
    found: list[tuple[dict[str, object] | list[object], str | int]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [(value, key), *places(inner)]
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += [(value, index), *places(inner)]
    return found


@given(messages, st.integers(0, 13), st.sampled_from(NASTY), st.integers(0, 2**16))
@example(Ping(ME, Generation(1), 1, 2, 3), Buckets.kind, "é" * 1368, 0)
def test_a_wrong_value_anywhere_becomes_a_message_or_the_one_error(
    message: Message, kind: int, wrong: object, where: int
) -> None:
    body = orjson.loads(CODEC.encode(message)[1])
    for own in (message.kind, kind):
        if found := places(body):
            place, key = found[where % len(found)]
            place[key] = deepcopy(wrong)  # type: ignore[index]
        body.setdefault("hashes", deepcopy(wrong))
        try:
            decoded = CODEC.decode(framed(orjson.dumps(body), kind=own))
        except RemoteProtocolError:
            continue
        CODEC.encode(decoded)


@given(messages, st.data())
def test_a_damaged_message_becomes_a_message_or_the_one_error(
    message: Message, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in CODEC.encode(message)]
    frame = frames[data.draw(st.integers(0, 1))]
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255))
    try:
        decoded = CODEC.decode([bytes(f) for f in frames])
    except RemoteProtocolError:
        return
    CODEC.encode(decoded)


def test_a_deeply_nested_body_is_refused() -> None:
    for depth in (100, 300, 1000, 100_000):
        nested = b'{"from":"a:1","claims":[["a:1",1,0,0,1,' + b'{"a":' * depth + b"1" + b"}" * depth
        try:
            CODEC.decode(framed(nested + b"]]}"))
        except RemoteProtocolError:
            assert depth > 100
        else:
            assert depth == 100


def test_an_unknown_version_is_refused_naming_both() -> None:
    with pytest.raises(VersionMismatch) as caught:
        CODEC.decode(framed(b"{}", version=7))
    error = caught.value
    assert (error.theirs, error.oldest, error.newest) == (7, OLDEST_VERSION, PROTOCOL_VERSION)
    assert "version 7" in str(error) and f"{OLDEST_VERSION} to {PROTOCOL_VERSION}" in str(error)


def test_the_versions_of_the_range_are_understood_and_no_other() -> None:
    understood = []
    for version in range(256):
        try:
            CODEC.decode(framed(orjson.dumps({"from": ME}), version=version))
        except VersionMismatch:
            continue
        understood.append(version)
    assert understood == list(range(OLDEST_VERSION, PROTOCOL_VERSION + 1))


@given(messages)
def test_a_message_shows_the_version_that_it_needs_and_the_newest_that_is_understood(
    message: Message,
) -> None:
    frames = CODEC.encode(message)
    assert frames[0][2] == (2 if isinstance(message, Forget | Forgotten) else 1)
    assert CODEC.newest(frames) == PROTOCOL_VERSION


def test_a_newer_version_may_have_another_header() -> None:
    with pytest.raises(VersionMismatch):
        CODEC.decode([b"NM\x09something else entirely", b"?"])


def test_a_message_of_another_mesh_is_refused_by_name() -> None:
    frames = Codec("other").encode(Ping(ME, Generation(1), 1, 2, 3))
    with pytest.raises(RemoteProtocolError, match="another mesh than 'test'"):
        CODEC.decode(frames)


def test_lengths_are_checked_before_the_body_is_parsed() -> None:
    header, body = framed(b"x" * (MAX_BODY_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match="announced"):
        CODEC.decode([header, body])
    with pytest.raises(RemoteProtocolError, match="announced"):
        CODEC.decode([framed(b"{}")[0], b"{} "])


def test_unknown_fields_and_appended_elements_are_ignored() -> None:
    body = {
        "from": ME,
        "later": {"x": 1},
        "claims": [[ME, 1, 0, 0, 1, None, [], [], False, "later", {}]],
    }
    message = CODEC.decode(framed(orjson.dumps(body)))
    assert message == Ping(ME, Generation(1), 1, 2, 3, (Claim(ME, Generation(1), 0, Status(0), 1),))


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:0", "host:65536", "ho st:1", "host:1\n", "::1:5", "h" * 300 + ":1", 5, None],
)
def test_a_sender_must_be_an_address(address: object) -> None:
    with pytest.raises(RemoteProtocolError, match="from"):
        CODEC.decode(framed(orjson.dumps({"from": address})))


def test_only_an_observer_may_be_nobody() -> None:
    with pytest.raises(RemoteProtocolError):
        CODEC.decode(framed(b"{}"))
    assert CODEC.decode(framed(b'{"cursor":0}', kind=Observe.kind)).sender == NOBODY


def test_nobody_may_introduce_somebody_else() -> None:
    other = dump_claim(Claim(MemberId("b:1"), Generation(1), 0, Status.ALIVE, 1, pack_advert({})))
    body = orjson.dumps({"from": ME, "cursor": 0, "me": other})
    with pytest.raises(RemoteProtocolError, match="own record"):
        CODEC.decode(framed(body, kind=Join.kind))


def test_what_cannot_be_decoded_is_never_encoded() -> None:
    big = Claim(ME, Generation(1), 0, Status.ALIVE, 1, pack_advert({"a": "x" * 8000}))
    with pytest.raises(LocalProtocolError):
        CODEC.encode(Gossip(ME, Generation(1), (big,) * 40))
    with pytest.raises(LocalProtocolError):
        CODEC.encode(Ping(ME, Generation(1), 2**32, 0, 0))


def test_a_quiet_ping_is_small() -> None:
    a, b = MemberId("10.123.45.67:17946"), MemberId("10.123.45.68:17946")
    assert CODEC.size(Ping(a, Generation(2**62), 9, 2**64 - 1, 7, (), b)) < 108


@given(claims)
def test_the_size_estimate_of_a_claim_is_an_upper_bound(claim: Claim) -> None:
    assert len(orjson.dumps(dump_claim(claim))) + 1 <= claim_bytes(claim)


@given(entries)
def test_the_size_estimate_of_an_entry_is_an_upper_bound(entry: Entry) -> None:
    assert len(orjson.dumps(dump_entry(entry))) + 1 <= entry_bytes(entry.id)


def test_the_header_has_no_padding() -> None:
    assert HEADER.size == struct.calcsize("!2sBBH8sQIIQI") == 42
