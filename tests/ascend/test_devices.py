"""Threads of ours use the device of the weights, whichever device their starter has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from torch._C._distributed_c10d import Store

from netloader.source.audit import Audit
from netloader.source.offer import CurrentOffer
from netloader.transport import Backend, Group, Pending, backends_for
from netloader.weights.capture import Weights, capture
from netloader.weights.digests import of_chunk
from netloader.weights.manifest import Chunk
from tests.loader.support import (
    CHUNK,
    Toy,
    candidate,
    offer_of,
    pull_from,
    pull_into,
    start_source,
    until,
)

LATE_S = 60.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def second_device() -> Iterator[None]:
    torch.npu.set_device(1)
    yield
    torch.npu.set_device(0)


class Watched:
    """Carries bytes, and notes the device of each thread that asks for that."""

    connections = 0

    def __init__(self, inner: Backend) -> None:
        self.name = inner.name
        self.connections = inner.connections
        self.seen: set[tuple[str, int]] = set()
        self._inner = inner

    def note(self, what: str) -> None:
        self.seen.add((what, torch.npu.current_device()))

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        self.note("open")
        return WatchedGroup(self, self._inner.open(store, rank, host, timeout))


class WatchedGroup:
    def __init__(self, watched: Watched, inner: Group) -> None:
        self._watched = watched
        self._inner = inner

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        self._watched.note("send")
        return self._inner.send(data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        self._watched.note("recv")
        return self._inner.recv(data, tag)

    def abort(self, reason: str = "") -> None:
        self._inner.abort(reason)


def toy(seed: int | None) -> Weights:
    return capture(Toy(seed).to("npu:1"), chunk_bytes=CHUNK)


@pytest.mark.parametrize("transport", ["hccl", "tcp"])
@pytest.mark.parametrize("starter", [0, 1])
def test_a_pull_uses_the_device_of_the_weights_alone(transport: str, starter: int) -> None:
    """A source may be made before its worker has taken its device."""
    weights, target = toy(3), toy(None)
    (backend,) = backends_for("npu", [transport])
    source_end, replica_end = Watched(backend), Watched(backend)
    torch.npu.set_device(starter)
    source = start_source(LATE_S)
    try:
        source.serve(offer_of(weights, backends=(source_end,)))
        pull = pull_into(target, backends=(replica_end,), timeout_s=LATE_S)
        pull_from(pull, candidate(source))
    finally:
        source.close()
    assert target.sha256() == weights.sha256()
    assert source_end.seen == {("open", 1), ("send", 1)}
    assert replica_end.seen == {("open", 1), ("recv", 1)}


def test_a_second_look_at_weights_uses_their_device() -> None:
    """The source's thread starts it."""
    offer, seen, current = offer_of(toy(3)), [], CurrentOffer("none")
    looked = threading.Event()

    def read(weights: Weights, chunk: Chunk) -> bytes:
        seen.append(torch.npu.current_device())
        looked.set()
        return of_chunk(weights, chunk)

    current.put(offer)
    audit = Audit(current, lambda changed: None, 0.0, read=read)
    torch.npu.set_device(0)
    assert audit.accuse("a replica", offer, 0)
    until(looked.is_set, LATE_S)
    assert audit.settle(LATE_S)
    assert seen == [1]
