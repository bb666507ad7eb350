"""What is particular to staging. What every transport has to do is in `conformance`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.loader.transport.carriers import GroupPair, meet, open_pair, stage_everything, started
from tests.loader.transport.noted_copies import NotedCopies

from netloader.transport import Backend, TransportError
from netloader.transport.copies import HostCopies
from netloader.transport.gloo import GlooBackend
from netloader.transport.memory import MemoryBackend
from netloader.transport.staged import HOST_BYTES, MIN_MESSAGES, StagedBackend

LATE_S = 30.0
MIB = 1 << 20


def staged(copies: HostCopies, inner: Backend | None = None) -> StagedBackend:
    return StagedBackend(inner or GlooBackend(), lambda device: copies, lambda data: True)


@pytest.fixture
def copies() -> NotedCopies:
    return NotedCopies()


@pytest.fixture
def pair(copies: NotedCopies) -> Iterator[GroupPair]:
    """The source stages, its replica does not."""
    made = meet(staged(copies), GlooBackend())
    yield made
    copies.gate.set()
    made.abort()


@pytest.mark.parametrize("sides", ["source", "replica", "both"])
def test_the_wire_is_that_of_the_transport_underneath(sides: str) -> None:
    plain, by_host = GlooBackend(), stage_everything()
    pair = meet(by_host if sides != "replica" else plain, by_host if sides != "source" else plain)
    sizes = (0, 1, 65, 5000, 8 * MIB - 1, 8 * MIB, 20 * MIB + 3)
    data = [torch.full((size,), number + 1, dtype=torch.uint8) for number, size in enumerate(sizes)]
    targets = [torch.zeros_like(one) for one in data]
    arriving = [pair.replica.recv(one, tag // 2) for tag, one in enumerate(targets)]
    leaving = [pair.source.send(one, tag // 2) for tag, one in enumerate(data)]
    for pending in arriving + leaving:
        pending.wait(LATE_S)
    assert all(map(torch.equal, data, targets))
    pair.abort()


def test_its_name_is_that_of_the_transport_underneath() -> None:
    assert staged(HostCopies()).name == "gloo"
    assert staged(HostCopies(), MemoryBackend()).name == "memory"


@pytest.mark.parametrize("nbytes", [3 * MIB, 40 * MIB], ids=["small", "large"])
def test_a_window_of_any_depth_takes_a_bounded_number_of_buffers(
    copies: NotedCopies, nbytes: int
) -> None:
    pair = open_pair(staged(copies))
    count = 12 if nbytes > HOST_BYTES // MIN_MESSAGES else 40
    data, target = torch.ones(nbytes, dtype=torch.uint8), torch.zeros(nbytes, dtype=torch.uint8)
    arriving = [pair.replica.recv(target, tag) for tag in range(count)]
    sending = started(lambda: [pair.source.send(data, tag) for tag in range(count)])
    leaving = sending.result(LATE_S)
    done = started(lambda: [pending.wait(LATE_S) for pending in leaving])
    for pending in arriving:
        pending.wait(LATE_S)
    done.result(LATE_S)
    assert bool(target.all())
    assert len(copies.copied) == 2 * count
    least = 1 << (nbytes - 1).bit_length()
    # One direction at either end.
    assert len(copies.made) <= 2 * max(MIN_MESSAGES, HOST_BYTES // least)
    assert len(copies.made) < count
    pair.abort()


def test_a_buffer_is_filled_again_only_when_its_message_has_left(
    copies: NotedCopies, pair: GroupPair
) -> None:
    nbytes = HOST_BYTES // 2
    data = [torch.full((nbytes,), number, dtype=torch.uint8) for number in range(1, 8)]
    leaving = [pair.source.send(one, tag) for tag, one in enumerate(data)]
    assert len(copies.copied) == MIN_MESSAGES  # The others wait for these.
    targets = [torch.zeros_like(one) for one in data]
    arriving = [pair.replica.recv(one, tag) for tag, one in enumerate(targets)]
    done = started(lambda: [pending.wait(LATE_S) for pending in leaving])
    for pending in arriving:
        pending.wait(LATE_S)
    done.result(LATE_S)
    assert all(map(torch.equal, data, targets))


def test_the_last_may_be_waited_for_first(copies: NotedCopies) -> None:
    pair = open_pair(staged(copies))
    nbytes = HOST_BYTES // 2
    data = [torch.full((nbytes,), number, dtype=torch.uint8) for number in range(1, 6)]
    targets = [torch.zeros_like(one) for one in data]
    arriving = [pair.replica.recv(one, tag) for tag, one in enumerate(targets)]
    leaving = [pair.source.send(one, tag) for tag, one in enumerate(data)]
    done = started(lambda: leaving[-1].wait(LATE_S))
    for pending in reversed(arriving):
        pending.wait(LATE_S)
    done.result(LATE_S)
    assert all(map(torch.equal, data, targets))
    pair.abort()


def test_host_memory_goes_as_it_is_and_in_its_turn(copies: NotedCopies) -> None:
    device = torch.full((HOST_BYTES // 2,), 1, dtype=torch.uint8)
    host = torch.full((4096,), 2, dtype=torch.uint8)
    by_host = StagedBackend(
        GlooBackend(), lambda device: copies, lambda data: data.numel() == device.numel()
    )
    pair = meet(by_host, GlooBackend())
    messages = [device] * (MIN_MESSAGES + 2) + [host]  # All of one tag.
    leaving = [pair.source.send(one, 1) for one in messages]
    targets = [torch.zeros_like(one) for one in messages]
    arriving = [pair.replica.recv(one, 1) for one in targets]
    done = started(lambda: [pending.wait(LATE_S) for pending in leaving])
    for pending in arriving:
        pending.wait(LATE_S)
    done.result(LATE_S)
    assert all(map(torch.equal, messages, targets))
    assert copies.copied == [device.numel()] * (MIN_MESSAGES + 2)
    pair.abort()


def test_abort_waits_for_the_copy_under_way_and_no_other_begins(copies: NotedCopies) -> None:
    pair = meet(GlooBackend(), staged(copies))
    data, target = torch.ones(100, dtype=torch.uint8), torch.zeros(200, dtype=torch.uint8)
    arriving = [pair.replica.recv(part, tag) for tag, part in enumerate(target.split(100))]
    for tag in (0, 1):
        pair.source.send(data, tag).wait(LATE_S)
    copies.gate.clear()
    first = started(lambda: arriving[0].wait(LATE_S))
    assert copies.reached.wait(LATE_S)
    aborting = started(pair.replica.abort)
    second = started(lambda: arriving[1].wait(LATE_S))
    assert not aborting.done()
    copies.gate.set()
    aborting.result(LATE_S)
    target.fill_(9)
    assert isinstance(second.exception(LATE_S), TransportError)
    assert isinstance(first.exception(LATE_S), TransportError | None)
    assert bool((target == 9).all())
    pair.abort()


@pytest.mark.parametrize("end", ["source", "replica"])
def test_a_copy_that_fails_breaks_the_group_in_words(copies: NotedCopies, end: str) -> None:
    backends = staged(copies), GlooBackend()
    pair = meet(*(backends if end == "source" else reversed(backends)))
    copies.broken = True
    data = torch.ones(100, dtype=torch.uint8)
    if end == "source":
        with pytest.raises(TransportError, match=r"send of 100 bytes \(tag 1\) .*: no copy: an e"):
            pair.source.send(data, 1)
    else:
        arriving = pair.replica.recv(data, 1)
        pair.source.send(data, 1).wait(LATE_S)
        with pytest.raises(TransportError, match=r"receive of 100 bytes .*: no copy: an error"):
            arriving.wait(LATE_S)
    other = pair.replica if end == "source" else pair.source
    with pytest.raises(TransportError):
        other.recv(torch.zeros(1, dtype=torch.uint8), 2).wait(LATE_S)
    pair.abort()


def test_a_transfer_that_never_began_fails_with_its_group(
    copies: NotedCopies, pair: GroupPair
) -> None:
    nbytes = HOST_BYTES // 2
    data = torch.ones(nbytes, dtype=torch.uint8)
    leaving = [pair.source.send(data, tag) for tag in range(MIN_MESSAGES + 1)]
    with pytest.raises(TransportError, match=rf"send of {nbytes} bytes \(tag {MIN_MESSAGES}\)"):
        leaving[-1].wait(0.05)
    with pytest.raises(TransportError, match="aborted"):
        pair.source.send(data, 99)
