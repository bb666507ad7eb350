"""Device memory over TCP, a block at a time. What every transport has to do is in `conformance`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from tests.loader.support import until
from tests.loader.transport.carriers import GroupPair, meet, started
from tests.loader.transport.noted_copies import NotedCopies

from netloader.transport import Backend, TransportError
from netloader.transport.bounce import BUFFERS, Staging
from netloader.transport.copies import HostCopies, Wait
from netloader.transport.stripes import LANES, STRIPE_FROM
from netloader.transport.tcp import SealedBackend, TcpBackend

LATE_S = 30.0
BLOCK = 256 * 1024
PLAIN = {"tcp": TcpBackend, "tcp-sealed": SealedBackend}


def staging(copies: HostCopies) -> Staging:
    return Staging(lambda device: copies, lambda data: True, BLOCK)


@pytest.fixture
def copies() -> NotedCopies:
    return NotedCopies()


@pytest.fixture(params=["source", "replica"])
def pair(copies: NotedCopies, request: pytest.FixtureRequest) -> Iterator[GroupPair]:
    """One end has a device, and the other none."""
    ends: list[Backend] = [TcpBackend(staging(copies)), TcpBackend()]
    made = meet(*(ends if request.param == "source" else reversed(ends)))
    yield made
    copies.gate.set()
    made.abort()


def moved(pair: GroupPair, nbytes: int, tag: int = 1) -> bool:
    data = torch.arange(nbytes, dtype=torch.int64).to(torch.uint8)
    target = torch.zeros_like(data)
    arriving = pair.replica.recv(target, tag)
    for pending in (pair.source.send(data, tag), arriving):
        pending.wait(LATE_S)
    return torch.equal(target, data)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("staged", ["source", "replica", "both"])
def test_the_wire_is_that_of_host_memory(kind: str, staged: str) -> None:
    plain, by_blocks = PLAIN[kind](), PLAIN[kind](staging(HostCopies()))
    pair = meet(
        by_blocks if staged != "replica" else plain, by_blocks if staged != "source" else plain
    )
    for size in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, STRIPE_FROM + 12345):
        assert moved(pair, size)
    pair.abort()


def test_a_group_needs_few_buffers_whatever_it_moves(copies: NotedCopies, pair: GroupPair) -> None:
    for tag in range(20):
        assert moved(pair, 5 * BLOCK, tag)
    assert moved(pair, 2 * STRIPE_FROM)
    assert copies.made == [BLOCK] * (LANES * BUFFERS)


def test_a_copy_that_fails_ends_the_group_in_words(copies: NotedCopies, pair: GroupPair) -> None:
    copies.broken = True
    data = torch.ones(3 * BLOCK, dtype=torch.uint8)
    arriving, leaving = pair.replica.recv(torch.zeros_like(data), 1), pair.source.send(data, 1)
    said = []
    for pending in (leaving, arriving):
        try:
            pending.wait(LATE_S)
        except TransportError as error:
            said.append(str(error))
    assert any("no copy: an error of the device" in one for one in said), said
    with pytest.raises(TransportError):
        pair.replica.recv(torch.zeros(1, dtype=torch.uint8), 2).wait(LATE_S)


def test_nothing_is_touched_once_an_abort_has_returned(copies: NotedCopies) -> None:
    pair = meet(TcpBackend(), TcpBackend(staging(copies)))
    target = torch.zeros(3 * BLOCK, dtype=torch.uint8)
    pair.replica.recv(target, 1)
    copies.gate.clear()
    pair.source.send(torch.ones_like(target), 1)
    assert copies.reached.wait(LATE_S)
    aborting = started(pair.replica.abort)
    assert not aborting.done()
    copies.gate.set()
    aborting.result(LATE_S)
    target.fill_(9)
    assert bool((target == 9).all())
    pair.abort()


def test_nothing_is_read_once_an_abort_has_returned() -> None:
    copies = EagerCopies()
    pair = meet(TcpBackend(staging(copies)), TcpBackend())
    data = torch.ones(64 * BLOCK, dtype=torch.uint8)
    pair.source.send(data, 1)  # Nobody receives it: the connection is full after a while.
    until(lambda: copies.begun.count(1) > 2, LATE_S)
    pair.source.abort()
    begun = list(copies.begun)
    assert begun.count(1) == begun.count(-1), "each copy was waited for"
    pair.abort()
    assert copies.begun == begun


@dataclass
class EagerCopies(HostCopies):
    """Copies that begin when they are asked for, as a device's do."""

    begun: list[int] = field(default_factory=list)

    def to_host(self, host: torch.Tensor, data: torch.Tensor, after: object) -> Wait:
        self.begun.append(int(data[0]))
        super().to_host(host, data, after)()
        return lambda: self.begun.append(-int(data[0]))


def test_a_device_copies_a_block_while_the_one_before_is_sent() -> None:
    copies = EagerCopies()
    pair = meet(TcpBackend(staging(copies)), TcpBackend())
    data = torch.tensor([1, 2, 3], dtype=torch.uint8).repeat_interleave(BLOCK)
    target = torch.zeros_like(data)
    arriving = pair.replica.recv(target, 1)
    pair.source.send(data, 1).wait(LATE_S)
    arriving.wait(LATE_S)
    assert torch.equal(target, data)
    # The second one begins before the first is waited for.
    assert copies.begun == [1, 2, -1, 3, -2, -3]
    pair.abort()
