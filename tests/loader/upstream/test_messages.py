"""Upstream's JSON, by its releases; and what strangers send instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloader.errors import ProtocolError
from netloader.upstream.messages import (
    MAX_QUESTION,
    JoinAccepted,
    JoinRefused,
    MeshHere,
    UpstreamAnswer,
    UpstreamJoin,
    Who,
    decode_answer,
    decode_question,
    encode_answer,
    encode_question,
    is_whole,
)

JOIN = {"device_id": 3, "model_path": "/models/m", "tp": 4, "pp": 2, "port": 40123}
WANTED = UpstreamJoin(3, "/models/m", 4, 2, 40123)


def said(content: object, label: object = "JOIN") -> bytes:
    return json.dumps({"label": label, "content": content}).encode()


@pytest.mark.parametrize(
    ("more", "group_name", "int8_cache"),
    [
        ({}, "netloader", None),
        ({"group_name": "netloader"}, "netloader", None),
        ({"group_name": "netloader_draft"}, "netloader_draft", None),
        ({"group_name": "netloader", "int8_cache": "no"}, "netloader", "no"),
    ],
    ids=["0.18", "0.23", "0.23's draft", "main"],
)
def test_a_join_of_each_version_is_understood(
    more: dict[str, str], group_name: str, int8_cache: str | None
) -> None:
    heard = decode_question(said(JOIN | more))
    assert heard == UpstreamJoin(3, "/models/m", 4, 2, 40123, group_name, int8_cache)
    assert decode_question(encode_question(heard)) == heard


def test_digits_in_a_string_are_a_number_as_for_upstream() -> None:
    assert decode_question(said(JOIN | {"port": "40123", "tp": "4"})) == WANTED


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"port": 0}, "port must be in 1..65535, not 0"),
        ({"port": 65536}, "port must be"),
        ({"port": True}, "port must be"),
        ({"port": 40123.0}, "port must be"),
        ({"port": "9" * 4000}, "more than 4096 bytes|port must be"),
        ({"port": "\u0663"}, "port must be"),
        ({"port": None}, "port must be"),
        ({"device_id": -1}, "device_id must be"),
        ({"tp": 0}, "tp must be"),
        ({"pp": [1]}, "pp must be"),
        ({"model_path": 7}, "model_path must be a text"),
        ({"model_path": ""}, "model_path must be a text"),
        ({"group_name": None}, "group_name must be a text"),
        ({"int8_cache": {}}, "int8_cache must be a text"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode_question(said(JOIN | wrong))


@pytest.mark.parametrize("name", JOIN)
def test_a_missing_value_is_named(name: str) -> None:
    with pytest.raises(ProtocolError, match=name):
        decode_question(said({key: value for key, value in JOIN.items() if key != name}))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"7", b'"JOIN"', b"\xff" * 10, b"{}", said({}, "GIVE"), said(None)]
)
def test_what_is_no_question_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_question(data)


def test_a_question_has_a_limit() -> None:
    with pytest.raises(ProtocolError, match="more than 4096 bytes"):
        decode_question(said(JOIN | {"model_path": "m" * MAX_QUESTION}))


@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(data: bytes) -> None:
    for decode in (decode_question, decode_answer):
        try:
            decode(data)
        except ProtocolError:
            continue


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
    st.sampled_from([*JOIN, "group_name", "int8_cache", "label", "content"]),
)
def test_no_value_in_any_place_raises_another_error(value: object, place: str) -> None:
    message = {"label": "JOIN", "content": JOIN | {place: value}}
    message |= {place: value} if place in ("label", "content") else {}
    try:
        decode_question(json.dumps(message).encode())
    except ProtocolError:
        return


@pytest.mark.parametrize("cut", range(1, 40))
def test_the_beginning_of_a_message_is_not_all_of_it(cut: int) -> None:
    whole = said(JOIN)
    assert is_whole(whole)
    assert not is_whole(whole[:-cut])


@pytest.mark.parametrize(
    "answer", [JoinAccepted("10.0.0.1:5"), JoinRefused("no"), MeshHere()], ids=str
)
def test_answers_come_back_as_they_were(answer: UpstreamAnswer) -> None:
    assert decode_answer(encode_answer(answer)) == answer


def test_who_comes_back_as_who() -> None:
    assert decode_question(encode_question(Who())) == Who()


@given(st.text())
def test_every_refusal_fits_upstreams_only_read(reason: str) -> None:
    data = encode_answer(JoinRefused(reason))
    assert len(data) <= 1024
    assert json.loads(data.decode("utf-8"))["label"] == "JOIN_NACK"


@pytest.mark.parametrize("reason", ["\x00" * 5000, '"' * 5000, "\N{SNOWMAN}" * 5000])
def test_a_refusal_that_grows_when_quoted_fits_too(reason: str) -> None:
    assert len(encode_answer(JoinRefused(reason))) <= 1024


def test_what_upstreams_servers_answer_is_understood() -> None:
    refusal = {"label": "JOIN_NACK", "content": "Received data does not contain required fields"}
    shapes = {"label": "JOIN_ACK", "content": {"name": "1.2.3.4:5", "transfer_shapes": {"w": [2]}}}
    assert isinstance(decode_answer(json.dumps(refusal).encode()), JoinRefused)
    assert decode_answer(json.dumps(shapes).encode()) == JoinAccepted("1.2.3.4:5", processed=True)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"label": "JOIN_ACK"},
        {"label": "JOIN_ACK", "content": {}},
        {"label": "JOIN_ACK", "content": {"name": 5}},
        {"label": "JOIN_NACK", "content": None},
        {"label": 5, "content": "x"},
    ],
)
def test_what_is_no_answer_is_an_error(answer: object) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(json.dumps(answer).encode())
