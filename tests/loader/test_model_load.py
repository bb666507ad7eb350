"""One model on its way into a worker: what the settings do to where its weights come from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from tests.loader.support import (
    OnSend,
    Stuck,
    TamperedBackend,
    Toy,
    cut_after,
    equal,
    identity,
    offer_of,
    serving,
    toy_weights,
    wrong_byte_in,
)
from torch import nn

from netloader.config import MIN_CHUNK_BYTES, Config
from netloader.model_load import ModelLoad
from netloader.transport.gloo import GlooBackend
from netloader.weights import capture
from netloader.worker import Worker

ROWS = 30_000
"""Several chunks of the smallest size that may be set."""

WEIGHTS = toy_weights(1, rows=ROWS, chunk=MIN_CHUNK_BYTES)


def slow(tag: int, data: torch.Tensor) -> torch.Tensor:
    time.sleep(0.05)
    return data


def honest(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


def storage(model: nn.Module) -> None:
    for mine, right in zip(capture(model).tensors, WEIGHTS.tensors, strict=True):
        mine.copy_(right)


@contextmanager
def sources(*faults: OnSend) -> Iterator[list[str]]:
    """The endpoints of one source with each fault."""
    with ExitStack() as stack:
        offers = [offer_of(WEIGHTS, backend=TamperedBackend(fault)) for fault in faults]
        yield [stack.enter_context(serving(offer)).endpoint for offer in offers]


def load(endpoints: list[str], **extra: object) -> tuple[ModelLoad, bool]:
    """A load from these sources, and whether it ended with the right bytes."""
    listed = [{"device_id": 0, "sources": endpoints}]
    settings = {"MESH": False, "SOURCE": listed, "CHUNK_BYTES": MIN_CHUNK_BYTES, **extra}
    worker = Worker(Config.load(settings, {}), 0)
    try:
        one = ModelLoad(worker, "toy", "target", use_tqdm=False)
        one.announce(identity(), GlooBackend(), "cpu")
        model = Toy(rows=ROWS)
        one.fill(model, storage)
    finally:
        worker.close()
    return one, equal(capture(model), WEIGHTS)


def test_max_sources() -> None:
    with sources(slow, honest) as endpoints:
        many, right = load(endpoints)
        assert right
        assert {delivery.endpoint for delivery in many.deliveries} == set(endpoints)
        one, right = load(endpoints, MAX_SOURCES=1)
        assert right
        assert [delivery.endpoint for delivery in one.deliveries] == endpoints[:1]


def test_verify() -> None:
    with sources(wrong_byte_in(0)) as endpoints:
        verified, right = load(endpoints)
        assert (verified.origin, right) == ("storage", True)
        assert any("chunk 0 has digest" in reason for reason in verified.skipped)
        taken, right = load(endpoints, VERIFY=False)
        assert (taken.origin, right) == ("peers", False)


def test_source_timeout() -> None:
    with sources(cut_after(2)) as endpoints:
        started = time.monotonic()
        one, right = load(endpoints, SOURCE_TIMEOUT=0.5)
        assert (one.origin, right) == ("storage", True)
        assert "no source was left for 0.5 s" in one.skipped
        assert time.monotonic() - started >= 0.5


def test_transfer_timeout() -> None:
    stuck = Stuck(after=1)
    with sources(stuck) as endpoints:
        one, right = load(endpoints, TRANSFER_TIMEOUT=0.5, SOURCE_TIMEOUT=0)
        stuck.release.set()
    assert (one.origin, right) == ("storage", True)
    assert one.deliveries[0].nbytes > 0
