"""Waiting for what other threads and processes bring about."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.fastest import HANG_S


def until(done: Callable[[], object], timeout_s: float = HANG_S) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)
