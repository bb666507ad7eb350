from __future__ import annotations

import socket
import threading
import time

import pytest

from netloader.transport import REPLICA, SOURCE, Group, Rendezvous, TransportError, join
from netloader.transport.gloo import GlooBackend
from netloader.transport.rendezvous import _Entries


def open_in_thread(rendezvous: Rendezvous) -> tuple[threading.Thread, list[Group | str]]:
    outcome: list[Group | str] = []

    def run() -> None:
        try:
            outcome.append(rendezvous.open(GlooBackend()))
        except TransportError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_the_port_is_listening_before_anybody_is_told() -> None:
    rendezvous = Rendezvous("127.0.0.1", 5)
    socket.create_connection(("127.0.0.1", rendezvous.port), 1).close()
    rendezvous.close()


def test_a_group_is_made_without_a_retry_pause() -> None:
    rendezvous = Rendezvous("127.0.0.1", 5)
    thread, outcome = open_in_thread(rendezvous)
    started = time.monotonic()
    group = join("127.0.0.1", rendezvous.port, rendezvous.secret, GlooBackend(), 5)
    thread.join()
    assert time.monotonic() - started < 0.3
    assert not isinstance(outcome[0], str)
    outcome[0].abort()
    group.abort()
    rendezvous.close()


def test_replica_that_never_comes_is_given_up_after_the_timeout() -> None:
    rendezvous = Rendezvous("127.0.0.1", 0.1)
    with pytest.raises(TransportError, match=r"did not come within 0\.1 s"):
        rendezvous.open(GlooBackend())


def test_what_comes_after_the_deadline_is_not_taken() -> None:
    one, other = socket.socketpair()
    with one, other:
        now = time.monotonic()
        _Entries(one, "secret", REPLICA, now + 5).set("key", "value")
        entries = _Entries(other, "secret", SOURCE, now + 5)
        with pytest.raises(TransportError, match="silent"):
            entries.receive(now - 1)
        entries.receive(now + 5)
        assert entries.get("key") == b"value"


def drip(peer: socket.socket, stop: threading.Event) -> None:
    """Announce a long entry, and send it a byte at a time."""
    with peer:
        try:
            peer.sendall((60_000).to_bytes(4, "big") + bytes(32))
            while not stop.is_set():
                time.sleep(0.0001)
                peer.sendall(b"x")
        except OSError:
            pass


def test_a_stranger_who_sends_a_byte_at_a_time_holds_nobody_up() -> None:
    rendezvous = Rendezvous("127.0.0.1", 0.3)
    stop = threading.Event()
    peers = [socket.create_connection(("127.0.0.1", rendezvous.port), 1) for _ in range(3)]
    threads = [threading.Thread(target=drip, args=(peer, stop)) for peer in peers]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    with pytest.raises(TransportError):
        rendezvous.open(GlooBackend())
    assert time.monotonic() - started < 2
    stop.set()
    for thread in threads:
        thread.join()


def test_a_source_that_sends_a_byte_at_a_time_does_not_hold_its_replica_up() -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sending = threading.Thread(target=lambda: drip(listener.accept()[0], stop))
        sending.start()
        started = time.monotonic()
        with pytest.raises(TransportError):
            join("127.0.0.1", listener.getsockname()[1], "secret", GlooBackend(), 0.3)
        assert time.monotonic() - started < 2
        stop.set()
        sending.join()


def test_closing_ends_the_wait_for_the_replica_at_once() -> None:
    rendezvous = Rendezvous("127.0.0.1", 30)
    thread, outcome = open_in_thread(rendezvous)
    thread.join(0.05)
    rendezvous.close()
    thread.join(2)
    assert outcome == ["the rendezvous was closed"]


def test_a_wait_that_is_about_to_begin_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not wait on whatever gets the listener's descriptor next."""
    rendezvous = Rendezvous("127.0.0.1", 30)
    number = rendezvous._listener.fileno()
    about_to, closed = threading.Event(), threading.Event()
    accept = socket.socket.accept

    def late(self: socket.socket) -> tuple[socket.socket, object]:
        about_to.set()
        closed.wait(5)
        assert self.fileno() == number
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", late)
    thread, outcome = open_in_thread(rendezvous)
    about_to.wait(5)
    rendezvous.close()
    closed.set()
    thread.join(2)
    assert outcome == ["the rendezvous was closed"]
    assert rendezvous._listener.fileno() == -1


def test_closed_rendezvous_does_not_open() -> None:
    rendezvous = Rendezvous("127.0.0.1", 5)
    rendezvous.close()
    rendezvous.close()
    with pytest.raises(TransportError, match="closed"):
        rendezvous.open(GlooBackend())


def test_whoever_does_not_know_the_secret_does_not_meet_the_source() -> None:
    rendezvous = Rendezvous("127.0.0.1", 0.5)
    thread, outcome = open_in_thread(rendezvous)
    with pytest.raises(TransportError):
        join("127.0.0.1", rendezvous.port, "0" * 32, GlooBackend(), 0.2)
    thread.join()
    assert isinstance(outcome[0], str)


def test_rubbish_on_the_port_does_not_stop_a_group_from_forming() -> None:
    rendezvous = Rendezvous("127.0.0.1", 5)
    thread, outcome = open_in_thread(rendezvous)
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"\xff" * 4096):
        with socket.create_connection(("127.0.0.1", rendezvous.port), 1) as stranger:
            stranger.sendall(rubbish)
    group = join("127.0.0.1", rendezvous.port, rendezvous.secret, GlooBackend(), 5)
    thread.join()
    assert not isinstance(outcome[0], str)
    outcome[0].abort()
    group.abort()


def test_nobody_at_the_rendezvous_is_a_transport_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(TransportError, match="does not answer"):
        join("127.0.0.1", port, "0" * 32, GlooBackend(), 0.2)


def test_an_address_that_is_not_ours_is_an_oserror() -> None:
    with pytest.raises(OSError, match="assign"):
        Rendezvous("192.0.2.1", 1)


def test_a_silent_stranger_delays_the_replica_and_no_more() -> None:
    rendezvous = Rendezvous("127.0.0.1", 10)
    thread, outcome = open_in_thread(rendezvous)
    with socket.create_connection(("127.0.0.1", rendezvous.port), 1) as stranger:
        group = join("127.0.0.1", rendezvous.port, rendezvous.secret, GlooBackend(), 5)
        thread.join()
        assert not isinstance(outcome[0], str)
        assert stranger.recv(1) == b"", "a stranger is told nothing"
    outcome[0].abort()
    group.abort()


def test_what_the_source_says_cannot_be_played_back_to_it() -> None:
    """Nor can the replica's proof be used twice: the rank and the secret are of one session."""
    secret, deadline = "5" * 32, time.monotonic() + 5
    near, far = socket.socketpair()
    source = _Entries(near, secret, SOURCE, deadline)
    source.set("key", b"value")
    said = far.recv(4096)
    far.sendall(said)
    with pytest.raises(TransportError, match="without the session's secret"):
        source.receive(deadline)


def test_nothing_listens_once_the_group_is_formed() -> None:
    rendezvous = Rendezvous("127.0.0.1", 5)
    thread, outcome = open_in_thread(rendezvous)
    group = join("127.0.0.1", rendezvous.port, rendezvous.secret, GlooBackend(), 5)
    thread.join()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", rendezvous.port), 1)
    assert not isinstance(outcome[0], str)
    outcome[0].abort()
    group.abort()


def test_an_endless_entry_is_refused_before_it_is_read() -> None:
    near, far = socket.socketpair()
    entries = _Entries(near, "5" * 32, SOURCE, time.monotonic() + 5)
    far.sendall(b"\xff\xff\xff\xff" + b"\0" * 32)
    with pytest.raises(TransportError, match="too much"):
        entries.receive(time.monotonic() + 5)
