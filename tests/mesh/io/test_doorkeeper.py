"""Strangers at a ROUTER: counted, ended, shut out. Descriptors are those that the test says."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import zmq

from netmesh.io.descriptors import Descriptors
from netmesh.io.doorkeeper import SHARE, Doorkeeper, Strangers
from netmesh.io.newcomers import KEYED_BYTES, YOUNG_S, Newcomers
from netmesh.io.security import SocketSecurity, ZapHandler

from ..support import until

KEYS = SocketSecurity.from_keys([bytes(range(32))], "m")
OTHERS = SocketSecurity.from_keys([bytes(range(32, 64))], "m")

ACCEPTED, SUCCEEDED, ENDED = (
    zmq.EVENT_ACCEPTED,
    zmq.EVENT_HANDSHAKE_SUCCEEDED,
    zmq.EVENT_DISCONNECTED,
)
FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


@pytest.mark.parametrize(
    ("events", "unproved", "proved"),
    [
        ([ACCEPTED], 1, 0),
        ([ACCEPTED, SUCCEEDED], 0, 1),
        ([ACCEPTED, SUCCEEDED, ENDED], 0, 0),
        ([ACCEPTED, FAILED, ENDED], 0, 0),
        ([ACCEPTED, FAILED, FAILED, ENDED], 0, 0),
        ([ACCEPTED, SUCCEEDED, ACCEPTED, FAILED, ENDED], 0, 1),
        ([ACCEPTED, ACCEPTED, SUCCEEDED, ENDED], 1, 0),
        ([ENDED, FAILED, ENDED, SUCCEEDED], 0, 1),
    ],
)
def test_connections_are_counted_by_their_events(
    events: list[int], unproved: int, proved: int
) -> None:
    strangers = Strangers()
    for event in events:
        strangers.saw(event)
    assert (strangers.unproved, strangers.proved) == (unproved, proved)


@dataclass
class Kept:
    """A ROUTER behind a doorkeeper, in a process that has `free` of `limit` descriptors."""

    limit: int = 20_000
    free: int = 10_000
    now: float = 0.0
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)

    def __post_init__(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.port: int = listening.getsockname()[1]
        descriptors = Descriptors(lambda: self.limit, lambda: self.limit - self.free)
        log = logging.getLogger("netmesh.test")
        self.keeper = Doorkeeper(
            listening, "test", log, keyed=True, descriptors=descriptors, clock=lambda: self.now
        )
        self.zap = ZapHandler(self.context, KEYS)
        self.router: zmq.Socket[bytes] = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.HANDSHAKE_IVL, 60_000)
        KEYS.apply_server(self.router)
        self.keeper.attend(self.context, self.router)
        self.router.setsockopt(zmq.USE_FD, listening.dup().detach())
        self.router.bind(f"tcp://127.0.0.1:{self.port}")

    def turn(self) -> int:
        """Let everybody do what is due; the connections that have proved nothing."""
        self.zap.handle()
        self.keeper.look()
        return self.keeper.unproved

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=0.3)

    def gets_in(self, security: SocketSecurity = KEYS) -> bool:
        dealer: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        security.apply_client(dealer)
        dealer.connect(f"tcp://127.0.0.1:{self.port}")
        dealer.send(b"hello")
        try:
            until(lambda: self.turn() >= 0 and self.router.poll(0), 5.0)
        except AssertionError:
            return False
        finally:
            dealer.close(linger=0)
        return self.router.recv_multipart()[1] == b"hello"

    def close(self) -> None:
        self.keeper.dismiss(self.router)
        self.keeper.close()
        self.zap.close()
        self.router.close(linger=0)
        self.context.destroy(linger=0)


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.close()


def test_a_member_is_no_stranger_and_silence_is(kept: Kept) -> None:
    assert kept.gets_in()
    with kept.connect(), kept.connect():
        until(lambda: kept.turn() == 2)
    until(lambda: kept.turn() == 0)


def test_half_of_the_places_taken_ends_those_that_are_silent_for_longest(kept: Kept) -> None:
    kept.limit = 16 * SHARE
    kept.free = kept.limit // 2
    silent = [kept.connect() for _ in range(8)]
    until(lambda: kept.turn() == 8)
    kept.now += 2 * YOUNG_S
    late = kept.connect()
    until(lambda: kept.turn() == 4)
    for one in silent[:5]:
        until(lambda one=one: is_cut(one))  # type: ignore[misc]
    assert kept.gets_in()
    assert not is_cut(late)
    for one in [*silent, late]:
        one.close()


def is_cut(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        while one.recv(999):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_too_many_strangers_shut_the_door_until_they_are_gone(kept: Kept) -> None:
    kept.limit, kept.free = 4 * SHARE, 3 * SHARE
    strangers = [kept.connect() for _ in range(5)]  # too young to be ended
    until(lambda: kept.turn() == 5)
    with pytest.raises(TimeoutError):  # dropped: refused would mean dead
        kept.connect()
    for one in strangers:
        one.close()
    until(lambda: kept.turn() == 0)
    kept.connect().close()


def test_a_process_that_lacks_descriptors_lets_nobody_in_for_now(kept: Kept) -> None:
    kept.free = 100
    kept.turn()
    with pytest.raises(TimeoutError):
        kept.connect()
    kept.free = 10_000
    kept.turn()
    assert kept.gets_in()


def test_who_waits_at_the_door_is_turned_away_when_no_descriptor_is_left() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    descriptors = Descriptors(lambda: 100, lambda: 100)
    log = logging.getLogger("netmesh.test")
    keeper = Doorkeeper(listening, "test", log, keyed=True, descriptors=descriptors)
    waiting = [socket.create_connection(listening.getsockname()) for _ in range(3)]
    keeper.look()
    for one in waiting:
        one.settimeout(5)
        assert one.recv(1) == b""
        one.close()
    keeper.close()


def test_another_key_is_told(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    dealer: zmq.Socket[bytes] = kept.context.socket(zmq.DEALER)
    OTHERS.apply_client(dealer)
    dealer.connect(f"tcp://127.0.0.1:{kept.port}")
    until(lambda: kept.turn() >= 0 and "another cluster key" in caplog.text)
    dealer.close(linger=0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket, int]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
        listening.accept()[0] as accepted,
    ):
        yield client, accepted, listening.getsockname()[1]


def test_only_a_connection_of_the_port_that_proved_nothing_is_ended(
    pair: tuple[socket.socket, socket.socket, int],
) -> None:
    client, accepted, port = pair
    newcomers = Newcomers(port, KEYED_BYTES)
    newcomers.came(accepted.fileno(), 0.0)
    assert newcomers.end(1, YOUNG_S / 2) == 0  # too young
    client.sendall(bytes(KEYED_BYTES + 1))
    accepted.recv(1)
    assert newcomers.end(1, 9.0) == 0  # it has said enough to have proved itself
    assert len(newcomers) == 0
    accepted.sendall(b"x")


def test_a_descriptor_that_became_something_else_is_not_touched(
    pair: tuple[socket.socket, socket.socket, int],
) -> None:
    client, accepted, port = pair
    newcomers = Newcomers(port, KEYED_BYTES)
    number = accepted.fileno()
    newcomers.came(number, 0.0)
    reader, writer = os.pipe()
    kept = os.dup(number)
    os.dup2(reader, number)  # closed, and opened as another file
    try:
        assert newcomers.end(1, 9.0) == 0
        os.write(writer, b"x")
        assert os.read(reader, 1) == b"x"
        client.sendall(b"y")
        assert os.read(kept, 1) == b"y"  # nor the connection, under its other number
    finally:
        os.dup2(kept, number)
        for one in (reader, writer, kept):
            os.close(one)
