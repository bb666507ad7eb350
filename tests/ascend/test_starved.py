"""A device without memory in the middle of a pull: the weights come from elsewhere, all live on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

import pytest
import torch
from torch._C._distributed_c10d import Store

from netloader.source.service import Source
from netloader.transport import Backend, Group, Pending, backends_for
from tests.fastest import HANG_S
from tests.loader.support import (
    OnSend,
    TamperedBackend,
    TamperedGroup,
    Toy,
    offer_of,
    serving,
)
from tests.loader.worker.loading.whole_load import (
    ROWS,
    WEIGHTS,
    FakeEngine,
    Loaded,
    load_with,
    working,
)

MIB = 1 << 20

SOURCE, REPLICA, OTHER = 0, 1, 2
"""Their devices."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def small_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Room for a few groups of HCCL and the toy model."""
    torch.npu.empty_cache()
    monkeypatch.setenv("FAKECANN_MEMORY_MB", "320")
    torch.npu.set_device(REPLICA)
    yield
    torch.npu.set_device(0)


class Starving:
    """Takes all memory of a device before a send of some number, until it is fed."""

    def __init__(self, device: int, at: int) -> None:
        self._device = device
        self._numbers = itertools.count()
        self._at = at
        self._taken: list[torch.Tensor] = []

    def __call__(self, tag: int, data: torch.Tensor) -> torch.Tensor:
        if next(self._numbers) == self._at:
            self._take()
        return data

    def _take(self) -> None:
        torch.npu.empty_cache()
        # torch keeps free memory by stream: what others have freed is for the default one.
        with torch.npu.stream(torch.npu.default_stream(self._device)):
            size = 64 * MIB
            while size >= 512:
                try:
                    taken = torch.empty(size, dtype=torch.uint8, device=f"npu:{self._device}")
                    self._taken.append(taken)
                except torch.OutOfMemoryError:
                    size //= 2

    @property
    def has_struck(self) -> bool:
        return bool(self._taken)

    def feed(self) -> None:
        self._taken.clear()
        torch.npu.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.feed()


@dataclass
class OneAtATime(TamperedGroup):
    """Calls `on_send` when nothing is under way.

    What is still under way would give its memory back after all of it was taken, and the next
    message would find room in it, and so on to the last one.
    """

    earlier: Pending | None = None

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        if self.earlier is not None:
            self.earlier.wait(HANG_S)
        self.earlier = super().send(data, tag)
        return self.earlier


class OneAtATimeBackend(TamperedBackend):
    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        return OneAtATime(self.inner.open(store, rank, host, timeout), self.on_send)


def backends(device: int, on_send: OnSend) -> tuple[Backend, ...]:
    with torch.npu.device(device):
        return tuple(OneAtATimeBackend(on_send, inner) for inner in backends_for("npu", ["hccl"]))


def unchanged(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


def on_the_device() -> torch.nn.Module:
    return Toy(rows=ROWS).to(f"npu:{REPLICA}")


def load(*endpoints: str) -> Loaded:
    listed = [{"device_id": 0, "sources": list(endpoints)}]
    with working(SOURCE=listed, SOURCE_TIMEOUT=0, MAX_SOURCES=1) as worker:
        return load_with(worker, FakeEngine(device="npu"), on_the_device)


def kept_in_host_memory(device: int, on_send: OnSend) -> AbstractContextManager[Source]:
    """A source that kept its originals so, and sends them by way of its device."""
    return serving(
        offer_of(replace(WEIGHTS, device_type="npu"), backends=backends(device, on_send))
    )


def test_a_source_without_memory_loses_its_replica_to_another() -> None:
    with ExitStack() as stack:
        starving = stack.enter_context(Starving(SOURCE, at=3))
        first = stack.enter_context(kept_in_host_memory(SOURCE, starving))
        second = stack.enter_context(kept_in_host_memory(OTHER, unchanged))
        one = load(first.endpoint, second.endpoint)
        assert starving.has_struck
        assert (one.origin, one.right) == ("peers", True), one.skipped
        assert second.endpoint in one.delivered
        # Its last words may come too late to be read.
        assert any(first.endpoint in reason for reason in one.skipped), one.skipped
        starving.feed()
        again = load(first.endpoint)
        assert (again.origin, again.right) == ("peers", True), again.skipped


def test_a_source_without_memory_alone_leaves_its_replica_to_storage() -> None:
    with Starving(SOURCE, at=3) as starving, kept_in_host_memory(SOURCE, starving) as source:
        one = load(source.endpoint)
        assert starving.has_struck
        assert (one.origin, one.right) == ("storage", True), one.skipped


def test_a_replica_without_memory_reads_storage() -> None:
    # Later ones would find what the first chunk has used.
    with Starving(REPLICA, at=0) as starving, kept_in_host_memory(SOURCE, starving) as source:
        one = load(source.endpoint)
        assert starving.has_struck
        assert (one.origin, one.right) == ("storage", True), one.skipped
        words = "this worker's device is out of memory"
        assert any(words in reason for reason in one.skipped), one.skipped
        starving.feed()
        again = load(source.endpoint)
        assert (again.origin, again.right) == ("peers", True), again.skipped
