"""Send queues of real connections on loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from tests.loader.transport.test_gloo import open_pair
from torch._C._distributed_c10d import HashStore

from netloader.transport import queues
from netloader.transport.queues import QUEUE_BYTES, Overheard, shorten


def queue_of(one: socket.socket) -> int:
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(stack: ExitStack, host: str, peer: str) -> tuple[socket.socket, socket.socket, int]:
    """Both ends of a connection from `peer` to a listener at `host`, and the listener's port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = stack.enter_context(socket.socket(family))
    listener.bind((host, 0))
    listener.listen(1)
    port: int = listener.getsockname()[1]
    one = stack.enter_context(socket.socket(family))
    one.bind((peer, 0))
    one.connect((host, port))
    other = stack.enter_context(listener.accept()[0])
    return one, other, port


def sockaddr(host: str, port: int) -> bytes:
    """As C lays it out, and Gloo leaves it in the store."""
    if ":" in host:
        address = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + address
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host)


def test_a_groups_connections_on_one_host_get_short_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    lengths: set[int] = set()

    def watched(host: str, said: list[bytes]) -> int:
        counts.append(shorten(host, said))
        ports = {port for value in said for port in queues._ports(host, value)}
        for one in queues._connections(host):
            with one:
                if one.getsockname()[1] in ports:
                    lengths.add(queue_of(one))
        return counts[-1]

    monkeypatch.setattr(queues, "shorten", watched)
    open_pair().abort()
    # Both ends are in this process: four ends of two connections. Gloo may not have accepted the
    # last of the other end's yet, whose search may hold some of ours twice.
    assert len(counts) == 2
    assert min(counts) >= 2
    assert lengths == {2 * QUEUE_BYTES}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_only_connections_that_were_spoken_of_are_touched(
    open_sockets: ExitStack, host: str
) -> None:
    one, other, port = connected(open_sockets, host, host)
    stranger, its_peer, _ = connected(open_sockets, host, host)
    before = [queue_of(end) for end in (stranger, its_peer)]
    assert shorten(host, [b"\x02" + sockaddr(host, port) + bytes(120)]) == 2
    assert [queue_of(end) for end in (one, other)] == [2 * QUEUE_BYTES] * 2
    assert [queue_of(end) for end in (stranger, its_peer)] == before


def test_a_connection_to_another_address_keeps_its_queue(open_sockets: ExitStack) -> None:
    one, other, port = connected(open_sockets, "127.0.0.1", "127.0.0.2")
    before = [queue_of(end) for end in (one, other)]
    for host in ("127.0.0.1", "127.0.0.2"):
        assert shorten(host, [sockaddr(host, port)]) == 0
    assert [queue_of(end) for end in (one, other)] == before


def test_sockets_of_other_kinds_are_passed_over(open_sockets: ExitStack) -> None:
    kinds = [(socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)]
    for family, kind in kinds:
        for end in socket.socketpair(family, kind):
            open_sockets.enter_context(end)
    datagrams = [open_sockets.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in "ab"]
    for one in datagrams:
        one.bind(("127.0.0.1", 0))
    datagrams[0].connect(datagrams[1].getsockname())
    port: int = datagrams[1].getsockname()[1]
    _, _, other = connected(open_sockets, "127.0.0.1", "127.0.0.1")
    said = [sockaddr("127.0.0.1", port), sockaddr("127.0.0.1", other)]
    before = queue_of(datagrams[0])
    assert shorten("127.0.0.1", said) == 2
    assert queue_of(datagrams[0]) == before


@pytest.mark.parametrize("said", [[], [b""], [b"no address"], [bytes(200)]])
def test_nothing_is_found_where_nothing_was_said(said: list[bytes]) -> None:
    assert shorten("127.0.0.1", said) == 0


def test_where_descriptors_cannot_be_listed_nothing_happens(
    open_sockets: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, _, port = connected(open_sockets, "127.0.0.1", "127.0.0.1")
    monkeypatch.setattr(queues, "_STATUS", tmp_path / "none")
    assert shorten("127.0.0.1", [sockaddr("127.0.0.1", port)]) == 0


def test_a_store_is_overheard_and_otherwise_as_it_was() -> None:
    store = HashStore()
    overheard = Overheard(store)
    overheard.set("mine", "a")
    store.set("theirs", "b")
    overheard.wait(["theirs"], timedelta(seconds=1))
    assert overheard.check(["mine", "theirs"])
    assert not overheard.check(["nobody's"])
    assert overheard.get("theirs") == b"b"
    assert store.get("mine") == b"a"
    assert overheard.values == [b"a", b"b"]
