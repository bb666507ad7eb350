"""A pump instead of a thread: tests turn the poll loop themselves until something is true."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import zmq
from tests.fastest import HANG_S

from netmesh.io.reactor import Reactor

LOG = logging.getLogger("netmesh.test")


@dataclass
class Pump:
    """A reactor, its counters and a private context."""

    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    counters: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.reactor = Reactor(self.counters, LOG)

    def until(self, done: Callable[[], object], timeout_s: float = HANG_S) -> None:
        """Poll until *done* is true; fails the test after *timeout_s*."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, "did not happen in time"
            self.reactor.poll(0.02)


@pytest.fixture
def pump() -> Iterator[Pump]:
    made = Pump()
    yield made
    made.context.destroy(linger=0)
