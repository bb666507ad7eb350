"""Streams run in order, beside each other, and only as far as somebody waited for."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import pytest
import torch

LIMIT_S = 30.0


@contextmanager
def held(stream: torch.npu.Stream) -> Iterator[None]:
    """Hold a stream back until the end of the block."""
    go = Event()

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def wait(_: object) -> None:
        go.wait(LIMIT_S)

    launch = ctypes.CDLL("libascendcl.so").aclrtLaunchHostFunc
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    assert launch(stream.npu_stream, wait, None) == 0
    try:
        yield
    finally:
        go.set()
        stream.synchronize()


@pytest.fixture
def side() -> torch.npu.Stream:
    return torch.npu.Stream("npu:0")


def test_a_copy_is_not_done_before_its_stream_gets_there(side: torch.npu.Stream) -> None:
    target = torch.zeros(1000, device="npu:0")
    torch.npu.synchronize()
    ones = torch.ones(1000).pin_memory()
    with held(side):
        with torch.npu.stream(side):
            target.copy_(ones, non_blocking=True)
        assert not side.query()
        assert target.cpu().sum() == 0
    assert side.query()
    assert target.cpu().sum() == 1000


def test_a_stream_keeps_the_order_of_what_it_was_given(side: torch.npu.Stream) -> None:
    target = torch.zeros(1000, device="npu:0")
    torch.npu.synchronize()
    values = [torch.full((1000,), float(value)).pin_memory() for value in range(1, 21)]
    with held(side), torch.npu.stream(side):
        for value in values:
            target.copy_(value, non_blocking=True)
    assert torch.equal(target.cpu(), values[-1])


def test_an_event_holds_another_stream_back(side: torch.npu.Stream) -> None:
    source = torch.zeros(1000, device="npu:0")
    target = torch.zeros(1000, device="npu:0")
    torch.npu.synchronize()
    other = torch.npu.Stream("npu:0")
    written = torch.npu.Event()
    with held(side):
        with torch.npu.stream(side):
            source.copy_(torch.ones(1000).pin_memory(), non_blocking=True)
            written.record()
        with torch.npu.stream(other):
            other.wait_event(written)
            target.copy_(source)
        assert not written.query()
        assert not other.query()
    other.synchronize()
    assert target.cpu().sum() == 1000


def test_an_operator_waits_for_its_own_stream_only(side: torch.npu.Stream) -> None:
    target = torch.zeros(1000, device="npu:0")
    torch.npu.synchronize()
    with held(side):
        with torch.npu.stream(side):
            target.copy_(torch.ones(1000).pin_memory(), non_blocking=True)
        # A program that forgets to wait for `side` reads old bytes here.
        assert float(target.sum()) == 0
    assert float(target.sum()) == 1000


def test_an_event_tells_how_long_it_took(side: torch.npu.Stream) -> None:
    start, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    start.record(side)
    end.record(side)
    side.synchronize()
    assert start.query() and end.query()
    assert 0 <= start.elapsed_time(end) < LIMIT_S * 1000
