"""Chunks on their way through one group, in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.loader.support import toy_weights
from tests.loader.transport import carriers

from netloader.errors import DigestMismatch, TransportError
from netloader.replica.receiver import Receiver, verify
from netloader.replica.state import Assignment
from netloader.transport.memory import MemoryBackend
from netloader.weights import digests

WEIGHTS = toy_weights(1, rows=200)
CHUNKS = WEIGHTS.manifest.chunks()
MESSAGE_BYTES = 10_000
assert CHUNKS[0].nbytes > 3 * MESSAGE_BYTES


@pytest.fixture
def pair() -> Iterator[carriers.GroupPair]:
    made = carriers.open_pair(MemoryBackend())
    yield made
    made.abort()


def assignment(number: int) -> Assignment:
    chunk = CHUNKS[number]
    return Assignment(chunk, torch.zeros(chunk.nbytes, dtype=torch.uint8), None)


def bytes_of(number: int) -> torch.Tensor:
    chunk = CHUNKS[number]
    return WEIGHTS.pack(chunk, torch.empty(chunk.nbytes, dtype=torch.uint8)).clone()


def send(pair: carriers.GroupPair, number: int) -> None:
    for part in torch.split(bytes_of(number), MESSAGE_BYTES):
        pair.source.send(part, number)


def receiver_of(pair: carriers.GroupPair, timeout_s: float = 10.0) -> Receiver:
    return Receiver(pair.replica, MESSAGE_BYTES, timeout_s)


def test_a_chunk_arrives_in_messages_and_in_the_order_of_asking(pair: carriers.GroupPair) -> None:
    receiver = receiver_of(pair)
    for number in (1, 0):
        receiver.post(assignment(number))
    for number in (0, 1):
        send(pair, number)
    assert len(receiver) == 2
    for number in (1, 0):
        arrived = receiver.wait()
        assert arrived.chunk.id == number
        assert torch.equal(arrived.data, bytes_of(number))
    assert not receiver


def test_what_does_not_come_in_time_is_an_error(pair: carriers.GroupPair) -> None:
    receiver = receiver_of(pair, timeout_s=0.01)
    receiver.post(assignment(0))
    with pytest.raises(TransportError, match="timed out"):
        receiver.wait()


def test_what_had_arrived_when_the_group_broke_is_as_good_as_ever(pair: carriers.GroupPair) -> None:
    receiver = receiver_of(pair)
    for number in (0, 1):
        receiver.post(assignment(number))
    send(pair, 0)
    pair.source.abort()
    assert torch.equal(receiver.wait().data, bytes_of(0))
    with pytest.raises(TransportError):
        receiver.wait()


def test_a_closed_receiver_writes_nothing_any_more(pair: carriers.GroupPair) -> None:
    receiver, asked = receiver_of(pair), assignment(0)
    receiver.post(asked)
    receiver.close()
    assert not receiver
    with pytest.raises(TransportError):
        send(pair, 0)
    assert not asked.data.any()
    with pytest.raises(TransportError):
        receiver.post(asked)


def test_bytes_are_compared_with_the_promise() -> None:
    arrived = Assignment(CHUNKS[0], bytes_of(0), None)
    promised = digests.of_bytes(arrived.data)
    verify("a:1", arrived, promised, "xxh3")
    arrived.data[5] ^= 1
    with pytest.raises(DigestMismatch, match="chunk 0 has digest") as caught:
        verify("a:1", arrived, promised, "xxh3")
    assert promised.hex() in caught.value.reason
    assert caught.value.chunk == 0
