"""How waits end."""

from __future__ import annotations

import time

import pytest
from tests.loader.transport.carriers import Carrier, GroupPair
from tests.loader.transport.conformance.support import LATE_S, MIB, fails

from netloader.transport import TransportError


def test_a_wait_ends_with_its_timeout_and_says_what_for(carrier: Carrier, pair: GroupPair) -> None:
    began = time.monotonic()
    why = fails(pair.replica.recv(carrier.zeros(3), 7), 0.05)
    assert time.monotonic() - began >= 0.04
    assert why.startswith("receive of 3 bytes (tag 7) from the source: ")


def test_a_sender_is_ahead_of_its_receiver_by_a_bounded_number_of_bytes(
    carrier: Carrier, pair: GroupPair
) -> None:
    why = fails(pair.source.send(carrier.zeros(64 * MIB), 8), 0.2)
    assert why.startswith(f"send of {64 * MIB} bytes (tag 8) to the replica: ")


def test_a_wait_that_timed_out_breaks_the_group_at_both_ends(
    carrier: Carrier, pair: GroupPair
) -> None:
    waiting = pair.source.recv(carrier.zeros(1), 1)
    fails(pair.replica.recv(carrier.zeros(1), 2), 0.05)
    with pytest.raises(TransportError, match=r"send of 1 bytes .* aborted"):
        pair.replica.send(carrier.zeros(1), 3)
    fails(waiting)


def test_a_second_wait_ends_at_once_as_the_first_did(carrier: Carrier, pair: GroupPair) -> None:
    arriving = pair.replica.recv(carrier.zeros(4), 1)
    leaving = pair.source.send(carrier.zeros(4), 1)
    for _ in "12":
        leaving.wait(LATE_S)
        arriving.wait(LATE_S)
    late = pair.replica.recv(carrier.zeros(4), 2)
    fails(late, 0.05)
    fails(late)
