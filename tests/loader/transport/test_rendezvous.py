from __future__ import annotations

import socket
import threading
import time

import pytest

from netloader.transport import Group, Rendezvous, TransportError, join
from netloader.transport.gloo import GlooBackend


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


def test_closing_ends_the_wait_for_the_replica_at_once() -> None:
    rendezvous = Rendezvous("127.0.0.1", 30)
    thread, outcome = open_in_thread(rendezvous)
    thread.join(0.05)
    rendezvous.close()
    thread.join(2)
    assert outcome == ["the rendezvous was closed"]


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
