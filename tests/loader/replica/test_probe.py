"""What a greeting says of whoever listens there: as bytes alone, and over a socket."""

from __future__ import annotations

import socket
import threading

import pytest
from tests.fastest import HANG_S

from netloader.replica.connection import Broken
from netloader.replica.probe import GREETED, Unreachable, complaint, may_be_zeromq, probe


def greeting(mechanism: bytes) -> bytes:
    """As ZeroMQ RFC 37 has it: signature, version, mechanism padded to 20 bytes."""
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + mechanism.ljust(20, b"\0")


@pytest.mark.parametrize(
    ("mechanism", "enabled", "expected"),
    [
        (b"NULL", False, None),
        (b"CURVE", True, None),
        (b"NULL", True, "has no cluster key, and this worker has one"),
        (b"PLAIN", True, "has no cluster key, and this worker has one"),
        (b"CURVE", False, "asks for a cluster key, and this worker has none"),
    ],
)
def test_a_key_on_one_side_only_is_said(
    mechanism: bytes, enabled: bool, expected: str | None
) -> None:
    said = complaint(greeting(mechanism), enabled)
    assert said is None if expected is None else said is not None and said.startswith(expected)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("said", [b"HTTP/1.1 400", b"SSH-2.0-x", b"\xff" + bytes(9), b"\0" * 32])
def test_another_service_is_quoted(said: bytes, enabled: bool) -> None:
    assert f"does not speak ZeroMQ, it begins with {said!r}" in (complaint(said, enabled) or "")


def test_every_beginning_of_a_greeting_may_become_one() -> None:
    whole = greeting(b"NULL")
    assert len(whole) == GREETED
    assert all(may_be_zeromq(whole[:size]) for size in range(GREETED + 1))


@pytest.fixture
def server() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def answering(server: socket.socket, *parts: bytes) -> threading.Thread:
    """Say `parts` to the first who connects, one after the other, and hang up."""

    def talk() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(100)
            for part in parts:
                connection.sendall(part)

    thread = threading.Thread(target=talk)
    thread.start()
    return thread


def endpoint_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_source_may_greet_in_pieces(server: socket.socket) -> None:
    endpoint, whole = endpoint_of(server), greeting(b"CURVE")
    talking = answering(server, whole[:1], whole[1:15], whole[15:])
    probe(endpoint, True, 10.0, 10.0)
    talking.join(HANG_S)


@pytest.mark.parametrize("size", [0, 1, 10, GREETED - 1])
def test_whoever_hangs_up_in_its_greeting_may_be_a_source(server: socket.socket, size: int) -> None:
    endpoint = endpoint_of(server)
    talking = answering(server, greeting(b"NULL")[:size])
    with pytest.raises(Broken):
        probe(endpoint, False, 10.0, 10.0)
    talking.join(HANG_S)


def test_another_service_is_told_by_its_first_bytes(server: socket.socket) -> None:
    endpoint = endpoint_of(server)
    talking = answering(server, b"220 mail.example ESMTP\r\n")
    with pytest.raises(Unreachable, match="begins with b'220 mail"):
        probe(endpoint, False, 10.0, 10.0)
    talking.join(HANG_S)


def test_one_that_says_nothing_is_left_after_its_time(server: socket.socket) -> None:
    with server, pytest.raises(Unreachable, match=r"says nothing within 0\.01 s"):
        probe(endpoint_of(server), False, 10.0, 0.01)
