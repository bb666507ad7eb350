"""A source that has served many replicas is no larger than one that has served a hundred."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.fastest import HANG_S
from tests.loader.support import (
    Caller,
    descriptors,
    hello,
    offer_of,
    serving,
    threads,
    toy_weights,
    until,
)

from netloader.protocol import messages
from netloader.source.service import Source
from netloader.transport import Group, join
from netloader.transport.tcp import TcpBackend

WEIGHTS = toy_weights(1)
CHUNKS = WEIGHTS.manifest.chunks()

WARM_UP = 100
SESSIONS = int(os.environ.get("NETLOADER_TEST_SESSIONS", "200"))
"""`make soak` runs a thousand."""

_AT_ONCE = 8

_SPARE_THREADS, _SPARE_DESCRIPTORS = 4, 8
"""What may be on its way out when it is counted: a leak of one in fifty sessions would be more."""

_SPARE_BYTES = 24 << 20
"""Of resident memory: allocators keep what threads have freed. A leak of a staging buffer (64 KiB)
in every second session would be more, and so would 27 KiB in each."""


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def group_of(accept: messages.Accept) -> Group:
    return join(accept.host, accept.port, accept.secret, TcpBackend(), 5)


def receive(group: Group, number: int) -> torch.Tensor:
    data = torch.zeros(CHUNKS[number].nbytes, dtype=torch.uint8)
    group.recv(data, number).wait(HANG_S)
    return data


def complete(caller: Caller, accept: messages.Accept, number: int) -> None:
    group = group_of(accept)
    try:
        for chunk in (number % len(CHUNKS), len(CHUNKS) - 1):
            caller.send(messages.Want(session=accept.session, chunks=(chunk,)))
            receive(group, chunk)
        caller.send(messages.Done(session=accept.session))
    finally:
        group.abort()


def never_comes(caller: Caller, accept: messages.Accept, number: int) -> None:
    caller.send(messages.Bye(session=accept.session, reason="changed my mind"))


def leaves_the_rendezvous(caller: Caller, accept: messages.Accept, number: int) -> None:
    with socket.create_connection((accept.host, accept.port)) as peer:
        peer.sendall(b"x" * (number % 50))
    caller.send(messages.Bye(session=accept.session, reason="not that way"))


def leaves_the_group(caller: Caller, accept: messages.Accept, number: int) -> None:
    group_of(accept).abort()
    caller.send(messages.Want(session=accept.session, chunks=(0, 1)))


def says_bye_while_it_is_sent_to(caller: Caller, accept: messages.Accept, number: int) -> None:
    group = group_of(accept)
    caller.send(messages.Want(session=accept.session, chunks=(0, 1, 2)))
    receive(group, 0)
    caller.send(messages.Bye(session=accept.session, reason="enough"))
    group.abort()


def dies_while_it_is_sent_to(caller: Caller, accept: messages.Accept, number: int) -> None:
    group = group_of(accept)
    caller.send(messages.Want(session=accept.session, chunks=(0, 1, 2)))
    receive(group, 0)
    group.abort()
    caller.send(messages.Want(session=accept.session, chunks=(3,)))


def asks_for_nonsense(caller: Caller, accept: messages.Accept, number: int) -> None:
    caller.send(messages.Want(session=accept.session, chunks=(100_000,)))


def complains(caller: Caller, accept: messages.Accept, number: int) -> None:
    group = group_of(accept)
    caller.send(messages.Want(session=accept.session, chunks=(0,)))
    receive(group, 0)
    caller.send(messages.Bye(session=accept.session, reason="wrong", bad_chunk=0))
    group.abort()


Behaviour = Callable[[Caller, messages.Accept, int], None]

# Every other one completes.
BEHAVIOURS: tuple[Behaviour, ...] = tuple(
    behaviour
    for odd in (
        never_comes,
        leaves_the_rendezvous,
        leaves_the_group,
        says_bye_while_it_is_sent_to,
        dies_while_it_is_sent_to,
        asks_for_nonsense,
        complains,
    )
    for behaviour in (complete, odd)
)


def run_sessions(source: Source, callers: list[Caller], count: int) -> None:
    """So many sessions, one after another on each caller's connection."""
    failed: list[BaseException] = []

    def replica(place: int) -> None:
        caller = callers[place]
        for number in range(place, count, _AT_ONCE):
            caller.send(hello(WEIGHTS, backend="tcp"))
            # A session that ended badly is told of when it is over: words of earlier ones.
            while isinstance(answer := caller.receive(10), messages.Bye):
                pass
            assert isinstance(answer, messages.Accept), answer
            BEHAVIOURS[number // _AT_ONCE % len(BEHAVIOURS)](caller, answer, number)

    def guarded(place: int) -> None:
        try:
            replica(place)
        except BaseException as error:  # noqa: BLE001 - told by the thread that asserts.
            failed.append(error)

    running = [threading.Thread(target=guarded, args=(place,)) for place in range(_AT_ONCE)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failed, failed
    until(lambda: source.sessions == 0)


@pytest.mark.slow
@pytest.mark.timeout(180)  # 25 s on two cores that are otherwise idle.
def test_many_sessions_leave_nothing_behind() -> None:
    # Room for those that are being ended beside those that run.
    with serving(offer_of(WEIGHTS), timeout_s=10, max_sessions=64) as source:
        callers = [Caller(source) for _ in range(_AT_ONCE)]
        try:
            run_sessions(source, callers, WARM_UP)
            gc.collect()
            before = (threads(), descriptors(), resident_bytes())
            run_sessions(source, callers, SESSIONS)
            gc.collect()
            until(lambda: threads() <= before[0] + _SPARE_THREADS)
            until(lambda: descriptors() <= before[1] + _SPARE_DESCRIPTORS)
            grown = resident_bytes() - before[2]
            print(f"{SESSIONS} sessions: {grown / 2**20:+.1f} MiB")
            assert grown <= _SPARE_BYTES
        finally:
            for caller in callers:
                caller.close()
