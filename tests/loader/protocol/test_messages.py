from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.loader.support import hello, toy_weights

from netloader.errors import ProtocolError
from netloader.protocol import messages

SESSION = "0" * 32
HELLO = hello(toy_weights())
ACCEPT = messages.Accept(
    session=SESSION,
    generation=(1 << 64) - 1,
    identity=SESSION,
    manifest=SESSION,
    attributes={"a": True, "b": 1, "c": 1.0, "d": "x", "e": None, "f": {"y", "x"}, "g": ([{}],)},
    host="::1",
    port=1,
    secret="s",
    have=((0, 5), (7, 9)),
)
MESSAGES: list[messages.Message] = [
    HELLO,
    ACCEPT,
    messages.Refuse(code="busy", reason="full", retry_after_s=1.5),
    messages.Want(session=SESSION, chunks=(3, 1, 2)),
    messages.Have(session=SESSION, chunks=()),
    messages.Done(session=SESSION),
    messages.Bye(session=SESSION, reason="enough"),
    messages.Bye(session=SESSION, reason="wrong bytes", bad_chunk=5),
    ACCEPT.model_copy(update={"message_bytes": 1 << 20}),
    messages.Refuse(code="manifest", reason="tensors differ", loaded={"x": {"w1", "w2"}}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_message_survives_the_wire(message: messages.Message) -> None:
    assert messages.decode(messages.encode(message)) == (message, b"")


def test_attachment_travels_in_a_frame_of_its_own() -> None:
    assert messages.decode(messages.encode(ACCEPT, b"digests")) == (ACCEPT, b"digests")


def test_unknown_fields_are_ignored() -> None:
    data = json.loads(messages.encode(HELLO)[0]) | {"later": {"version": 2}}
    assert messages.decode([json.dumps(data).encode()])[0] == HELLO


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e308, -0.0, 10**30])
def test_numbers_are_not_turned_into_others(value: float) -> None:
    sent = ACCEPT.model_copy(update={"attributes": {"x": value}})
    message, _ = messages.decode(messages.encode(sent))
    assert isinstance(message, messages.Accept)
    arrived = message.attributes["x"]
    assert type(arrived) is type(value)
    assert repr(arrived) == repr(value)


def test_equal_attributes_are_the_same_bytes() -> None:
    names = [f"w{number}" for number in range(50)]
    one = ACCEPT.model_copy(update={"attributes": {"x": set(names)}})
    other = ACCEPT.model_copy(update={"attributes": {"x": set(names[25:]) | set(names)}})
    assert messages.encode(one) == messages.encode(other)
    assert b'{"set":["w0","w1","w10",' in messages.encode(one)[0]


def test_what_earlier_peers_leave_out_means_whole_chunks_and_no_accusation() -> None:
    accept = json.loads(messages.encode(ACCEPT)[0])
    bye = json.loads(messages.encode(MESSAGES[6])[0])
    del accept["message_bytes"], bye["bad_chunk"]
    for data, expected in ((accept, ACCEPT), (bye, MESSAGES[6])):
        assert messages.decode([json.dumps(data).encode()])[0] == expected
    assert ACCEPT.message_bytes == messages.MAX_BULK_MESSAGE_BYTES


def test_a_refusal_without_attributes_is_what_it_was() -> None:
    assert "loaded" not in json.loads(messages.encode(MESSAGES[2])[0])


def changed(message: messages.Message, **changes: object) -> bytes:
    return json.dumps(json.loads(messages.encode(message)[0]) | changes).encode()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"type": "nonsense"}',
        b"[" * 10_000,
        changed(HELLO, generation=-1),
        changed(HELLO, generation=1 << 64),
        changed(HELLO, identity="x" * 32),
        changed(HELLO, manifest="0" * 33),
        changed(HELLO, chunk_bytes=0),
        changed(HELLO, replica="x" * 2049),
        changed(HELLO, fields={str(number): 1 for number in range(513)}),
        changed(HELLO, names={str(number): "x" for number in range(9)}),
        changed(HELLO, names={"model": 1}),
        changed(ACCEPT, content={"sample": 1}),
        changed(ACCEPT, computed={"buffer": "0" * 31}),
        changed(HELLO, fields={"x" * 513: 1}),
        changed(HELLO, fields={"x": 1 << 63}),
        changed(HELLO, fields={"x": [1]}),
        changed(HELLO, content={"x": 5}),
        changed(ACCEPT, port=0),
        changed(ACCEPT, port=65_536),
        changed(ACCEPT, have=[[0, 1, 2]]),
        changed(ACCEPT, attributes=[1]),
        changed(ACCEPT, attributes={"x" * 513: 1}),
        changed(ACCEPT, attributes={"x": "y" * 2049}),
        changed(ACCEPT, attributes={"x": {}}),
        changed(ACCEPT, attributes={"x": {"set": [[1]]}}),
        changed(ACCEPT, attributes={"x": {"object": []}}),
        changed(ACCEPT, attributes={str(number): 1 for number in range(10_001)}),
        changed(ACCEPT, message_bytes=0),
        changed(ACCEPT, message_bytes=65_535),
        changed(ACCEPT, message_bytes=(1 << 30) + 1),
        changed(MESSAGES[6], bad_chunk=-1),
        changed(MESSAGES[6], bad_chunk=messages.MAX_CHUNKS),
        changed(MESSAGES[2], code="because"),
        changed(MESSAGES[2], retry_after_s=-1),
        changed(MESSAGES[2], retry_after_s=1e999),
        changed(MESSAGES[2], retry_after_s=math.nan),
        changed(MESSAGES[3], session="short"),
        changed(MESSAGES[3], chunks=[-1]),
        changed(MESSAGES[3], chunks=[messages.MAX_CHUNKS]),
        changed(MESSAGES[3], chunks=[0] * 65_537),
    ],
)
def test_what_is_not_in_the_grammar_is_a_protocol_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        messages.decode([frame])
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("frames", [[], [b"", b"", b""]])
def test_wrong_number_of_frames_is_a_protocol_error(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="1 or 2 frames"):
        messages.decode(frames)


def test_oversize_frames_are_protocol_errors_before_they_are_parsed() -> None:
    with pytest.raises(ProtocolError, match="is over"):
        messages.decode([b" " * (messages.MAX_MESSAGE_BYTES + 1)])
    with pytest.raises(ProtocolError, match="an attachment of"):
        messages.decode([b"{}", bytes(messages.MAX_ATTACHMENT_BYTES + 1)])


def test_error_text_quotes_a_peer_shortly_and_without_control_characters() -> None:
    frame = json.dumps({"type": "hello", "content": {"\n\x1b" * 200: 5}}).encode()
    for bad in (frame, json.dumps({"type": "\x1b\n" + "x" * 100_000}).encode()):
        with pytest.raises(ProtocolError) as caught:
            messages.decode([bad])
        assert len(str(caught.value)) < 600
        assert str(caught.value).isprintable()


@given(st.lists(st.binary(max_size=300), max_size=3))
def test_any_bytes_are_a_message_or_a_protocol_error(frames: list[bytes]) -> None:
    try:
        messages.decode(frames)
    except ProtocolError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(
    st.sampled_from(MESSAGES),
    st.dictionaries(
        st.sampled_from(
            sorted({key for message in MESSAGES for key in type(message).model_fields})
        ),
        JSON,
        max_size=4,
    ),
)
def test_any_value_in_any_field_is_a_message_or_a_protocol_error(
    message: messages.Message, changes: dict[str, object]
) -> None:
    try:
        decoded, _ = messages.decode([changed(message, **changes)])
    except ProtocolError:
        return
    messages.encode(decoded)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"want","session":"%s","chunks":[%s]}'
        % (b"0" * 32, b",".join([b'""'] * 1_000_000)),
        b'{"type":"have","session":"%s","chunks":[%s]}'
        % (b"0" * 32, b",".join([b"[]"] * 1_000_000)),
    ],
    ids=["want", "have"],
)
def test_a_million_wrong_elements_cost_no_more_than_one(body: bytes) -> None:
    """pydantic would collect an error for each: seconds of processor time and a gigabyte."""
    started = time.process_time()
    with pytest.raises(ProtocolError, match="chunks"):
        messages.decode([body])
    assert time.process_time() - started < 2
