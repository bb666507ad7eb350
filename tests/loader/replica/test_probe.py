"""What a greeting says of whoever listens there: as bytes alone, and over a socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.fastest import HANG_S
from tests.loader.support import OPEN, toy_weights
from tests.loader.upstream.ends import LIMIT_S, UpstreamServer

from netloader.replica.connection import Broken
from netloader.replica.probe import (
    GREETED,
    Kind,
    Unreachable,
    complaint,
    look,
    may_be_zeromq,
    probe,
)
from netloader.source.listener import Listener
from netloader.source.offer import CurrentOffer
from netloader.source.upstream import UpstreamService, UpstreamSettings
from netloader.upstream.admission import Access

SETTINGS = UpstreamSettings(Access(False, False, False, False), 0, LIMIT_S, LIMIT_S)


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


def answering(server: socket.socket, *parts: bytes, speaks_first: bool = True) -> threading.Thread:
    """Say `parts` to the first who connects, one after the other, and hang up. ZeroMQ speaks
    first, and goes on when it has heard something."""

    def talk() -> None:
        with server, server.accept()[0] as connection:
            first, rest = (parts[:1], parts[1:]) if speaks_first else ((), parts)
            for part in first:
                connection.sendall(part)
            with contextlib.suppress(ConnectionResetError):
                connection.recv(100)
            for part in rest:
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


@pytest.mark.parametrize("speaks_first", [False, True])
def test_another_service_is_told_by_its_first_bytes(
    server: socket.socket, speaks_first: bool
) -> None:
    endpoint = endpoint_of(server)
    talking = answering(server, b"220 mail.example ESMTP\r\n", speaks_first=speaks_first)
    with pytest.raises(Unreachable, match="begins with b'220 mail"):
        probe(endpoint, False, 10.0, 10.0)
    talking.join(HANG_S)


def test_one_that_says_nothing_is_left_after_its_time(server: socket.socket) -> None:
    with server, pytest.raises(Unreachable, match=r"says nothing within 0\.01 s"):
        probe(endpoint_of(server), False, 10.0, 0.01)


@pytest.fixture
def upstream() -> Iterator[UpstreamServer]:
    server = UpstreamServer(toy_weights(1, rows=10), {"model_path": "/models/toy"})
    yield server
    server.close()


def test_upstreams_server_is_told_apart_and_goes_on(upstream: UpstreamServer) -> None:
    for _ in range(3):
        with pytest.raises(Unreachable, match="UPSTREAM says whether"):
            probe(upstream.endpoint, False, LIMIT_S, LIMIT_S)
        assert look(upstream.endpoint, LIMIT_S, LIMIT_S) is Kind.UPSTREAM
    assert upstream.failed is None and upstream.thread.is_alive()


def test_zeromqs_greeting_would_end_upstreams_server(upstream: UpstreamServer) -> None:
    host, _, port = upstream.endpoint.partition(":")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(greeting(b"NULL"))
        upstream.thread.join(LIMIT_S)
    assert isinstance(upstream.failed, UnicodeDecodeError)


@pytest.mark.parametrize("has_door", [False, True])
def test_a_source_of_ours_is_known_with_and_without_a_door(has_door: bool) -> None:
    listener = Listener("127.0.0.1", None, OPEN, 3.0, has_door=has_door)
    service = UpstreamService(CurrentOffer("loading"), SETTINGS, None)
    listener.open_door(service.receive)
    try:
        assert look(listener.endpoint, LIMIT_S, LIMIT_S) is Kind.ZEROMQ
        probe(listener.endpoint, False, LIMIT_S, LIMIT_S)
    finally:
        service.close()
        listener.close()


def test_who_answers_like_upstream_and_unlike_it(server: socket.socket) -> None:
    endpoint = endpoint_of(server)
    talking = answering(server, b'{"label": "HELLO"}', speaks_first=False)
    with pytest.raises(Unreachable, match="does not speak ZeroMQ"):
        look(endpoint, LIMIT_S, LIMIT_S)
    talking.join(10)


def test_one_that_hangs_up_on_the_question(server: socket.socket) -> None:
    endpoint = endpoint_of(server)
    talking = answering(server, speaks_first=False)
    with pytest.raises(Broken):
        look(endpoint, LIMIT_S, LIMIT_S)
    talking.join(10)
