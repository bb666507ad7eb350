"""What a peer on the wire can do to a group over TCP: break it, and nothing else."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
import torch
from tests.fastest import at_most

from netloader.errors import TransportError
from netloader.transport.base import REPLICA, SOURCE
from netloader.transport.lane import HEADER, PlainFraming
from netloader.transport.sealed import RECORD_BYTES, SealedFraming
from netloader.transport.stripes import LANES, STRIPE_FROM
from netloader.transport.tcp import TcpGroup

LATE_S, PROMPT_S = 60.0, 1.0
SECRET = "5e" * 16


def zeros(nbytes: int) -> torch.Tensor:
    return torch.zeros(nbytes, dtype=torch.uint8)


def connections() -> tuple[list[socket.socket], list[socket.socket]]:
    """Both ends of `LANES` TCP connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine, theirs = [], []
        for _ in range(LANES):
            mine.append(socket.create_connection(listener.getsockname(), LATE_S))
            theirs.append(listener.accept()[0])
    return mine, theirs


@dataclass
class Attacked:
    """A replica's group, and its peer as bare connections."""

    group: TcpGroup
    peer: list[socket.socket]

    def fails(self, nbytes: int, tag: int = 2) -> str:
        """Why a receive fails. No byte beyond the posted ones may be touched."""
        room = torch.full((nbytes + 64,), 7, dtype=torch.uint8)
        with pytest.raises(TransportError) as caught:
            self.group.recv(room[:nbytes], tag).wait(LATE_S)
        assert bool((room[nbytes:] == 7).all())
        return str(caught.value)


@pytest.fixture
def attacked() -> Iterator[Attacked]:
    mine, theirs = connections()
    group = TcpGroup(mine, [PlainFraming() for _ in mine], REPLICA)
    yield Attacked(group, theirs)
    group.abort()
    for one in theirs:
        one.close()


@pytest.mark.parametrize("nbytes", [0, 1, 1000, 5000, 1 << 40, (1 << 64) - 1])
def test_a_message_of_another_size_breaks_the_group_and_writes_nothing(
    attacked: Attacked, nbytes: int
) -> None:
    attacked.peer[0].sendall(HEADER.pack(2, nbytes) + bytes(3000))
    assert f"it sent {nbytes} bytes (tag 2) instead" in attacked.fails(2000)


def test_a_message_of_another_tag_breaks_the_group(attacked: Attacked) -> None:
    attacked.peer[0].sendall(HEADER.pack(4, 2000) + bytes(2000))
    assert "it sent 2000 bytes (tag 4) instead" in attacked.fails(2000)


def test_noise_breaks_the_group(attacked: Attacked) -> None:
    attacked.peer[0].sendall(b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n")
    assert "instead" in attacked.fails(100)


def test_bytes_that_nobody_asked_for_stay_in_the_connection(attacked: Attacked) -> None:
    attacked.peer[0].sendall(HEADER.pack(2, 10) + b"0123456789" + b"more" * 1000)
    room = zeros(10)
    attacked.group.recv(room, 2).wait(LATE_S)
    assert bytes(room.numpy()) == b"0123456789"


def test_a_peer_that_resets_the_connection_is_missed_by_sender_and_receiver() -> None:
    mine, theirs = connections()
    group = TcpGroup(mine, [PlainFraming() for _ in mine], SOURCE)
    sending = group.send(zeros(64 << 20), 2)
    receiving = group.recv(zeros(1), 2)
    for one in theirs:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    for pending in (sending, receiving):
        with pytest.raises(TransportError):
            pending.wait(LATE_S)
    group.abort()


class LateFraming(PlainFraming):
    """Reads only once the group has been broken, and then all there is."""

    def __init__(self) -> None:
        self.reading = threading.Event()

    def recv(
        self, connection: socket.socket, tag: int, nbytes: int, rooms: Iterable[memoryview]
    ) -> None:
        self.reading.set()
        poll = select.poll()
        poll.register(connection, 0)
        poll.poll(LATE_S * 1000)  # Both ways are shut.
        while connection.recv(1 << 20):
            pass


def test_a_sender_that_found_no_more_room_hears_that_its_peer_has_gone() -> None:
    """What is read after the connection was shut makes room that nobody is told of."""
    mine, theirs = connections()
    framing = LateFraming()
    group = TcpGroup(mine, [framing, PlainFraming()], REPLICA)
    receiving = group.recv(zeros(1), 2)
    assert framing.reading.wait(LATE_S)
    theirs[0].settimeout(0.2)
    with pytest.raises(TimeoutError):
        while True:
            theirs[0].send(bytes(1 << 20))
    group.abort()
    theirs[0].settimeout(LATE_S)
    with at_most(PROMPT_S), pytest.raises(ConnectionError):
        while True:
            theirs[0].send(bytes(1 << 20))
    del receiving


def test_half_of_a_message_is_no_message(attacked: Attacked) -> None:
    attacked.peer[0].sendall(HEADER.pack(2, 2000) + bytes(1999))
    attacked.peer[0].close()
    assert "the connection was closed" in attacked.fails(2000)


def test_if_one_lane_breaks_the_other_ends_too(attacked: Attacked) -> None:
    room = zeros(STRIPE_FROM)
    arriving = attacked.group.recv(room, 2)
    attacked.peer[1].close()
    with pytest.raises(TransportError):
        arriving.wait(LATE_S)
    attacked.peer[0].settimeout(LATE_S)
    assert attacked.peer[0].recv(1) == b""


# Sealed


@dataclass
class Between:
    """Two groups, and somebody on the wire between them."""

    source: TcpGroup
    replica: TcpGroup
    from_source: list[socket.socket]
    to_replica: list[socket.socket]

    def overhear(self, nbytes: int) -> bytes:
        """The next bytes of the source on the first lane."""
        self.from_source[0].settimeout(LATE_S)
        heard = b""
        while len(heard) < nbytes and (part := self.from_source[0].recv(nbytes - len(heard))):
            heard += part
        return heard

    def fails(self, sealed: bytes, nbytes: int) -> str:
        """Why the replica takes no message from what reaches it."""
        self.to_replica[0].sendall(sealed)
        self.to_replica[0].shutdown(socket.SHUT_WR)
        with pytest.raises(TransportError) as caught:
            self.replica.recv(zeros(nbytes), 2).wait(LATE_S)
        return str(caught.value)


@pytest.fixture
def between() -> Iterator[Between]:
    source, from_source = connections()
    replica, to_replica = connections()
    both = Between(
        TcpGroup(source, [SealedFraming(SECRET, SOURCE, lane) for lane in range(LANES)], SOURCE),
        TcpGroup(replica, [SealedFraming(SECRET, REPLICA, lane) for lane in range(LANES)], REPLICA),
        from_source,
        to_replica,
    )
    yield both
    both.source.abort()
    both.replica.abort()
    for one in from_source + to_replica:
        one.close()


HEAD = HEADER.size + 16
"""Bytes of a sealed header."""


def sealed(between: Between, data: bytes) -> bytes:
    """A message as the source puts it on the wire."""
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    between.source.send(tensor, 2).wait(LATE_S)
    records = -(-len(data) // RECORD_BYTES)
    return between.overhear(HEAD + len(data) + 16 * records)


def test_who_listens_on_the_wire_sees_no_weight(between: Between) -> None:
    word = b"a word of the weights"
    overheard = sealed(between, word * 100)
    assert word not in overheard
    assert len(overheard) > 100 * len(word)


def test_the_same_bytes_never_look_the_same(between: Between) -> None:
    assert sealed(between, bytes(1000)) != sealed(between, bytes(1000))


def test_what_passes_unchanged_arrives(between: Between) -> None:
    data = bytes(range(256)) * (RECORD_BYTES // 256) + b"tail"
    between.to_replica[0].sendall(sealed(between, data))
    room = zeros(len(data))
    between.replica.recv(room, 2).wait(LATE_S)
    assert bytes(room.numpy()) == data


@pytest.mark.parametrize("at", [0, HEAD - 1, HEAD, HEAD + 500, -1])
def test_a_changed_bit_is_found(between: Between, at: int) -> None:
    changed = bytearray(sealed(between, bytes(1000)))
    changed[at] ^= 1
    assert "changed on the way" in between.fails(bytes(changed), 1000)


def test_a_repeated_message_is_found(between: Between) -> None:
    once = sealed(between, bytes(1000))
    between.to_replica[0].sendall(once)
    between.replica.recv(zeros(1000), 2).wait(LATE_S)
    assert "changed on the way" in between.fails(once, 1000)


def test_a_message_that_is_left_out_is_found(between: Between) -> None:
    sealed(between, bytes(1000))
    assert "changed on the way" in between.fails(sealed(between, bytes(1000)), 1000)


def test_records_that_change_places_are_found(between: Between) -> None:
    whole = sealed(between, bytes(2 * RECORD_BYTES))
    head, size = whole[:HEAD], RECORD_BYTES + 16
    first, second = whole[HEAD : HEAD + size], whole[HEAD + size :]
    assert "changed on the way" in between.fails(head + second + first, 2 * RECORD_BYTES)


def test_the_lanes_and_the_two_directions_have_keys_of_their_own(between: Between) -> None:
    """What a peer sent cannot come back as the other's words, or on the other lane."""
    overheard = sealed(between, bytes(100))
    between.to_replica[1].sendall(overheard)
    with pytest.raises(TransportError, match="changed on the way"):
        between.replica.recv(zeros(100), 3).wait(LATE_S)


def test_its_own_words_do_not_come_back(between: Between) -> None:
    overheard = sealed(between, bytes(100))
    between.from_source[0].sendall(overheard)
    with pytest.raises(TransportError, match="changed on the way"):
        between.source.recv(zeros(100), 2).wait(LATE_S)


def test_another_secret_opens_nothing() -> None:
    mine, theirs = connections()
    source = TcpGroup(mine, [SealedFraming("0" * 32, SOURCE, lane) for lane in (0, 1)], SOURCE)
    replica = TcpGroup(theirs, [SealedFraming("1" * 32, REPLICA, lane) for lane in (0, 1)], REPLICA)
    sending = source.send(zeros(10), 2)
    with pytest.raises(TransportError, match="not sealed by the session's secret"):
        replica.recv(zeros(10), 2).wait(LATE_S)
    source.abort()
    replica.abort()
    del sending
