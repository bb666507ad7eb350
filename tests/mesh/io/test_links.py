import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from tests.fastest import at_most

from netmesh.core.records import MemberId
from netmesh.io import links as module
from netmesh.io.links import MAX_LINKS, Links, harden
from netmesh.io.security import SocketSecurity, ZapHandler

from .conftest import Pump

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
PLAIN = SocketSecurity((), "")


class Peer:
    """A ROUTER that collects what arrives, on a port that can be re-used."""

    def __init__(self, pump: Pump, security: SocketSecurity = PLAIN, port: int = 0) -> None:
        self.pump = pump
        self.got: list[list[bytes]] = []
        self.socket: zmq.Socket[bytes] = pump.context.socket(zmq.ROUTER)
        harden(self.socket)
        security.apply_server(self.socket)
        self.socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.port = int(self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self.id = MemberId(f"127.0.0.1:{self.port}")
        pump.reactor.add(self.socket, lambda: self.got.append(self.socket.recv_multipart()))

    def close(self) -> None:
        self.pump.reactor.remove(self.socket)
        self.socket.close(linger=0)


class Setup:
    """Links and what they reported."""

    def __init__(self, pump: Pump, security: SocketSecurity = PLAIN) -> None:
        self.dead: set[str] = set()
        self.received: list[tuple[str, list[bytes]]] = []
        self.lost: list[str] = []
        self.links = Links(
            pump.context,
            pump.reactor,
            security,
            pump.counters,
            received=lambda member, frames: self.received.append((member, frames)),
            lost=self.lost.append,
            live=lambda member: member not in self.dead,
        )


@pytest.fixture
def setup(pump: Pump) -> Iterator[Setup]:
    made = Setup(pump)
    yield made
    made.links.close()


def test_answers_come_back_over_the_same_link(pump: Pump, setup: Setup) -> None:
    peer = Peer(pump)
    setup.links.send(peer.id, [b"ping", b""], 0.0)
    pump.until(lambda: peer.got)
    peer.socket.send_multipart([peer.got[0][0], b"ack", b"x"])
    pump.until(lambda: setup.received)
    assert setup.received == [(peer.id, [b"ack", b"x"])]
    assert len(setup.links) == 1


def test_links_are_bounded_and_the_least_recently_used_goes(pump: Pump, setup: Setup) -> None:
    watched = MemberId("127.0.0.1:1")
    setup.links.watch(frozenset({watched}), 0.0)
    for number in range(200):
        setup.links.send(MemberId(f"127.0.0.1:{2000 + number}"), [b"", b""], 0.0)
    assert len(setup.links) == MAX_LINKS
    assert pump.counters["links.evicted"] == 201 - MAX_LINKS
    assert watched in setup.links  # the oldest of all, but watched
    assert MemberId("127.0.0.1:2199") in setup.links


def test_idle_links_are_closed_but_watched_ones_are_not(setup: Setup) -> None:
    watched, idle, busy = (MemberId(f"127.0.0.1:{port}") for port in (1, 2, 3))
    setup.links.watch(frozenset({watched}), 0.0)
    setup.links.send(idle, [b"", b""], 0.0)
    setup.links.send(busy, [b"", b""], 20.0)
    setup.links.expire(31.0)
    assert [one in setup.links for one in (watched, idle, busy)] == [True, False, True]


def test_a_full_queue_drops_and_counts(pump: Pump, setup: Setup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never speaks ZMTP
        target = MemberId(f"127.0.0.1:{server.getsockname()[1]}")
        for _ in range(module.SEND_QUEUE + 10):
            setup.links.send(target, [b"", b""], 0.0)
        assert pump.counters["dropped.send_queue_full"] == 10


def test_bad_ids_are_dropped_and_counted(pump: Pump, setup: Setup) -> None:
    setup.links.send(MemberId("some.name:5"), [b"", b""], 0.0)
    setup.links.watch(frozenset({MemberId("0.0.0.0:5")}), 0.0)
    assert len(setup.links) == 0
    assert pump.counters["dropped.bad_address"] == 2


def test_too_many_watched_are_cut_and_counted(pump: Pump, setup: Setup) -> None:
    setup.links.watch(frozenset(MemberId(f"127.0.0.1:{port}") for port in range(1, 31)), 0.0)
    assert len(setup.links) == module.MAX_WATCHED
    assert pump.counters["dropped.watch"] == 30 - module.MAX_WATCHED


def test_a_broken_watched_link_is_told_once_and_again_after_it_worked(
    pump: Pump, setup: Setup
) -> None:
    peer = Peer(pump)
    setup.links.watch(frozenset({peer.id}), 0.0)
    setup.links.send(peer.id, [b"", b""], 0.0)
    pump.until(lambda: peer.got)
    peer.close()
    with at_most(5.0):  # keepalive alone would take six seconds
        pump.until(lambda: setup.lost)
    again = Peer(pump, port=peer.port)
    setup.links.send(peer.id, [b"", b""], 0.0)
    pump.until(lambda: again.got)
    assert setup.lost == [peer.id]  # failed reconnects in between told nothing new
    again.close()
    pump.until(lambda: len(setup.lost) == 2)


def test_a_watched_peer_that_is_not_there_is_told(pump: Pump, setup: Setup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = MemberId(f"127.0.0.1:{server.getsockname()[1]}")
    setup.links.watch(frozenset({target}), 0.0)
    pump.until(lambda: setup.lost == [target])


def test_unwatched_links_tell_nothing(pump: Pump, setup: Setup) -> None:
    peer = Peer(pump)
    setup.links.watch(frozenset({peer.id}), 0.0)
    setup.links.send(peer.id, [b"", b""], 0.0)
    pump.until(lambda: peer.got)
    watching = len(pump.reactor)
    setup.links.watch(frozenset(), 0.0)
    assert len(pump.reactor) == watching - 1  # nobody looks at the monitor any more
    peer.close()
    for _ in range(10):
        pump.reactor.poll(0.01)
    assert setup.lost == []


def test_watching_an_open_link_does_not_break_it(pump: Pump, setup: Setup) -> None:
    peer = Peer(pump)
    setup.links.send(peer.id, [b"", b""], 0.0)
    pump.until(lambda: peer.got)
    setup.links.watch(frozenset({peer.id}), 0.0)
    assert pump.counters["links.opened"] == 1
    peer.close()
    pump.until(lambda: setup.lost == [peer.id])


def test_an_oversize_frame_ends_the_connection(pump: Pump, setup: Setup) -> None:
    peer = Peer(pump)
    setup.links.send(peer.id, [b"x" * (module.MAX_FRAME + 1), b""], 0.0)
    setup.links.send(peer.id, [b"fine", b""], 0.0)
    pump.until(lambda: peer.got)
    assert [frames[1] for frames in peer.got] == [b"fine"]


def test_the_next_key_is_tried_when_a_peer_does_not_know_the_first(pump: Pump) -> None:
    served = SocketSecurity.from_keys([KEY, OTHER], "m")
    zap = ZapHandler(pump.context, served, pump.counters)
    pump.reactor.add(zap.socket, zap.handle)
    peer = Peer(pump, served)
    setup = Setup(pump, SocketSecurity.from_keys([OTHER, KEY], "m"))
    for number in range(3):
        setup.links.send(peer.id, [b"%d" % number, b""], 0.0)
    pump.until(lambda: len(peer.got) == 3)
    assert [frames[1] for frames in peer.got] == [b"0", b"1", b"2"]
    assert len(pump.reactor) == 3  # ZAP, peer and link: the monitor was for the handshake only
    assert pump.counters["links.handshake_failed"] == 1
    setup.links.close()


class Starved(zmq.Socket[bytes]):
    """Finds no descriptor left when it connects over the network; monitors stay inside."""

    def connect(self, addr: str) -> Any:
        if addr.startswith("inproc:"):
            return super().connect(addr)
        raise zmq.ZMQError(errno.EMFILE)


def test_a_link_that_cannot_be_made_leaves_no_socket_behind() -> None:
    """One that stayed open would keep the context, and with it the process, from closing."""
    made: list[zmq.Socket[bytes]] = []

    class Context(zmq.Context[zmq.Socket[bytes]]):
        def socket(self, *args: Any, **kwargs: Any) -> Any:
            made.append(super().socket(*args, socket_class=Starved, **kwargs))
            return made[-1]

    pump = Pump(Context())
    setup = Setup(pump)
    with pytest.raises(zmq.ZMQError):
        setup.links.watch(frozenset({MemberId("127.0.0.1:2000")}), 0.0)
    assert made and all(socket.closed for socket in made)
    assert len(setup.links) == 0
    assert len(pump.reactor) == 0
    pump.context.destroy(linger=0)


class Closed:
    """Accepts connections, counts them and closes them at once."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.id = MemberId(f"127.0.0.1:{self._listener.getsockname()[1]}")
        self.accepted = 0

    def accept(self) -> int:
        try:
            while True:
                self._listener.accept()[0].close()
                self.accepted += 1
        except BlockingIOError:
            return self.accepted

    def close(self) -> None:
        self._listener.close()


def test_a_link_to_a_dead_member_connects_once_and_a_link_to_a_living_one_again(
    pump: Pump, setup: Setup
) -> None:
    dead, living = Closed(), Closed()
    setup.dead.add(dead.id)
    setup.links.send(dead.id, [b"h", b""], 0.0)
    setup.links.send(living.id, [b"h", b""], 0.0)
    pump.until(lambda: living.accept() >= 4)
    pump.until(lambda: dead.id not in setup.links)
    assert dead.accept() == 1 and living.id in setup.links
    dead.close()
    living.close()


def test_a_link_whose_member_dies_is_closed(pump: Pump, setup: Setup) -> None:
    peer = Peer(pump)
    setup.links.send(peer.id, [b"h", b""], 0.0)
    pump.until(lambda: peer.got)
    setup.links.expire(1.0)
    assert peer.id in setup.links
    setup.dead.add(peer.id)
    setup.links.expire(2.0)
    assert peer.id not in setup.links


def test_a_link_to_a_stranger_lives_as_long_as_its_connection(pump: Pump, setup: Setup) -> None:
    """A contact is no member until it has answered; later the link is an ordinary one."""
    peer = Peer(pump)
    setup.dead.add(peer.id)
    setup.links.send(peer.id, [b"join", b""], 0.0)
    pump.until(lambda: peer.got)
    setup.links.expire(2.0)
    assert peer.id in setup.links
    setup.dead.clear()
    setup.links.watch(frozenset({peer.id}), 3.0)
    peer.close()
    pump.until(lambda: setup.lost)
    again = Peer(pump, port=peer.port)
    setup.links.send(again.id, [b"ping", b""], 4.0)
    pump.until(lambda: [b"ping", b""] in [frames[1:] for frames in again.got])
