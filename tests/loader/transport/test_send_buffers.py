"""Send queues of real connections on loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pytest
from tests.loader.transport.test_gloo import open_pair
from torch._C._distributed_c10d import HashStore

from netloader.transport import send_buffers
from netloader.transport.gloo import LANES
from netloader.transport.send_buffers import QUEUE_BYTES, Overheard, first_free, shorten


def queue_of(one: socket.socket) -> int:
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


def test_a_groups_connections_on_one_host_get_short_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    lengths: list[int] = []

    def watched(
        host: str, mine: list[bytes], theirs: list[bytes], first: int, expected: int
    ) -> int:
        counts.append(shorten(host, mine, theirs, first, expected))
        ports = {port for value in mine for port in send_buffers._ports(host, value)}
        for one in send_buffers._connections(host, range(first, first + 200)):
            with one:
                if one.getsockname()[1] in ports:
                    lengths.append(queue_of(one))
        return counts[-1]

    monkeypatch.setattr(send_buffers, "shorten", watched)
    open_pair().abort()
    assert counts == [LANES, LANES]  # At either end.
    assert set(lengths) == {2 * QUEUE_BYTES}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_this_end_of_what_was_spoken_of_is_touched(open_sockets: ExitStack, host: str) -> None:
    first = first_free()
    stranger = connected(open_sockets, host, host)
    made = connected(open_sockets, host, host)
    others = [stranger.listener, stranger.caller, made.caller]
    before = [queue_of(end) for end in others]
    listened, elsewhere = (
        [b"\x02" + sockaddr(host, port) + bytes(120)] for port in (made.port, SOMEWHERE)
    )
    assert shorten(host, listened, elsewhere, first, 2) == 1
    assert queue_of(made.listener) == 2 * QUEUE_BYTES
    assert [queue_of(end) for end in others] == before
    assert shorten(host, elsewhere, listened, first, 2) == 1
    assert queue_of(made.caller) == 2 * QUEUE_BYTES
    assert [queue_of(end) for end in others[:2]] == before[:2]


def test_the_search_ends_with_the_last_one_expected(open_sockets: ExitStack) -> None:
    host = "127.0.0.1"
    first = first_free()
    made = [connected(open_sockets, host, host) for _ in range(3)]
    listened = [sockaddr(host, one.port) for one in made]
    before = queue_of(made[2].listener)
    assert shorten(host, listened, [sockaddr(host, SOMEWHERE)], first, 2) == 2
    assert queue_of(made[2].listener) == before


def test_a_connection_to_another_address_keeps_its_queue(open_sockets: ExitStack) -> None:
    first = first_free()
    made = connected(open_sockets, "127.0.0.1", "127.0.0.2")
    before = [queue_of(end) for end in (made.listener, made.caller)]
    for host in ("127.0.0.1", "127.0.0.2"):
        said = [sockaddr(host, made.port)]
        assert shorten(host, said, said, first, 1) == 0
    assert [queue_of(end) for end in (made.listener, made.caller)] == before


def test_sockets_of_other_kinds_are_passed_over(open_sockets: ExitStack) -> None:
    first = first_free()
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
    before = queue_of(datagrams[0])
    assert shorten("127.0.0.1", said, said, first, 9) == 2
    assert queue_of(datagrams[0]) == before


@pytest.mark.parametrize("said", [[], [b""], [b"no address"], [bytes(200)]])
def test_nothing_is_found_where_nothing_was_said(said: list[bytes]) -> None:
    theirs = [sockaddr("127.0.0.1", SOMEWHERE)]
    assert shorten("127.0.0.1", said, theirs, 0, 1) == 0
    assert shorten("127.0.0.1", theirs, said, 0, 1) == 0


def test_of_a_name_nothing_can_be_told() -> None:
    said = [sockaddr("127.0.0.1", SOMEWHERE)]
    assert shorten("localhost", said, said, 0, 1) == 0


def test_a_store_is_overheard_and_otherwise_as_it_was() -> None:
    store = HashStore()
    overheard = Overheard(store)
    overheard.set("mine", "a")
    store.set("theirs", "b")
    overheard.wait(["theirs"], timedelta(seconds=1))
    assert overheard.check(["mine", "theirs"])
    assert not overheard.check(["nobody's"])
    assert (overheard.get("theirs"), overheard.get("mine")) == (b"b", b"a")
    assert store.get("mine") == b"a"
    assert (overheard.mine, overheard.theirs) == ([b"a"], [b"b"])
