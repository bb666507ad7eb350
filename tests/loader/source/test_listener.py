"""What a listener keeps open through a change of keys, and what it closes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.loader.support import OPEN, Caller, hello, keys, listening, toy_weights, until

from netloader.protocol import messages
from netloader.source.listener import ControlConnection, Listener
from netmesh import SocketSecurity

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
