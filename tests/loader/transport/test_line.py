"""A line lasts as long as its ends, and tells at once when one has gone."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.loader.support import until
from tests.loader.transport.carriers import started
from torch._C._distributed_c10d import HashStore

from netloader.errors import TransportError
from netloader.transport.base import REPLICA, SOURCE
from netloader.transport.line import Line, open_line
from netloader.transport.store import AuthenticatedStore

LATE_S = 30.0
SECRET = "secret"


@pytest.fixture
def ends() -> Iterator[tuple[Line, Line]]:
    """Both ends, as two stores of one rendezvous bring them along."""
    with ExitStack() as stack:
        deadline = time.monotonic() + LATE_S
        one, other = (stack.enter_context(end) for end in socket.socketpair())
        stores = (
            AuthenticatedStore(one, SECRET, SOURCE, deadline),
            AuthenticatedStore(other, SECRET, REPLICA, deadline),
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stores[1].lanes.append(socket.create_connection(listener.getsockname(), LATE_S))
            stores[0].lanes.append(listener.accept()[0])
        made = open_line(stores[0], SOURCE), open_line(stores[1], REPLICA)
        yield made
        for end in made:
            end.close()


def test_a_line_needs_the_connection_of_a_rendezvous() -> None:
    with pytest.raises(TransportError, match="opens at a rendezvous"):
        open_line(HashStore(), SOURCE)


def test_what_is_said_is_heard_in_whole_pieces(ends: tuple[Line, Line]) -> None:
    ends[0].say(b"abcde")
    ends[1].wait(LATE_S)
    assert ends[1].hear(2) == [b"ab", b"cd"]
    ends[0].say(b"f")
    ends[1].wait(LATE_S)
    assert ends[1].hear(2) == [b"ef"]
    assert not ends[1].gone


def test_a_peer_that_hangs_up_is_gone_and_what_it_said_is_heard(ends: tuple[Line, Line]) -> None:
    ends[1].say(b"xy")
    ends[1].hang_up()
    ends[1].hang_up()
    heard: list[bytes] = []

    def has_gone() -> bool:
        heard.extend(ends[0].hear(2))
        return ends[0].gone

    until(has_gone, LATE_S)
    assert heard == [b"xy"]


def test_hanging_up_wakes_who_waits(ends: tuple[Line, Line]) -> None:
    waiting = started(lambda: ends[0].wait(LATE_S))
    ends[0].hang_up()
    waiting.result(LATE_S / 2)


def test_saying_something_to_a_peer_that_has_gone_is_an_error(ends: tuple[Line, Line]) -> None:
    ends[1].close()
    with pytest.raises(TransportError, match="the replica has left"):
        for _ in range(1000):
            ends[0].say(b"x" * 4096)
