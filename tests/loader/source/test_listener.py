"""What a listener keeps open through a change of keys, and what it closes."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import zmq
from tests.loader.support import OPEN, Caller, hello, keys, listening, toy_weights, until
from tests.named_ids import predictable

from netloader.protocol import messages
from netloader.replica.connection import Connection
from netloader.source.listener import ControlConnection, Listener
from netmesh import Descriptors, SocketSecurity

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
BOTH = keys(OLD, NEW)
HELLO = hello(toy_weights(1, rows=10))
BYE = messages.Bye(session="0" * 32, reason="enough")


@contextmanager
def connected(
    security: SocketSecurity,
) -> Iterator[tuple[Listener, Caller, ControlConnection]]:
    """A listener, a replica that has said hello, and the listener's name for its connection."""
    listener = listening(security)
    replica = Caller(listener, security)
    said: list[tuple[ControlConnection, list[bytes]]] = []
    try:
        replica.send(HELLO)
        until(lambda: said.extend(listener.wait(0.05)) or said)  # type: ignore[func-returns-value]
        ((caller, frames),) = said
        assert messages.decode(frames)[0] == HELLO
        yield listener, replica, caller
    finally:
        replica.close()
        listener.close()


def test_connection_in_use_is_answered_after_a_change_and_then_closed() -> None:
    with connected(BOTH) as (listener, replica, caller):
        assert not listener.retired(caller)
        listener.rekey(keys(NEW))
        listener.keep([caller])
        assert listener.retired(caller)
        assert listener.reply(caller, BYE)
        assert replica.receive() == BYE
        listener.keep([])
        assert not listener.reply(caller, BYE)


def test_key_that_is_added_retires_no_connection() -> None:
    with connected(keys(OLD)) as (listener, replica, caller):
        listener.rekey(BOTH)
        listener.keep([])
        assert not listener.retired(caller)
        assert listener.reply(caller, BYE)
        assert replica.receive() == BYE


def test_replica_that_is_gone_is_not_answered() -> None:
    with connected(OPEN) as (listener, replica, caller):
        replica.close()
        until(lambda: not listener.reply(caller, BYE))


@pytest.mark.parametrize(("before", "after"), [(OPEN, keys(OLD)), (keys(OLD), OPEN)])
def test_first_key_and_last_key_cannot_change_while_it_runs(
    before: SocketSecurity, after: SocketSecurity
) -> None:
    with connected(before) as (listener, replica, caller):
        with pytest.raises(ValueError, match="cannot get its first key, or lose its last"):
            listener.rekey(after)
        assert listener.reply(caller, BYE)
        assert replica.receive() == BYE


def end_of(connection: tuple[str, int]) -> socket.socket:
    """The connection of this process whose own end is `connection`, as a duplicate."""
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
        with suppress(OSError):
            one = socket.socket(fileno=os.dup(number))
            with suppress(OSError):
                if one.getsockname() == connection and one.getpeername():
                    return one
            one.close()
    raise AssertionError(f"no connection from {connection}")


@pytest.mark.parametrize("security", [OPEN, BOTH])
def test_both_ends_notice_a_host_that_vanishes(security: SocketSecurity) -> None:
    with connected(security) as (listener, _, _), end_of(("127.0.0.1", listener.port)) as mine:
        assert mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, probes = (
            mine.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * probes <= 60  # seconds; Linux waits for two hours by itself
        assert 0 < mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            connection = Connection(context, f"127.0.0.1:{server.getsockname()[1]}", security, 0)
            with server.accept()[0] as accepted, end_of(accepted.getpeername()) as theirs:
                # The kernel accepts before ZeroMQ has seen that it is connected, and set anything.
                until(lambda: theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
                until(lambda: theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60)
            connection.close(unsaid=True)
    finally:
        # A context that a failed test leaves behind would wait in another test's thread for ever.
        context.destroy(linger=0)


def test_a_forked_child_does_not_keep_the_port_of_a_source() -> None:
    listener = listening(BOTH)
    reader, writer = os.pipe()
    done_reader, done_writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"up")
        os.read(done_reader, 1)
        os._exit(0)
    try:
        assert os.read(reader, 2) == b"up"
        port = listener.port
        listener.close()
        until(lambda: refused(port))  # the child still lives
        listening(BOTH, port=port).close()
    finally:
        os.write(done_writer, b"x")
        os.waitpid(child, 0)
        for one in (reader, writer, done_reader, done_writer):
            os.close(one)


def refused(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def test_a_source_says_when_it_has_no_descriptors_for_a_session() -> None:
    few = Descriptors(lambda: 4096, lambda: 4096 - 200)
    listener = Listener("127.0.0.1", None, OPEN, 3.0, few)
    lack = listener.lack()
    listener.close()
    assert lack is not None and "200 of 4096" in lack
    enough = Listener("127.0.0.1", None, OPEN, 3.0, Descriptors(lambda: 4096, lambda: 100))
    assert enough.lack() is None
    enough.close()


def test_nobody_knows_the_number_of_the_next_connection() -> None:
    """Whoever named it as the id of another connection would end the process."""
    known = predictable()
    with connected(OPEN) as (_, _, caller):
        assert int.from_bytes(caller.routing_id[1:], "big") not in known
