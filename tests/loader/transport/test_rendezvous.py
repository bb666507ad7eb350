"""How two ranks meet. What each backend makes of a meeting is in `conformance`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import timedelta

import pytest
from tests.fastest import HANG_S, at_most
from tests.loader.support import descriptors
from tests.loader.transport.carriers import started
from torch._C._distributed_c10d import Store

from netloader.errors import BlockedPort
from netloader.transport import REPLICA, Group, Rendezvous, TransportError, join
from netloader.transport.memory import MemoryBackend
from netloader.transport.store import LANE, PROOF, AuthenticatedStore
from netloader.transport.tcp import TcpBackend
from netmesh import Door

LATE_S, PROMPT_S = HANG_S, 1.0


def test_the_port_is_listening_before_anybody_is_told() -> None:
    rendezvous = Rendezvous("127.0.0.1", LATE_S)
    socket.create_connection(("127.0.0.1", rendezvous.port), 1).close()
    rendezvous.close()


def test_the_replica_finds_the_store_and_its_own_address() -> None:
    hosts: list[str] = []

    class NotingBackend(MemoryBackend):
        def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
            hosts.append(host)
            return super().open(store, rank, host, timeout)

    backend, rendezvous = NotingBackend(), Rendezvous("127.0.0.1", LATE_S)
    opening = started(lambda: rendezvous.open(backend))
    join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, LATE_S).abort()
    opening.result(LATE_S).abort()
    assert hosts == ["127.0.0.1"] * 2


def test_replica_that_never_comes_is_given_up_after_the_timeout() -> None:
    rendezvous = Rendezvous("127.0.0.1", 0.1)
    with pytest.raises(TransportError, match=r"did not come within 0\.1 s"):
        rendezvous.open(MemoryBackend())


def drip(peer: socket.socket, stop: threading.Event) -> None:
    """Announce a long entry, and send it a byte at a time."""
    with peer:
        try:
            peer.sendall((60_000).to_bytes(4, "big") + bytes(32))
            while not stop.wait(0.0001):
                peer.sendall(b"x")
        except OSError:
            return  # It was given up, as it should.


def test_a_stranger_who_sends_a_byte_at_a_time_holds_nobody_up() -> None:
    rendezvous = Rendezvous("127.0.0.1", 0.3)
    stop = threading.Event()
    peers = [socket.create_connection(("127.0.0.1", rendezvous.port), 1) for _ in range(3)]
    dripping = [started(lambda one=peer: drip(one, stop)) for peer in peers]
    with at_most(PROMPT_S), pytest.raises(TransportError):
        rendezvous.open(MemoryBackend())
    stop.set()
    for one in dripping:
        one.result(LATE_S)


def test_a_source_that_sends_a_byte_at_a_time_does_not_hold_its_replica_up() -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = started(lambda: drip(listener.accept()[0], stop))
        with at_most(PROMPT_S), pytest.raises(TransportError):
            join("127.0.0.1", listener.getsockname()[1], "secret", MemoryBackend(), 0.3)
        stop.set()
        dripping.result(LATE_S)


class LateListener(socket.socket):
    """A listener that is waited on when that is let."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.bind((host, 0))
        self.listen()
        self.about_to, self.go_on = threading.Event(), threading.Event()
        self.number = self.fileno()
        self.found = -1

    def settimeout(self, timeout_s: float | None) -> None:
        self.about_to.set()
        assert self.go_on.wait(LATE_S)
        self.found = self.fileno()
        super().settimeout(timeout_s)


def prompt_error(opening: Future[Group]) -> BaseException | None:
    with at_most(PROMPT_S):
        return opening.exception(LATE_S)


def opening_late() -> tuple[Rendezvous, LateListener, Callable[[], BaseException | None]]:
    listeners: list[LateListener] = []

    def late(host: str) -> socket.socket:
        listeners.append(LateListener(host))
        return listeners[0]

    rendezvous = Rendezvous("127.0.0.1", LATE_S, listen=late)
    opening = started(lambda: rendezvous.open(MemoryBackend()))
    assert listeners[0].about_to.wait(LATE_S)
    return rendezvous, listeners[0], lambda: prompt_error(opening)


def test_closing_ends_the_wait_for_the_replica_at_once() -> None:
    rendezvous, listener, error = opening_late()
    listener.go_on.set()
    rendezvous.close()
    assert str(error()) == "the rendezvous was closed"


def test_a_wait_that_is_about_to_begin_ends_too() -> None:
    """It must not wait on whatever gets the listener's descriptor next."""
    rendezvous, listener, error = opening_late()
    rendezvous.close()
    assert listener.fileno() == listener.number
    listener.go_on.set()
    assert str(error()) == "the rendezvous was closed"
    assert listener.found == listener.number
    assert listener.fileno() == -1


def test_closed_rendezvous_does_not_open() -> None:
    rendezvous = Rendezvous("127.0.0.1", LATE_S)
    rendezvous.close()
    rendezvous.close()
    with pytest.raises(TransportError, match="closed"):
        rendezvous.open(MemoryBackend())


def test_rubbish_on_the_port_does_not_stop_a_group_from_forming() -> None:
    backend, rendezvous = MemoryBackend(), Rendezvous("127.0.0.1", LATE_S)
    opening = started(lambda: rendezvous.open(backend))
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 4096):
        with socket.create_connection(("127.0.0.1", rendezvous.port), 1) as stranger:
            stranger.sendall(rubbish)
    join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, LATE_S).abort()
    opening.result(LATE_S).abort()


@pytest.mark.parametrize("strangers", [10, 40])
def test_strangers_of_all_kinds_cost_the_replica_nothing(strangers: int) -> None:
    """One after the other, at a second each, ten of them would outlast the rendezvous."""
    backend, rendezvous = TcpBackend(), Rendezvous("127.0.0.1", LATE_S, stranger_s=LATE_S)
    kinds = (b"", b"\0", b"\0" * 36, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096)
    with ExitStack() as stack:
        for number in range(strangers):
            stranger = socket.create_connection(("127.0.0.1", rendezvous.port), LATE_S)
            stack.enter_context(stranger).sendall(kinds[number % len(kinds)])
        opening = started(lambda: rendezvous.open(backend))
        # Each stranger may stay for as long as the rendezvous: none of them was waited for.
        join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, LATE_S).abort()
        opening.result(LATE_S).abort()


def test_strangers_take_a_bounded_number_of_descriptors() -> None:
    rendezvous = Rendezvous("127.0.0.1", LATE_S, stranger_s=LATE_S)
    backend = MemoryBackend()
    opening = started(lambda: rendezvous.open(backend))
    before = descriptors()
    peers = [socket.create_connection(("127.0.0.1", rendezvous.port), LATE_S) for _ in range(100)]
    # The oldest are closed to make room for the newest.
    peers[0].settimeout(LATE_S)
    assert peers[0].recv(1) == b""
    peers[60].settimeout(LATE_S)
    assert peers[60].recv(1) == b""
    assert descriptors() - before - len(peers) < 40
    join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, LATE_S).abort()
    opening.result(LATE_S).abort()
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("lanes", [(), (0,), (0, 0), (1, 1)])
def test_a_replica_without_all_its_connections_is_given_up(lanes: tuple[int, ...]) -> None:
    rendezvous = Rendezvous("127.0.0.1", 0.3)
    opening = started(lambda: rendezvous.open(TcpBackend()))
    with ExitStack() as stack:
        for key, value in [(PROOF, ""), *((LANE, str(number)) for number in lanes)]:
            peer = socket.create_connection(("127.0.0.1", rendezvous.port), LATE_S)
            stack.enter_context(peer)
            store = AuthenticatedStore(peer, rendezvous.secret, REPLICA, time.monotonic() + LATE_S)
            store.set(key, value)
        assert "did not come within" in str(opening.exception(LATE_S))


def test_nobody_at_the_rendezvous_is_a_transport_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(TransportError, match="does not answer"):
        join("127.0.0.1", port, "0" * 32, MemoryBackend(), 0.2)


def test_a_port_that_drops_connects_is_told_from_one_that_refuses() -> None:
    door = Door(socket.create_server(("127.0.0.1", 0)))
    door.shut()
    try:
        with pytest.raises(BlockedPort, match=f"data port 127.0.0.1:{door.port} .*PORT_RANGE"):
            join("127.0.0.1", door.port, "0" * 32, MemoryBackend(), LATE_S, connect_s=0.05)
    finally:
        door.close()


def test_others_may_reach_the_source_at_an_address_that_no_interface_has() -> None:
    made: list[socket.socket] = []

    def anywhere(host: str) -> socket.socket:
        made.append(socket.create_server(("127.0.0.1", 0)))
        return made[-1]

    backend, rendezvous = TcpBackend(), Rendezvous("192.0.2.1", LATE_S, listen=anywhere)
    assert rendezvous.host == "192.0.2.1"
    opening = started(lambda: rendezvous.open(backend))
    join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, LATE_S).abort()
    opening.result(LATE_S).abort()


def test_an_address_that_is_not_ours_is_an_oserror() -> None:
    with pytest.raises(OSError, match="assign"):
        Rendezvous("192.0.2.1", 1)


def test_a_backend_that_fails_in_its_own_words_is_a_transport_error() -> None:
    class FailingBackend(MemoryBackend):
        def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
            raise RuntimeError("of torch")

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(TransportError, match="broke: of torch"),
    ):
        join("127.0.0.1", listener.getsockname()[1], "0" * 32, FailingBackend(), LATE_S)
