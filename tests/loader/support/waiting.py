"""Waiting for what other threads and processes bring about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.fastest import HANG_S


def until(done: Callable[[], object], timeout_s: float = HANG_S) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


@contextmanager
def in_background(act: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do something in a thread of its own, which has ended when this ends."""
    thread = threading.Thread(target=act)
    thread.start()
    yield thread
    thread.join(HANG_S)
    assert not thread.is_alive()
