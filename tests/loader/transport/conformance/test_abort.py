"""An abort at this end."""

from __future__ import annotations

import threading

import pytest
from tests.fastest import at_most
from tests.loader.support import until
from tests.loader.transport.carriers import Carrier, GroupPair, open_pair, started
from tests.loader.transport.conformance.support import KIB, LATE_S, MIB, PROMPT_S, fails, has_heard

from netloader.transport import Group, TransportError


@pytest.mark.parametrize("sends", [True, False], ids=["send", "receive"])
def test_abort_wakes_the_thread_that_waits_and_gives_the_reason(
    carrier: Carrier, pair: GroupPair, sends: bool
) -> None:
    # More than any buffer holds, and nobody receives or sends.
    transfer = pair.source.send if sends else pair.source.recv
    pending = transfer(carrier.zeros(64 * MIB), 1)
    waiting = started(lambda: fails(pending))
    pair.source.abort("no longer wanted")
    pair.source.abort("a later reason")
    assert waiting.result(LATE_S).endswith("no longer wanted")


def test_abort_ends_a_thread_that_posts_and_waits_without_a_pause(
    carrier: Carrier, pair: GroupPair
) -> None:
    under_way = threading.Event()

    def exchange(group: Group, sends: bool) -> None:
        data = carrier.zeros(100 * KIB)
        while True:
            (group.send if sends else group.recv)(data, 1).wait(LATE_S)
            under_way.set()

    ends = [
        started(lambda: exchange(pair.source, True)),
        started(lambda: exchange(pair.replica, False)),
    ]
    assert under_way.wait(LATE_S)
    with at_most(PROMPT_S):
        pair.replica.abort()
        for end in ends:
            assert isinstance(end.exception(LATE_S), TransportError)


@pytest.mark.parametrize("nbytes", [8 * MIB - 1, 16 * MIB])
@pytest.mark.parametrize("at", [0, 0.3, 0.9])
def test_nothing_is_written_after_an_abort_although_the_peer_still_sends(
    carrier: Carrier, pair: GroupPair, nbytes: int, at: float
) -> None:
    data, target = carrier.filled(nbytes, 1), carrier.zeros(2 * nbytes)
    arriving, leaving = [], []
    for tag, part in enumerate(target.split(nbytes)):
        arriving.append(pair.replica.recv(part, tag))
        leaving.append(pair.source.send(data, tag))
    ends = [started(lambda one=pending: one.wait(LATE_S)) for pending in arriving]
    until(lambda: bool(target[int(at * nbytes)]), LATE_S)  # So far it has come.
    pair.replica.abort()
    target.fill_(9)
    has_heard(carrier, pair.source)  # It sends no more.
    for end in ends:
        assert isinstance(end.exception(LATE_S), TransportError | None)
    assert bool((target == 9).all())
    del leaving


def test_the_second_to_abort_does_not_return_before_the_first_is_done(carrier: Carrier) -> None:
    for _ in range(5):
        pair = open_pair(carrier.make())
        data, target = carrier.filled(32 * MIB, 1), carrier.zeros(32 * MIB)
        held = pair.replica.recv(target, 1), pair.source.send(data, 1)
        first = started(pair.replica.abort)
        pair.replica.abort()
        target.fill_(9)
        first.result(LATE_S)
        pair.abort()
        assert bool((target == 9).all())
        del held


def test_an_aborted_group_refuses_to_be_used(carrier: Carrier, pair: GroupPair) -> None:
    pair.source.abort("enough")
    pair.source.abort()
    with pytest.raises(TransportError, match=r"send of 1 bytes .* aborted: enough"):
        pair.source.send(carrier.zeros(1), 1)
    with pytest.raises(TransportError, match=r"receive of 1 bytes .* aborted: enough"):
        pair.source.recv(carrier.zeros(1), 1)
