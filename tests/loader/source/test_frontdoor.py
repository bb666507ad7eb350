"""Who comes in by the front door, and what strangers cannot do there."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from tests.loader.support import OPEN, Caller, descriptors, hello, keys, toy_weights, until

from netloader.protocol import messages
from netloader.source.frontdoor import DoorLimits, FrontDoor
from netloader.source.listener import ControlConnection, Listener
from netmesh import SocketSecurity

JOIN = json.dumps({"label": "JOIN", "content": {"model_path": "/models/m" * 50}}).encode()
HELLO = hello(toy_weights(1, rows=10))
BYE = messages.Bye(session="0" * 32, reason="enough")
LIMIT_S = 20.0
PATIENT = DoorLimits(patience_s=60.0)

Handed = list[tuple[socket.socket, tuple[str, int], bytes]]


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@contextmanager
def door(limits: DoorLimits = PATIENT) -> Iterator[tuple[tuple[str, int], socket.socket, Handed]]:
    """The address of a door, the listener behind it, and what came as JSON."""
    handed: Handed = []
    outside, behind = listen(), listen()
    address = outside.getsockname()[:2]
    behind.settimeout(LIMIT_S)
    made = FrontDoor(outside, behind.getsockname()[:2], lambda *given: handed.append(given), limits)
    try:
        yield address, behind, handed
    finally:
        made.close()
        behind.close()
        for end, _, _ in handed:
            end.close()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, LIMIT_S)


def receive(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := end.recv(count - len(data))):
        data += more
    return data


def is_closed(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_json_object_is_handed_over_with_its_connection() -> None:
    with door() as (address, _, handed), connect(address) as caller:
        caller.sendall(JOIN)
        until(lambda: handed, LIMIT_S)
        end, found, data = handed[0]
        assert (found, data) == (caller.getsockname(), JOIN)
        end.sendall(b"welcome")
        assert receive(caller, 7) == b"welcome"


@pytest.mark.parametrize("size", [1, 7, 100])
def test_it_may_come_in_pieces(size: int) -> None:
    with door() as (address, _, handed), connect(address) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for first in range(0, len(JOIN), size):
            caller.sendall(JOIN[first : first + size])
        until(lambda: handed, LIMIT_S)
        assert handed[0][2] == JOIN


def test_zeromqs_bytes_are_carried_both_ways() -> None:
    said = b"\xff" + random.Random(1).randbytes(3_000_000)
    answer = random.Random(2).randbytes(3_000_000)
    with door() as (address, behind, _), connect(address) as caller:
        caller.sendall(said[:1])
        inner, _ = behind.accept()
        with inner:
            inner.settimeout(LIMIT_S)
            # Both want to send more than any buffer holds: neither may wait for the other.
            with ExitStack() as stack:
                from threading import Thread

                for end, data in ((caller, said[1:]), (inner, answer)):
                    thread = Thread(target=end.sendall, args=(data,))
                    thread.start()
                    stack.callback(thread.join, LIMIT_S)
                assert receive(inner, len(said)) == said
                assert receive(caller, len(answer)) == answer


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_last_words_arrive_before_the_end(first: str) -> None:
    with door() as (address, behind, _), connect(address) as outer:
        outer.sendall(b"\xff")
        inner, _ = behind.accept()
        inner.settimeout(LIMIT_S)
        with inner:
            assert receive(inner, 1) == b"\xff"
            speaker, listener = (outer, inner) if first == "outer" else (inner, outer)
            speaker.sendall(b"bye" * 1000)
            speaker.close()
            assert receive(listener, 3000) == b"bye" * 1000
            assert is_closed(listener)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\x00" * 50, b"[1]", b" {}", b"\x16\x03"])
def test_other_services_callers_are_sent_away(data: bytes) -> None:
    with door() as (address, _, handed), connect(address) as caller:
        caller.sendall(data)
        assert is_closed(caller)
        assert not handed


def test_an_object_that_does_not_end_is_cut_off() -> None:
    with door() as (address, _, handed), connect(address) as caller:
        caller.sendall(b'{"label": "' + b"x" * 10_000)
        assert is_closed(caller)
        assert not handed


@pytest.mark.parametrize("said", [b"", b"{", b'{"label": "JOIN"'])
def test_whoever_does_not_finish_is_sent_away_after_its_time(said: bytes) -> None:
    with door(DoorLimits(patience_s=0.05)) as (address, _, handed), connect(address) as caller:
        caller.sendall(said)
        assert is_closed(caller)
        assert not handed


def test_silent_strangers_keep_nobody_out() -> None:
    with door() as (address, behind, handed), ExitStack() as stack:
        silent = [stack.enter_context(connect(address)) for _ in range(300)]
        with connect(address) as ours, connect(address) as theirs:
            theirs.sendall(JOIN)
            until(lambda: handed, LIMIT_S)
            ours.sendall(b"\xff")
            behind.accept()[0].close()
        # The oldest had to leave.
        assert is_closed(silent[0])


def test_no_more_is_carried_than_the_limit() -> None:
    limits = DoorLimits(carried=1, patience_s=60.0)
    with door(limits) as (to, behind, _), connect(to) as first, connect(to) as second:
        first.sendall(b"\xff1")
        inner, _ = behind.accept()
        with inner:
            assert receive(inner, 2) == b"\xff1"
            second.sendall(b"\xff2")
            assert is_closed(second)
            inner.sendall(b"still here")
            assert receive(first, 10) == b"still here"


def test_those_who_are_refused_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with door(DoorLimits(carried=1, patience_s=60.0)) as (to, behind, _), connect(to) as first:
        first.sendall(b"\xff")
        behind.accept()[0].close()
        with ExitStack() as stack:
            behind.settimeout(LIMIT_S)
            held = stack.enter_context(connect(to))
            held.sendall(b"\xff")
            stack.enter_context(behind.accept()[0])
            for _ in range(33):
                with connect(to) as refused:
                    refused.sendall(b"\xff")
                    assert is_closed(refused)
    assert caplog.text.count("one more, from 127.0.0.1, was refused") == 6  # of 1, 2, 4 .. 32


def test_a_listener_that_is_gone_ends_the_connection() -> None:
    with door() as (address, behind, _), connect(address) as caller:
        behind.close()
        caller.sendall(b"\xff")
        assert is_closed(caller)


def test_whoever_does_not_read_holds_up_nobody() -> None:
    with door() as (address, behind, handed), connect(address) as stuck:
        stuck.sendall(b"\xff")
        inner, _ = behind.accept()
        with inner:
            inner.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    inner.send(bytes(1 << 20))
            with connect(address) as other:
                other.sendall(JOIN)
                until(lambda: handed, LIMIT_S)


def test_a_fault_of_the_receiver_costs_one_connection() -> None:
    outside, behind = listen(), listen()
    address = outside.getsockname()[:2]

    def fails(end: socket.socket, address: tuple[str, int], data: bytes) -> None:
        raise RuntimeError("a fault")

    made = FrontDoor(outside, behind.getsockname()[:2], fails, PATIENT)
    try:
        for _ in range(3):
            with connect(address) as caller:
                caller.sendall(JOIN)
                assert is_closed(caller)
    finally:
        made.close()
        behind.close()


def test_closing_ends_all_connections_and_leaves_nothing() -> None:
    before = descriptors()
    with door() as (address, behind, _), ExitStack() as stack:
        callers = [stack.enter_context(connect(address)) for _ in range(4)]
        for caller, data in zip(callers, (b"", b"{", b"\xff", b"\xff"), strict=True):
            caller.sendall(data)
        inner = [stack.enter_context(behind.accept()[0]) for _ in range(2)]
        assert all(receive(one, 1) == b"\xff" for one in inner)
    assert descriptors() == before


def test_garbage_never_ends_it() -> None:
    """Sizes, types, parts and ends, from a thousand callers."""
    chance = random.Random(7)
    with door() as (address, _, handed):
        for _ in range(1000):
            data = mutated(chance)
            with connect(address) as caller:
                caller.sendall(data)
                if chance.random() < 0.2:
                    with suppress(OSError):  # The door has ended it already.
                        caller.shutdown(socket.SHUT_WR)
        heard = len(handed)
        with connect(address) as caller:
            caller.sendall(JOIN)
            until(lambda: any(data == JOIN for _, _, data in handed[heard:]), LIMIT_S)


def mutated(chance: random.Random) -> bytes:
    data = bytearray(JOIN)
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    kind = chance.randrange(5)
    if kind == 0:
        return bytes(data[: chance.randrange(len(data))])
    if kind == 1:
        return bytes(data) + chance.randbytes(chance.randrange(6000))
    if kind == 2:
        return chance.randbytes(chance.randrange(100))
    return bytes(data)


@contextmanager
def behind_a_door(security: SocketSecurity) -> Iterator[tuple[Listener, Handed]]:
    handed: Handed = []
    listener = Listener("127.0.0.1", None, security, 3.0, has_door=True)
    listener.open_door(lambda *given: handed.append(given))
    try:
        yield listener, handed
    finally:
        listener.close()
        for end, _, _ in handed:
            end.close()


@pytest.mark.parametrize("security", [OPEN, keys(b"k" * 32)], ids=["open", "key"])
def test_our_replicas_are_heard_and_answered_through_it(security: SocketSecurity) -> None:
    with behind_a_door(security) as (listener, handed):
        replica = Caller(listener, security)
        said: list[tuple[ControlConnection, list[bytes]]] = []
        try:
            replica.send(HELLO)
            until(lambda: said.extend(listener.wait(0.05)) or said, LIMIT_S)  # type: ignore[func-returns-value]
            assert listener.reply(said[0][0], BYE)
            assert replica.receive(LIMIT_S) == BYE
            assert not handed
        finally:
            replica.close()


def test_callers_wait_for_the_door_to_open() -> None:
    handed: list[Any] = []
    listener = Listener("127.0.0.1", None, OPEN, 3.0, has_door=True)
    try:
        with connect(("127.0.0.1", listener.port)) as caller:
            caller.sendall(JOIN)
            listener.open_door(lambda *given: handed.append(given))
            until(lambda: handed, LIMIT_S)
            handed[0][0].close()
    finally:
        listener.close()


def test_a_door_that_was_never_opened_closes() -> None:
    listener = Listener("127.0.0.1", None, OPEN, 3.0, has_door=True)
    listener.close()
    with pytest.raises(OSError):
        connect(("127.0.0.1", listener.port))
