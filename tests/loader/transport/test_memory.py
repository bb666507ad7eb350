"""What is particular to the transport in memory. The rest is in `conformance`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from tests.loader.support import (
    SendLog,
    TamperedBackend,
    candidate,
    equal,
    offer_of,
    pull_into,
    serving,
    toy_weights,
    wrong_byte_in,
)
from tests.loader.transport.carriers import GroupPair, open_pair, started
from torch._C._distributed_c10d import HashStore

from netloader.errors import NoSourceLeft
from netloader.transport import REPLICA, SOURCE, TransportError, backends_for
from netloader.transport.memory import MemoryBackend
from netloader.transport.registry import FASTEST

LATE_S = 120.0


@pytest.fixture
def pair() -> Iterator[GroupPair]:
    made = open_pair(MemoryBackend())
    yield made
    made.abort()


def bytes_of(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def test_a_sender_is_never_ahead_of_its_receiver(pair: GroupPair) -> None:
    data = bytes_of(1)
    sending = pair.source.send(data, 1)
    data.fill_(2)  # It may not, before `wait` returns: here that shows what was copied when.
    target = bytes_of(0)
    pair.replica.recv(target, 1).wait(0)
    assert target.item() == 2
    sending.wait(0)


def test_tags_overtake_one_another(pair: GroupPair) -> None:
    first, second = bytes_of(0), bytes_of(0)
    pair.source.send(bytes_of(2), 20)
    pair.source.send(bytes_of(1), 10)
    pair.replica.recv(first, 10).wait(0)
    pair.replica.recv(second, 20).wait(0)
    assert (first.item(), second.item()) == (1, 2)


def test_a_short_message_fills_the_beginning(pair: GroupPair) -> None:
    target = bytes_of(0, 0, 0)
    pair.source.send(bytes_of(5), 1)
    pair.replica.recv(target, 1).wait(0)
    assert target.tolist() == [5, 0, 0]


@pytest.mark.parametrize("receives_first", [True, False])
def test_a_message_longer_than_its_receive_breaks_the_group(
    pair: GroupPair, receives_first: bool
) -> None:
    target = bytes_of(0, 0)
    ends = [lambda: pair.replica.recv(target, 1), lambda: pair.source.send(bytes_of(1, 2, 3), 1)]
    first, second = ends if receives_first else reversed(ends)
    pending = first()
    with pytest.raises(TransportError, match="3 bytes were sent for 2"):
        second()
    with pytest.raises(TransportError, match="3 bytes were sent for 2"):
        pending.wait(LATE_S)
    assert target.tolist() == [0, 0]


def test_what_was_complete_stays_so_when_the_peer_leaves(pair: GroupPair) -> None:
    target = bytes_of(0)
    arriving = pair.replica.recv(target, 1)
    pair.source.send(bytes_of(1), 1)
    pair.source.abort()
    arriving.wait(LATE_S)
    assert target.item() == 1


def test_groups_that_open_at_once_do_not_mix() -> None:
    backend, timeout = MemoryBackend(), timedelta(seconds=LATE_S)
    stores = [HashStore() for _ in range(3)]
    opening = [
        started(lambda store=store: backend.open(store, SOURCE, "", timeout)) for store in stores
    ]
    for store in stores:
        store.wait(["memory/source"], timeout)
    replicas = [backend.open(store, REPLICA, "", timeout) for store in reversed(stores)]
    for number, (source, replica) in enumerate(zip(opening, reversed(replicas), strict=True)):
        target = bytes_of(0)
        source.result(LATE_S).send(bytes_of(number + 1), 1)
        replica.recv(target, 1).wait(0)
        assert target.item() == number + 1


def test_two_backends_do_not_meet() -> None:
    """As two processes would not: each end is told, neither waits out its timeout."""
    store, timeout = HashStore(), timedelta(seconds=0.2)
    source = started(lambda: MemoryBackend().open(store, SOURCE, "", timeout))
    with pytest.raises(TransportError, match="no memory group with the source: it has gone"):
        MemoryBackend().open(store, REPLICA, "", timedelta(seconds=LATE_S))
    assert "no memory group with the replica" in str(source.exception(LATE_S))


def test_a_replica_that_comes_too_late_finds_nobody() -> None:
    backend, store = MemoryBackend(), HashStore()
    with pytest.raises(TransportError, match="no memory group with the replica"):
        backend.open(store, SOURCE, "", timedelta(seconds=0.01))
    with pytest.raises(TransportError, match="no memory group with the source: it has gone"):
        backend.open(store, REPLICA, "", timedelta(seconds=LATE_S))


def test_operators_cannot_select_it() -> None:
    for device_type in ("cpu", "xpu", *FASTEST):
        assert MemoryBackend.name not in {one.name for one in backends_for(device_type)}


def test_a_whole_model_is_pulled_in_memory_and_what_is_tampered_with_is_found() -> None:
    memory, log = MemoryBackend(), SendLog()
    truth, replica = toy_weights(1), toy_weights()
    with serving(offer_of(truth, backend=TamperedBackend(log, memory))) as source:
        pull_into(replica, backend=memory).run(lambda: (candidate(source),))
    assert equal(replica, truth)
    assert sorted(log.sent) == [chunk.id for chunk in truth.manifest.chunks()]

    offer = offer_of(truth, backend=TamperedBackend(wrong_byte_in(3), memory))
    with serving(offer) as source, pytest.raises(NoSourceLeft, match="chunk 3"):
        pull_into(toy_weights(), backend=memory).run(lambda: (candidate(source),))
