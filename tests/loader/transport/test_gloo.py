"""Real two-rank Gloo groups on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from tests.loader.support import descriptors, threads

from netloader.transport import Group, Pending, Rendezvous, TransportError, join
from netloader.transport.gloo import GlooBackend


@dataclass
class Pair:
    source: Group
    replica: Group

    def abort(self) -> None:
        self.source.abort()
        self.replica.abort()


def open_pair(timeout_s: float = 5.0) -> Pair:
    rendezvous = Rendezvous("127.0.0.1", timeout_s)
    found: list[Group] = []
    thread = threading.Thread(target=lambda: found.append(rendezvous.open(GlooBackend())))
    thread.start()
    replica = join("127.0.0.1", rendezvous.port, rendezvous.secret, GlooBackend(), timeout_s)
    thread.join()
    rendezvous.close()
    return Pair(found[0], replica)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = open_pair()
    yield made
    made.abort()


def bytes_of(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def fails_in(pending: Pending, timeout_s: float) -> float:
    started = time.monotonic()
    with pytest.raises(TransportError):
        pending.wait(timeout_s)
    return time.monotonic() - started


def test_bytes_arrive_as_they_were(pair: Pair) -> None:
    target = torch.zeros(3, dtype=torch.uint8)
    arriving = pair.replica.recv(target, 1)
    pair.source.send(bytes_of(1, 2, 3), 1).wait(5)
    arriving.wait(5)
    assert target.tolist() == [1, 2, 3]


def test_messages_are_told_apart_by_their_tag_whatever_the_order(pair: Pair) -> None:
    first, second = torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
    arriving = [pair.replica.recv(first, 10), pair.replica.recv(second, 20)]
    sent = [pair.source.send(bytes_of(2), 20), pair.source.send(bytes_of(1), 10)]
    for pending in arriving + sent:
        pending.wait(5)
    assert (first.item(), second.item()) == (1, 2)


def test_silence_is_an_error_after_the_timeout(pair: Pair) -> None:
    waited = fails_in(pair.replica.recv(bytes_of(0), 1), 0.05)
    assert 0.04 < waited < 2


def test_abort_wakes_a_thread_that_waits_to_receive(pair: Pair) -> None:
    assert woken_by_abort(pair.replica, pair.replica.recv(bytes_of(0), 1)) < 2


def test_abort_wakes_a_thread_that_waits_to_send(pair: Pair) -> None:
    # More than the sockets' buffers hold, and nobody receives.
    assert woken_by_abort(pair.source, pair.source.send(torch.zeros(64 << 20).byte(), 1)) < 2


def woken_by_abort(group: Group, pending: Pending) -> float:
    seconds: list[float] = []
    waiter = threading.Thread(target=lambda: seconds.append(fails_in(pending, 10)))
    waiter.start()
    group.abort()
    waiter.join()
    return seconds[0]


def test_peer_learns_of_an_abort_at_once_also_while_transfers_are_held(pair: Pair) -> None:
    held = pair.replica.recv(bytes_of(0), 1)
    waiting = pair.source.recv(bytes_of(0), 2)
    pair.replica.abort()
    assert fails_in(waiting, 10) < 2
    assert held is not None


def test_nothing_is_written_after_an_abort_although_the_peer_still_sends() -> None:
    for round_ in range(5):
        pair = open_pair()
        source, target = torch.ones(16 << 20).byte(), torch.zeros(16 << 20).byte()
        held = pair.replica.recv(target, 1), pair.source.send(source, 1)
        time.sleep(0.001 * (round_ % 4))  # Somewhere in the middle: the race is the point.
        pair.replica.abort()
        target.fill_(9)
        with pytest.raises(TransportError):
            pair.source.send(source, 2).wait(5)
        assert bool((target == 9).all())
        pair.abort()
        del held


def test_aborted_group_refuses_to_be_used(pair: Pair) -> None:
    pair.source.abort()
    pair.source.abort()
    with pytest.raises(TransportError, match="aborted"):
        pair.source.send(bytes_of(1), 1)
    with pytest.raises(TransportError, match="aborted"):
        pair.source.recv(bytes_of(1), 1)


def test_a_short_message_is_no_error_of_the_group(pair: Pair) -> None:
    # Digests have to find it, so the loader must never rely on the length.
    target = torch.zeros(3, dtype=torch.uint8)
    arriving = pair.replica.recv(target, 1)
    pair.source.send(bytes_of(5), 1).wait(5)
    arriving.wait(5)
    assert target.tolist() == [5, 0, 0]


def test_groups_are_not_in_torchs_registry(pair: Pair) -> None:
    assert not torch.distributed.is_initialized()


def test_groups_leave_no_threads_and_descriptors() -> None:
    open_pair().abort()
    before = descriptors(), threads()
    for _ in range(10):
        open_pair().abort()
    assert (descriptors(), threads()) == before
