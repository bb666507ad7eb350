"""What is left of groups that are gone."""

from __future__ import annotations

import gc
import weakref

import pytest
from tests.loader.support import descriptors, threads, until
from tests.loader.transport.carriers import Carrier, GroupPair, open_pair
from tests.loader.transport.conformance.support import LATE_S, LeavingBackend, meeting, moved

from netloader.transport import Pending, TransportError


def test_what_has_failed_is_freed_with_its_last_reference(
    carrier: Carrier, pair: GroupPair
) -> None:
    """Not later, when the garbage collector finds a cycle: a tensor may be a gigabyte."""
    data = carrier.zeros(100)
    alive = weakref.ref(data)
    gc.disable()
    try:
        pending = pair.replica.recv(data, 1)
        for _ in "12":
            try:  # What `pytest.raises` returns would be such a cycle.
                pending.wait(0.05)
            except TransportError:
                continue
            pytest.fail("nothing was sent, and it came")
        del data, pending
        assert alive() is None
    finally:
        gc.enable()


def test_a_hundred_groups_leave_no_threads_and_no_descriptors(carrier: Carrier) -> None:
    backend = carrier.make()

    def once(held: list[Pending]) -> None:
        pair = open_pair(backend)
        moved(pair, carrier.zeros(100), carrier.zeros(100))
        held.append(pair.replica.recv(carrier.zeros(100), 2))
        pair.abort()

    once([])
    before = descriptors(), threads()
    for _ in range(100):
        once([])
    # A thread that was joined takes a moment to be gone from the process.
    until(lambda: descriptors() <= before[0] and threads() <= before[1], LATE_S)


def test_groups_that_nobody_joined_leave_nothing_either(carrier: Carrier) -> None:
    backend = carrier.make()
    meeting(backend, LeavingBackend())
    before = descriptors(), threads()
    for _ in range(10):
        meeting(backend, LeavingBackend())
        meeting(LeavingBackend(), backend)
    until(lambda: descriptors() <= before[0] and threads() <= before[1], LATE_S)
