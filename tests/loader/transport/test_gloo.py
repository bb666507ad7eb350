"""Real two-rank Gloo groups on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from tests.loader.support import descriptors, threads, until

from netloader.transport import Group, Pending, Rendezvous, TransportError, join
from netloader.transport.gloo import LANES, STRIPE_FROM, GlooBackend, GlooGroup, stripes


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


SIZES = (0, 1, 5000, STRIPE_FROM - 1, STRIPE_FROM, STRIPE_FROM + 1, 3 * STRIPE_FROM + 12_345)


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("tag", [0, 1, 7, (1 << 20) - 1])
def test_stripes_cover_a_message_once_and_no_two_share_a_page(nbytes: int, tag: int) -> None:
    parts = list(stripes(nbytes, tag))
    covered = [at for _, part in parts for at in (part.start, part.stop)]
    assert (covered[0], covered[-1]) == (0, nbytes)
    assert covered[1:-1:2] == covered[2:-1:2]
    assert all(start % 4096 == 0 for start in covered[2:-1:2])
    assert len({lane for lane, _ in parts}) == len(parts) == (1 if nbytes < STRIPE_FROM else LANES)


def test_small_messages_take_every_lane_in_turn() -> None:
    assert {lane for tag in range(LANES) for lane, _ in stripes(100, tag)} == set(range(LANES))


@pytest.mark.parametrize("nbytes", SIZES[1:])
def test_a_message_of_any_size_arrives_whole(pair: Pair, nbytes: int) -> None:
    sent = torch.arange(nbytes, dtype=torch.int64).mul_(2_654_435_761).view(torch.uint8)[:nbytes]
    target = torch.zeros(nbytes, dtype=torch.uint8)
    arriving = pair.replica.recv(target, 3)
    pair.source.send(sent, 3).wait(5)
    arriving.wait(5)
    assert torch.equal(sent, target)


def test_messages_of_one_tag_keep_their_order_whatever_their_sizes(pair: Pair) -> None:
    sizes = (100, STRIPE_FROM, 7, 2 * STRIPE_FROM + 1, 5000, STRIPE_FROM)
    targets = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
    arriving = [pair.replica.recv(target, 9) for target in targets]
    leaving = [
        pair.source.send(torch.full((size,), number + 1, dtype=torch.uint8), 9)
        for number, size in enumerate(sizes)
    ]
    for pending in arriving + leaving:
        pending.wait(5)
    assert [set(target.unique().tolist()) for target in targets] == [
        {number + 1} for number in range(len(sizes))
    ]


def test_an_error_on_one_lane_breaks_the_other_too(pair: Pair) -> None:
    lanes = {tag % LANES: pair.source.recv(bytes_of(0), tag) for tag in range(LANES)}
    silent = pair.replica.recv(bytes_of(0), 4)  # On the first lane.
    fails_in(silent, 0.05)
    for waiting in lanes.values():
        assert fails_in(waiting, 10) < 2
    with pytest.raises(TransportError, match="aborted"):
        pair.replica.recv(bytes_of(0), 5)


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


@pytest.mark.parametrize("nbytes", [STRIPE_FROM - 1, 2 * STRIPE_FROM])
def test_nothing_is_written_after_an_abort_although_the_peer_still_sends(nbytes: int) -> None:
    for round_ in range(8):
        pair = open_pair()
        source = torch.ones(nbytes, dtype=torch.uint8)
        target = torch.zeros(LANES * nbytes, dtype=torch.uint8)
        held = [
            pending
            for tag, part in enumerate(target.split(nbytes))
            for pending in (pair.replica.recv(part, tag), pair.source.send(source, tag))
        ]
        time.sleep(0.001 * (round_ % 4))  # Somewhere in the middle: the race is the point.
        pair.replica.abort()
        target.fill_(9)
        with pytest.raises(TransportError):
            pair.source.send(source, 2 + round_).wait(5)
        assert bool((target == 9).all())
        pair.abort()
        del held


def test_whoever_aborts_second_does_not_return_before_the_first_is_done() -> None:
    for _ in range(5):
        pair = open_pair()
        source, target = torch.ones(32 << 20).byte(), torch.zeros(32 << 20).byte()
        held = pair.replica.recv(target, 1), pair.source.send(source, 1)
        first = threading.Thread(target=pair.replica.abort)
        first.start()
        pair.replica.abort()
        target.fill_(9)
        first.join()
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
    # A thread that was joined takes a moment to be gone from the process.
    until(lambda: descriptors() <= before[0] and threads() <= before[1])


def test_receiver_hears_at_once_that_its_peer_died_in_the_middle_of_a_message(pair: Pair) -> None:
    data = torch.zeros(256 << 20, dtype=torch.uint8)
    target = torch.zeros_like(data)
    arriving = pair.replica.recv(target, 1)
    sending = pair.source.send(data, 1)
    time.sleep(0.01)
    started = time.monotonic()
    pair.source.abort()
    with pytest.raises(TransportError):
        arriving.wait(10)
    assert time.monotonic() - started < 2
    del sending


def test_abort_posts_nothing_that_a_peer_could_send_too_much_to() -> None:
    """A message longer than what was posted for it terminates the process that receives it."""
    posted: list[tuple[str, int]] = []

    class Recorder:
        def send(self, tensors: list[torch.Tensor], rank: int, tag: int) -> None:
            posted.append(("send", tag))
            raise RuntimeError("closed")

        def recv(self, tensors: list[torch.Tensor], rank: int, tag: int) -> None:
            posted.append(("recv", tag))
            raise RuntimeError("closed")

    for _ in range(2):
        GlooGroup(Recorder(), 1).abort()
    assert [what for what, _ in posted] == ["send"] * 2 * LANES
    assert len({tag for _, tag in posted}) == 2 * LANES  # Drawn anew: not to be guessed.
