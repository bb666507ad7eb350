"""A peer that has gone, at any moment."""

from __future__ import annotations

import pytest
import torch
from tests.fastest import at_most, took_less
from tests.loader.support import until
from tests.loader.transport.carriers import Carrier, GroupPair, started
from tests.loader.transport.conformance.support import (
    LATE_S,
    MIB,
    PROMPT_S,
    LeavingBackend,
    SilentBackend,
    fails,
    meeting,
    moved,
)

from netloader.transport import Rendezvous, TransportError, join


def test_a_receive_fails_at_once_when_the_peer_aborts(carrier: Carrier, pair: GroupPair) -> None:
    held = pair.replica.recv(carrier.zeros(1), 1)
    waiting = pair.source.recv(carrier.zeros(3), 2)
    pair.replica.abort()
    assert fails(waiting).startswith("receive of 3 bytes (tag 2) from the replica: ")
    del held


def test_a_peer_that_goes_in_the_middle_of_a_message_is_missed_at_once(
    carrier: Carrier, pair: GroupPair
) -> None:
    data, target = carrier.filled(128 * MIB, 1), carrier.zeros(128 * MIB)
    moved(pair, carrier.zeros(1), carrier.zeros(1), 3)
    arriving = pair.replica.recv(target, 1)
    never = pair.replica.recv(carrier.zeros(1), 2)
    sending = pair.source.send(data, 1)
    if not carrier.lands_at_wait:  # Else the source goes at some moment of the message.
        until(lambda: bool(target[0]), LATE_S)
    pair.source.abort()
    with at_most(PROMPT_S):
        try:
            arriving.wait(LATE_S)
        except TransportError:
            pass  # Broken off, as it should where bytes take time.
        else:
            assert torch.equal(target, data)
        fails(never)
    del sending


def test_after_a_transfer_whose_peer_has_gone_nothing_moves_and_nothing_hangs(
    carrier: Carrier, pair: GroupPair
) -> None:
    moved(pair, carrier.zeros(8), carrier.zeros(8))
    pair.source.abort()
    with pytest.raises(TransportError):
        pair.replica.recv(carrier.zeros(8), 2).wait(LATE_S)
    with pytest.raises(TransportError):
        pair.replica.send(carrier.zeros(8), 2).wait(LATE_S)


def test_a_replica_that_leaves_the_rendezvous_is_missed_at_once(carrier: Carrier) -> None:
    source, replica, took_s = meeting(carrier.make(), LeavingBackend())
    assert source is replica is None
    took_less(took_s, PROMPT_S)


def test_a_source_that_leaves_the_rendezvous_is_missed_at_once(carrier: Carrier) -> None:
    source, replica, took_s = meeting(LeavingBackend(), carrier.make())
    assert source is replica is None
    took_less(took_s, PROMPT_S)


@pytest.mark.parametrize("silent", ["source", "replica"])
def test_a_peer_that_is_silent_at_the_rendezvous_is_given_up(carrier: Carrier, silent: str) -> None:
    stranger, backend = SilentBackend(), carrier.make()
    rendezvous = Rendezvous("127.0.0.1", 0.3)
    source, replica = (stranger, backend) if silent == "source" else (backend, stranger)
    opening = started(lambda: rendezvous.open(source))
    joining = started(lambda: join("127.0.0.1", rendezvous.port, rendezvous.secret, replica, 0.3))
    waiting, other = (joining, opening) if silent == "source" else (opening, joining)
    with at_most(PROMPT_S):
        assert isinstance(waiting.exception(LATE_S), TransportError)
    stranger.leave.set()
    assert isinstance(other.exception(LATE_S), TransportError)
