"""What every transport has to do: the promises of `transport/base.py`, one test each.

A new backend becomes one entry of `CARRIERS` in `carriers.py`. It has to provide

- a `Backend` that opens a group between two threads of this process, over a store of the
  rendezvous, and between two processes unless `crosses_processes` is false;
- the device on which its tensors lie;
- where the device is missing, what is missing: its tests are then skipped with these words.

Nothing else is known of it here. What is particular to one backend is tested beside, in a file of
its name.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch
from tests.fastest import HANG_S, Stopwatch, at_most, took_less
from tests.forked import ForkedProcess, start_loader
from tests.loader.support import descriptors, threads, until
from tests.loader.transport.carriers import CARRIERS, Carrier, GroupPair, open_pair, started
from torch._C._distributed_c10d import Store

from netloader.transport import Backend, Group, Pending, Rendezvous, TransportError, join

LATE_S = HANG_S
"""A timeout that no test may reach."""

PROMPT_S = 1.0
"""Bound of what has to happen at once: moments, on a machine that is not busy."""

KIB, MIB = 1 << 10, 1 << 20

SIZES = (0, 1, 3, 64, 65, 4097, 64 * KIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 40 * MIB + 12_345)
"""Nothing, the least, odd ones, pages, a chunk of the tests, and both sides of where a message is
cut in two."""


@pytest.fixture(params=CARRIERS, ids=lambda carrier: carrier.name)
def carrier(request: pytest.FixtureRequest) -> Carrier:
    found: Carrier = request.param
    if found.missing:
        pytest.skip(found.missing)
    return found


@pytest.fixture
def pair(carrier: Carrier) -> Iterator[GroupPair]:
    made = open_pair(carrier.make())
    yield made
    made.abort()


def fails(pending: Pending, timeout_s: float = LATE_S, limit_s: float = PROMPT_S) -> str:
    """Wait for a transfer that must fail at once. Returns why it did."""
    with at_most(limit_s), pytest.raises(TransportError) as caught:
        pending.wait(timeout_s)
    return str(caught.value)


def moved(pair: GroupPair, data: torch.Tensor, target: torch.Tensor, tag: int = 1) -> None:
    arriving = pair.replica.recv(target, tag)
    pair.source.send(data, tag).wait(LATE_S)
    arriving.wait(LATE_S)


# What arrives


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_message_of_any_size_arrives_whole(
    carrier: Carrier, pair: GroupPair, nbytes: int
) -> None:
    data, target = carrier.pattern(nbytes), carrier.zeros(nbytes)
    moved(pair, data, target)
    assert torch.equal(data, target)


def test_messages_of_one_tag_keep_their_order_whatever_their_sizes(
    carrier: Carrier, pair: GroupPair
) -> None:
    sizes = (100, 8 * MIB, 0, 7, 16 * MIB + 1, 5000, 8 * MIB)
    targets = [carrier.zeros(size) for size in sizes]
    arriving = [pair.replica.recv(target, 9) for target in targets]
    leaving = [
        pair.source.send(carrier.filled(size, number + 1), 9) for number, size in enumerate(sizes)
    ]
    for pending in arriving + leaving:
        pending.wait(LATE_S)
    for number, target in enumerate(targets):
        assert bool((target == number + 1).all())


@pytest.mark.parametrize("receives_first", [True, False])
def test_several_tags_may_be_interleaved(
    carrier: Carrier, pair: GroupPair, receives_first: bool
) -> None:
    messages = [(tag, 1000 * tag + number) for number in range(20) for tag in (3, 4, 900_000)]
    data = [carrier.pattern(4096 + seed % 777, seed) for _, seed in messages]
    targets = [torch.zeros_like(one) for one in data]

    def receive() -> list[Pending]:
        return [
            pair.replica.recv(target, tag)
            for (tag, _), target in zip(messages, targets, strict=True)
        ]

    def send() -> list[Pending]:
        return [pair.source.send(one, tag) for (tag, _), one in zip(messages, data, strict=True)]

    under_way = receive() + send() if receives_first else send() + receive()
    for pending in under_way:
        pending.wait(LATE_S)
    assert all(map(torch.equal, data, targets))


def test_both_ends_may_send_at_once(carrier: Carrier, pair: GroupPair) -> None:
    data = [carrier.pattern(20 * MIB, seed) for seed in (1, 2)]
    targets = [torch.zeros_like(one) for one in data]
    under_way = [
        pair.source.recv(targets[1], 5),
        pair.replica.recv(targets[0], 5),
        pair.source.send(data[0], 5),
        pair.replica.send(data[1], 5),
    ]
    for pending in under_way:
        pending.wait(LATE_S)
    assert all(map(torch.equal, data, targets))


def test_views_of_one_tensor_travel_in_place_and_nothing_beside_them_is_touched(
    carrier: Carrier, pair: GroupPair
) -> None:
    data, target = carrier.pattern(9 * MIB + 100), carrier.filled(9 * MIB + 100, 0xAA)
    expected = target.clone()
    cuts = [(1, 2), (3, 4000), (4001, 70_000), (70_003, 8 * MIB + 70_003), (9 * MIB, 9 * MIB)]
    arriving = [pair.replica.recv(target[start:end], 1) for start, end in cuts]
    leaving = [pair.source.send(data[start:end], 1) for start, end in cuts]
    for pending in arriving + leaving:
        pending.wait(LATE_S)
    for start, end in cuts:
        expected[start:end] = data[start:end]
    assert torch.equal(target, expected)


def test_a_transfer_keeps_its_tensor_alive(carrier: Carrier, pair: GroupPair) -> None:
    sending = pair.source.send(carrier.filled(4 * MIB, 7), 1)
    rubbish = [carrier.filled(4 * MIB, 9) for _ in range(8)]  # Would take its place in memory.
    target = carrier.zeros(4 * MIB)
    pair.replica.recv(target, 1).wait(LATE_S)
    sending.wait(LATE_S)
    assert bool((target == 7).all())
    del rubbish


def test_groups_of_one_backend_do_not_mix(carrier: Carrier) -> None:
    backend = carrier.make()
    pairs = [open_pair(backend) for _ in range(3)]
    targets = [carrier.zeros(1000) for _ in pairs]
    arriving = [one.replica.recv(target, 1) for one, target in zip(pairs, targets, strict=True)]
    for number, one in reversed(list(enumerate(pairs))):
        one.source.send(carrier.filled(1000, number + 1), 1).wait(LATE_S)
    for pending in arriving:
        pending.wait(LATE_S)
    assert [target.unique().tolist() for target in targets] == [[1], [2], [3]]
    for one in pairs:
        one.abort()


def test_a_group_is_not_in_torchs_registry(pair: GroupPair) -> None:
    assert not torch.distributed.is_initialized()


# Waiting


def test_a_wait_ends_with_its_timeout_and_says_what_for(carrier: Carrier, pair: GroupPair) -> None:
    began = time.monotonic()
    why = fails(pair.replica.recv(carrier.zeros(3), 7), 0.05)
    assert time.monotonic() - began >= 0.04
    assert why.startswith("receive of 3 bytes (tag 7) from the source: ")


def test_a_sender_is_ahead_of_its_receiver_by_a_bounded_number_of_bytes(
    carrier: Carrier, pair: GroupPair
) -> None:
    why = fails(pair.source.send(carrier.zeros(64 * MIB), 8), 0.2)
    assert why.startswith(f"send of {64 * MIB} bytes (tag 8) to the replica: ")


def test_a_wait_that_timed_out_breaks_the_group_at_both_ends(
    carrier: Carrier, pair: GroupPair
) -> None:
    waiting = pair.source.recv(carrier.zeros(1), 1)
    fails(pair.replica.recv(carrier.zeros(1), 2), 0.05)
    with pytest.raises(TransportError, match=r"send of 1 bytes .* aborted"):
        pair.replica.send(carrier.zeros(1), 3)
    fails(waiting)


def test_a_second_wait_ends_at_once_as_the_first_did(carrier: Carrier, pair: GroupPair) -> None:
    arriving = pair.replica.recv(carrier.zeros(4), 1)
    leaving = pair.source.send(carrier.zeros(4), 1)
    for _ in "12":
        leaving.wait(LATE_S)
        arriving.wait(LATE_S)
    late = pair.replica.recv(carrier.zeros(4), 2)
    fails(late, 0.05)
    fails(late)


# An abort at this end


@pytest.mark.parametrize("sends", [True, False], ids=["send", "receive"])
def test_abort_wakes_the_thread_that_waits_and_gives_the_reason(
    carrier: Carrier, pair: GroupPair, sends: bool
) -> None:
    # More than any buffer holds, and nobody receives or sends.
    transfer = pair.source.send if sends else pair.source.recv
    pending = transfer(carrier.zeros(64 * MIB), 1)
    waiting = started(lambda: fails(pending))
    pair.source.abort("no longer wanted")
    pair.source.abort("a later reason")
    assert waiting.result(LATE_S).endswith("no longer wanted")


def test_abort_ends_a_thread_that_posts_and_waits_without_a_pause(
    carrier: Carrier, pair: GroupPair
) -> None:
    under_way = threading.Event()

    def exchange(group: Group, sends: bool) -> None:
        data = carrier.zeros(100 * KIB)
        while True:
            (group.send if sends else group.recv)(data, 1).wait(LATE_S)
            under_way.set()

    ends = [
        started(lambda: exchange(pair.source, True)),
        started(lambda: exchange(pair.replica, False)),
    ]
    assert under_way.wait(LATE_S)
    with at_most(PROMPT_S):
        pair.replica.abort()
        for end in ends:
            assert isinstance(end.exception(LATE_S), TransportError)


@pytest.mark.parametrize("nbytes", [8 * MIB - 1, 16 * MIB])
@pytest.mark.parametrize("at", [0, 0.3, 0.9])
def test_nothing_is_written_after_an_abort_although_the_peer_still_sends(
    carrier: Carrier, pair: GroupPair, nbytes: int, at: float
) -> None:
    data, target = carrier.filled(nbytes, 1), carrier.zeros(2 * nbytes)
    arriving, leaving = [], []
    for tag, part in enumerate(target.split(nbytes)):
        arriving.append(pair.replica.recv(part, tag))
        leaving.append(pair.source.send(data, tag))
    ends = [started(lambda one=pending: one.wait(LATE_S)) for pending in arriving]
    until(lambda: bool(target[int(at * nbytes)]), LATE_S)  # So far it has come.
    pair.replica.abort()
    target.fill_(9)
    has_heard(carrier, pair.source)  # It sends no more.
    for end in ends:
        assert isinstance(end.exception(LATE_S), TransportError | None)
    assert bool((target == 9).all())
    del leaving


def test_the_second_to_abort_does_not_return_before_the_first_is_done(carrier: Carrier) -> None:
    for _ in range(5):
        pair = open_pair(carrier.make())
        data, target = carrier.filled(32 * MIB, 1), carrier.zeros(32 * MIB)
        held = pair.replica.recv(target, 1), pair.source.send(data, 1)
        first = started(pair.replica.abort)
        pair.replica.abort()
        target.fill_(9)
        first.result(LATE_S)
        pair.abort()
        assert bool((target == 9).all())
        del held


def test_an_aborted_group_refuses_to_be_used(carrier: Carrier, pair: GroupPair) -> None:
    pair.source.abort("enough")
    pair.source.abort()
    with pytest.raises(TransportError, match=r"send of 1 bytes .* aborted: enough"):
        pair.source.send(carrier.zeros(1), 1)
    with pytest.raises(TransportError, match=r"receive of 1 bytes .* aborted: enough"):
        pair.source.recv(carrier.zeros(1), 1)


# A peer that has gone


def has_heard(carrier: Carrier, group: Group) -> None:
    """Check that this end knows of the other's abort."""
    with at_most(PROMPT_S), pytest.raises(TransportError):
        group.recv(carrier.zeros(1), 999).wait(LATE_S)


def test_a_receive_fails_at_once_when_the_peer_aborts(carrier: Carrier, pair: GroupPair) -> None:
    held = pair.replica.recv(carrier.zeros(1), 1)
    waiting = pair.source.recv(carrier.zeros(3), 2)
    pair.replica.abort()
    assert fails(waiting).startswith("receive of 3 bytes (tag 2) from the replica: ")
    del held


def test_a_peer_that_goes_in_the_middle_of_a_message_is_missed_at_once(
    carrier: Carrier, pair: GroupPair
) -> None:
    data, target = carrier.filled(128 * MIB, 1), carrier.zeros(128 * MIB)
    moved(pair, carrier.zeros(1), carrier.zeros(1), 3)
    arriving = pair.replica.recv(target, 1)
    never = pair.replica.recv(carrier.zeros(1), 2)
    sending = pair.source.send(data, 1)
    if not carrier.lands_at_wait:  # Else the source goes at some moment of the message.
        until(lambda: bool(target[0]), LATE_S)
    pair.source.abort()
    with at_most(PROMPT_S):
        try:
            arriving.wait(LATE_S)
        except TransportError:
            pass  # Broken off, as it should where bytes take time.
        else:
            assert torch.equal(target, data)
        fails(never)
    del sending


def test_after_a_transfer_whose_peer_has_gone_nothing_moves_and_nothing_hangs(
    carrier: Carrier, pair: GroupPair
) -> None:
    moved(pair, carrier.zeros(8), carrier.zeros(8))
    pair.source.abort()
    with pytest.raises(TransportError):
        pair.replica.recv(carrier.zeros(8), 2).wait(LATE_S)
    with pytest.raises(TransportError):
        pair.replica.send(carrier.zeros(8), 2).wait(LATE_S)


class LeavingBackend:
    """Comes to the rendezvous and opens nothing."""

    name = "leaving"
    connections = 0

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        raise TransportError("changed its mind")


class SilentBackend:
    """Comes to the rendezvous and says nothing until `leave`."""

    name = "silent"
    connections = 0

    def __init__(self) -> None:
        self.leave = threading.Event()

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        self.leave.wait(LATE_S)
        raise TransportError("was silent")


def meeting(
    source: Backend, replica: Backend, timeout_s: float = LATE_S, secret: str = ""
) -> tuple[Group | None, Group | None, float]:
    """What each end gets at a rendezvous, and by a stopwatch the seconds that it took both."""
    rendezvous = Rendezvous("127.0.0.1", timeout_s)
    watch = Stopwatch()
    opening = started(lambda: rendezvous.open(source))
    joining = started(
        lambda: join("127.0.0.1", rendezvous.port, secret or rendezvous.secret, replica, timeout_s)
    )
    groups: list[Group | None] = []
    for end in (opening, joining):
        error = end.exception(LATE_S)
        assert error is None or isinstance(error, TransportError), error
        groups.append(None if error else end.result())
    return groups[0], groups[1], watch.seconds()


def test_a_replica_that_leaves_the_rendezvous_is_missed_at_once(carrier: Carrier) -> None:
    source, replica, took_s = meeting(carrier.make(), LeavingBackend())
    assert source is replica is None
    took_less(took_s, PROMPT_S)


def test_a_source_that_leaves_the_rendezvous_is_missed_at_once(carrier: Carrier) -> None:
    source, replica, took_s = meeting(LeavingBackend(), carrier.make())
    assert source is replica is None
    took_less(took_s, PROMPT_S)


@pytest.mark.parametrize("silent", ["source", "replica"])
def test_a_peer_that_is_silent_at_the_rendezvous_is_given_up(carrier: Carrier, silent: str) -> None:
    stranger, backend = SilentBackend(), carrier.make()
    rendezvous = Rendezvous("127.0.0.1", 0.3)
    source, replica = (stranger, backend) if silent == "source" else (backend, stranger)
    opening = started(lambda: rendezvous.open(source))
    joining = started(lambda: join("127.0.0.1", rendezvous.port, rendezvous.secret, replica, 0.3))
    waiting, other = (joining, opening) if silent == "source" else (opening, joining)
    with at_most(PROMPT_S):
        assert isinstance(waiting.exception(LATE_S), TransportError)
    stranger.leave.set()
    assert isinstance(other.exception(LATE_S), TransportError)


# Strangers


def test_without_the_secret_nobody_gets_a_group(carrier: Carrier) -> None:
    backend = carrier.make()
    source, replica, _ = meeting(backend, backend, 0.3, secret="0" * 32)
    assert source is replica is None


def test_a_third_party_at_the_rendezvous_reads_nothing_and_stops_nothing(
    carrier: Carrier,
) -> None:
    backend = carrier.make()
    rendezvous = Rendezvous("127.0.0.1", LATE_S, stranger_s=0.05)
    opening = started(lambda: rendezvous.open(backend))
    heard = b""
    with (
        socket.create_connection(("127.0.0.1", rendezvous.port), LATE_S) as silent,
        socket.create_connection(("127.0.0.1", rendezvous.port), LATE_S) as loud,
    ):
        loud.sendall(b"\0" * 64)
        replica = join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, LATE_S)
        pair = GroupPair(opening.result(LATE_S), replica)
        moved(pair, carrier.zeros(100), carrier.zeros(100))
        for stranger in (silent, loud):
            # One had said something that nobody read.
            with contextlib.suppress(ConnectionResetError):
                heard += stranger.recv(4096)
    assert heard == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", rendezvous.port), 1)
    pair.abort()


# What is left


def test_what_has_failed_is_freed_with_its_last_reference(
    carrier: Carrier, pair: GroupPair
) -> None:
    """Not later, when the garbage collector finds a cycle: a tensor may be a gigabyte."""
    data = carrier.zeros(100)
    alive = weakref.ref(data)
    gc.disable()
    try:
        pending = pair.replica.recv(data, 1)
        for _ in "12":
            try:  # What `pytest.raises` returns would be such a cycle.
                pending.wait(0.05)
            except TransportError:
                continue
            pytest.fail("nothing was sent, and it came")
        del data, pending
        assert alive() is None
    finally:
        gc.enable()


def test_a_hundred_groups_leave_no_threads_and_no_descriptors(carrier: Carrier) -> None:
    backend = carrier.make()

    def once(held: list[Pending]) -> None:
        pair = open_pair(backend)
        moved(pair, carrier.zeros(100), carrier.zeros(100))
        held.append(pair.replica.recv(carrier.zeros(100), 2))
        pair.abort()

    once([])
    before = descriptors(), threads()
    for _ in range(100):
        once([])
    # A thread that was joined takes a moment to be gone from the process.
    until(lambda: descriptors() <= before[0] and threads() <= before[1], LATE_S)


def test_groups_that_nobody_joined_leave_nothing_either(carrier: Carrier) -> None:
    backend = carrier.make()
    meeting(backend, LeavingBackend())
    before = descriptors(), threads()
    for _ in range(10):
        meeting(backend, LeavingBackend())
        meeting(LeavingBackend(), backend)
    until(lambda: descriptors() <= before[0] and threads() <= before[1], LATE_S)


# A peer in another process that is killed


@contextmanager
def peer_process(carrier: Carrier, does: str) -> Iterator[tuple[ForkedProcess, list[str]]]:
    """A source in a process of its own that does this with every group it opens.

    Yields it, and the port and secret of one rendezvous for each group.
    """
    if not carrier.crosses_processes:
        pytest.skip(f"both ends of {carrier.name} are in one process")
    with start_loader("tests.loader.transport.peer_process", carrier.name, does) as process:
        try:
            # Libraries may have something to say first.
            said = next(line for line in process.stdout if line.startswith("meetings "))
            yield process, said.split()[1:]
        finally:
            process.kill()


def received_until_broken(carrier: Carrier, group: Group, flowing: threading.Event) -> None:
    """Keep four receives posted until the group breaks."""
    data = [carrier.zeros(8 * MIB) for _ in range(4)]
    pending = [group.recv(data[tag], tag) for tag in range(4)]
    for tag in range(4, 1 << 20):
        pending.pop(0).wait(LATE_S)
        flowing.set()
        pending.append(group.recv(data[tag % 4], tag))


@pytest.mark.timeout(240)  # torch_npu takes half a minute to import on a busy machine
def test_a_process_that_is_killed_in_mid_transfer_is_missed_by_all_its_groups(
    carrier: Carrier,
) -> None:
    with peer_process(carrier, "sends") as (process, meetings):
        backend = carrier.make()
        groups = [
            join("127.0.0.1", int(port), secret, backend, LATE_S)
            for port, secret in (meeting.split(":") for meeting in meetings)
        ]
        flowing = [threading.Event() for _ in groups]
        receiving = [
            started(lambda one=group, flows=flows: received_until_broken(carrier, one, flows))
            for group, flows in zip(groups, flowing, strict=True)
        ]
        assert all(flows.wait(LATE_S) for flows in flowing)
        assert not any(one.done() for one in receiving)
        with at_most(PROMPT_S):
            process.send_signal(signal.SIGKILL)
            for one in receiving:
                assert isinstance(one.exception(LATE_S), TransportError)
    assert len(groups) > 1
    for group in groups:
        group.abort()


@pytest.mark.timeout(240)  # torch_npu takes half a minute to import on a busy machine
def test_a_sender_is_held_no_longer_than_its_timeout_by_a_process_that_is_killed(
    carrier: Carrier,
) -> None:
    with peer_process(carrier, "stays") as (process, meetings):
        port, secret = meetings[0].split(":")
        group = join("127.0.0.1", int(port), secret, carrier.make(), LATE_S)
        sending = group.send(carrier.zeros(64 * MIB), 1)
        process.send_signal(signal.SIGKILL)
        assert fails(sending, 2.0, 3.0).startswith(
            f"send of {64 * MIB} bytes (tag 1) to the source: "
        )
        with pytest.raises(TransportError):
            group.recv(carrier.zeros(1), 2)


@pytest.mark.timeout(240)  # torch_npu takes half a minute to import on a busy machine
def test_a_process_that_is_killed_while_a_group_opens_is_missed_at_once(carrier: Carrier) -> None:
    with peer_process(carrier, "hangs") as (process, meetings):
        port, secret = meetings[0].split(":")
        backend = carrier.make()
        joining = started(lambda: join("127.0.0.1", int(port), secret, backend, LATE_S))
        assert process.stdout.readline() == "opening\n"
        with at_most(PROMPT_S):
            process.send_signal(signal.SIGKILL)
            assert isinstance(joining.exception(LATE_S), TransportError)
