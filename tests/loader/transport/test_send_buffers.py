"""Send buffers of real connections on loopback."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.loader.transport.carriers import open_pair

from netloader.transport.gloo import GlooBackend
from netloader.transport.send_buffers import SEND_BUFFER_BYTES, lowest_free_descriptor, shrink
from netloader.transport.stripes import LANES

HOST = "127.0.0.1"


def send_buffer_of(one: socket.socket) -> int:
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@dataclass
class Connected:
    """Both ends of a connection, and the port at which one of them was listening."""

    listener: socket.socket
    caller: socket.socket
    port: int


def connected(stack: ExitStack, host: str, peer: str) -> Connected:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(1)
        port: int = listener.getsockname()[1]
        caller = stack.enter_context(socket.socket(family))
        caller.bind((peer, 0))
        caller.connect((host, port))
        return Connected(stack.enter_context(listener.accept()[0]), caller, port)


def sockaddr(host: str, port: int) -> bytes:
    """As C lays it out, and Gloo leaves it in the store."""
    if ":" in host:
        address = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + address
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host)


SOMEWHERE = 1  # A port at which nobody listens.


def connections() -> dict[str, int]:
    """Send buffers of this process's loopback connections, by the socket's number in the kernel."""
    found: dict[str, int] = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # Closed a moment ago, or not connected.
            if not (name := str(link.readlink())).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as one:
                if one.family == socket.AF_INET and one.getpeername()[0] == HOST:
                    found[name] = send_buffer_of(one)
    return found


def test_a_groups_connections_on_one_host_get_small_send_buffers() -> None:
    before = connections()
    pair = open_pair(GlooBackend())
    made = {name: nbytes for name, nbytes in connections().items() if name not in before}
    assert [*made.values()] == [2 * SEND_BUFFER_BYTES] * 2 * LANES  # At either end.
    pair.abort()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_this_end_of_what_was_spoken_of_is_touched(open_sockets: ExitStack, host: str) -> None:
    first = lowest_free_descriptor()
    stranger = connected(open_sockets, host, host)
    made = connected(open_sockets, host, host)
    others = [stranger.listener, stranger.caller, made.caller]
    before = [send_buffer_of(end) for end in others]
    listened, elsewhere = (
        [b"\x02" + sockaddr(host, port) + bytes(120)] for port in (made.port, SOMEWHERE)
    )
    assert shrink(host, listened, elsewhere, first, 2) == 1
    assert send_buffer_of(made.listener) == 2 * SEND_BUFFER_BYTES
    assert [send_buffer_of(end) for end in others] == before
    assert shrink(host, elsewhere, listened, first, 2) == 1
    assert send_buffer_of(made.caller) == 2 * SEND_BUFFER_BYTES
    assert [send_buffer_of(end) for end in others[:2]] == before[:2]


def test_the_search_ends_with_the_last_one_expected(open_sockets: ExitStack) -> None:
    host = "127.0.0.1"
    first = lowest_free_descriptor()
    made = [connected(open_sockets, host, host) for _ in range(3)]
    listened = [sockaddr(host, one.port) for one in made]
    before = send_buffer_of(made[2].listener)
    assert shrink(host, listened, [sockaddr(host, SOMEWHERE)], first, 2) == 2
    assert send_buffer_of(made[2].listener) == before


def test_a_connection_to_another_address_keeps_its_send_buffer(open_sockets: ExitStack) -> None:
    first = lowest_free_descriptor()
    made = connected(open_sockets, "127.0.0.1", "127.0.0.2")
    before = [send_buffer_of(end) for end in (made.listener, made.caller)]
    for host in ("127.0.0.1", "127.0.0.2"):
        said = [sockaddr(host, made.port)]
        assert shrink(host, said, said, first, 1) == 0
    assert [send_buffer_of(end) for end in (made.listener, made.caller)] == before


def test_sockets_of_other_kinds_are_passed_over(open_sockets: ExitStack) -> None:
    first = lowest_free_descriptor()
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for end in socket.socketpair(socket.AF_UNIX, kind):
            open_sockets.enter_context(end)
    datagrams = [open_sockets.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in "ab"]
    for one in datagrams:
        one.bind(("127.0.0.1", 0))
    datagrams[0].connect(datagrams[1].getsockname())
    port: int = datagrams[1].getsockname()[1]
    made = connected(open_sockets, "127.0.0.1", "127.0.0.1")
    said = [sockaddr("127.0.0.1", port), sockaddr("127.0.0.1", made.port)]
    before = send_buffer_of(datagrams[0])
    assert shrink("127.0.0.1", said, said, first, 9) == 2
    assert send_buffer_of(datagrams[0]) == before


@pytest.mark.parametrize("said", [[], [b""], [b"no address"], [bytes(200)]])
def test_nothing_is_found_where_nothing_was_said(said: list[bytes]) -> None:
    theirs = [sockaddr("127.0.0.1", SOMEWHERE)]
    assert shrink("127.0.0.1", said, theirs, 0, 1) == 0
    assert shrink("127.0.0.1", theirs, said, 0, 1) == 0


def test_of_a_name_nothing_can_be_told() -> None:
    said = [sockaddr("127.0.0.1", SOMEWHERE)]
    assert shrink("localhost", said, said, 0, 1) == 0
