"""A session that is aborted, evicted or done ends at once, and sends nothing more."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.source.held_weights import HeldWeights
from tests.loader.source.watched_session import ABORTED, DONE, OFFER, Watched
from tests.loader.support import (
    SendLog,
    Stuck,
    TamperedBackend,
    big_weights,
    offer_of,
    toy_weights,
    until,
)
from torch import nn

from netloader.source.session import SessionOutcome
from netloader.source.throttle import Throttle
from netloader.transport import Group, TransportError
from netloader.transport.gloo import GlooBackend
from netloader.weights.capture import capture
from netloader.weights.manifest import CHUNK_BYTES


def test_abort_does_not_wait_for_a_turn() -> None:
    throttle = Throttle(1_000_000, 1)
    throttle.wait(10_000_000, threading.Event())  # The next turn is ten seconds away.
    watched = Watched(offer_of(big_weights(1, 2)), throttle=throttle)
    group = watched.join()
    watched.session.want([0])
    until(lambda: watched.session.has_sent(0))
    watched.session.abort("enough")
    assert watched.ends_in(10) == ABORTED
    group.abort()


def test_abort_ends_a_session_that_waits_for_requests() -> None:
    watched = Watched(OFFER)
    group = watched.join()
    watched.session.abort("enough")
    watched.session.abort("a later reason")
    assert watched.ends_in(10) == ABORTED
    group.abort()


def test_a_session_that_makes_room_says_so() -> None:
    watched = Watched(OFFER)
    group = watched.join()
    watched.session.evict("took nothing")
    watched.session.abort("a later reason")
    assert watched.ends_in(10) == SessionOutcome("evicted", "took nothing")
    group.abort()


def test_abort_ends_a_session_that_waits_for_a_send() -> None:
    watched = Watched(OFFER)
    group = watched.join()
    watched.session.want(range(8))
    waiting = group.recv(torch.zeros(OFFER.chunks[0].nbytes, dtype=torch.uint8), 0)
    waiting.wait(HANG_S)
    watched.session.abort("enough")
    assert watched.ends_in(10) == ABORTED
    group.abort()


@fastest_of(5)
def test_aborted_in_the_middle_of_a_message_no_weights_are_read_although_gloo_waits_on() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(256, 1 << 18))
    gloo = GlooBackend()
    offer = offer_of(capture(model, chunk_bytes=64 << 20), backend=gloo)
    watched = Watched(offer, timeout_s=2, backend=gloo)
    group = watched.join()
    targets = [torch.zeros(64 << 20, dtype=torch.uint8) for _ in range(4)]
    arriving = [group.recv(target, number) for number, target in enumerate(targets)]
    watched.session.want(range(4))
    until(lambda: watched.session.sent_bytes)
    with at_most(0.5):
        watched.session.abort("enough")
        assert watched.session.quiet(HANG_S)
    assert watched.ends_in(10) == ABORTED
    group.abort()
    del arriving


def test_whoever_wants_quiet_waits_for_a_chunk_that_is_being_packed() -> None:
    held = HeldWeights.of(OFFER.weights)
    watched = Watched(replace(OFFER, weights=held))
    group = watched.join()
    watched.session.want([len(OFFER.chunks) - 1])
    assert held.packing.wait(HANG_S)
    watched.session.abort("enough")
    assert not watched.session.quiet(0.05)
    held.go_on.set()
    assert watched.session.quiet(HANG_S)
    assert watched.ends_in(10) == ABORTED
    group.abort()


def test_abort_ends_a_session_whose_replica_has_not_come() -> None:
    watched = Watched(OFFER)
    watched.session.abort("enough")
    assert watched.ends_in(10) == ABORTED


def test_abort_while_the_group_opens_sends_nothing_of_what_was_wanted() -> None:
    log: list[int] = []
    opened = threading.Event()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        log.append(tag)
        return data

    class Slow(TamperedBackend):
        def open(self, *args: object, **kwargs: object) -> Group:
            group = super().open(*args, **kwargs)  # type: ignore[arg-type]
            opened.wait(HANG_S)
            return group

    watched = Watched(offer_of(toy_weights(1), backend=Slow(on_send)))
    watched.session.want([0, 1, 2])
    group = watched.join()
    watched.session.abort("enough")
    opened.set()
    assert watched.ends_in(10) == ABORTED
    assert log == []
    group.abort()


def test_abort_with_much_left_to_send_still_ends_the_session() -> None:
    stuck = Stuck()
    offer = offer_of(toy_weights(1), backend=TamperedBackend(stuck))
    watched = Watched(offer)
    group = watched.join()
    watched.session.want([0] * 50)
    assert stuck.reached.wait(HANG_S)
    watched.session.abort("enough")
    stuck.release.set()
    assert watched.ends_in(10) == ABORTED
    group.abort()


def test_what_is_asked_for_after_done_is_not_sent() -> None:
    watched = Watched(OFFER)
    group = watched.join()
    watched.session.finish()
    watched.session.finish()
    assert watched.session.want([0]) is None
    assert watched.ends_in(10) == DONE
    assert watched.session.sent_bytes == 0
    group.abort()


def test_what_is_queued_when_the_replica_is_done_is_not_sent() -> None:
    stuck, log = Stuck(after=2), SendLog()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        return log(tag, stuck(tag, data))

    watched = Watched(
        offer_of(toy_weights(1), backend=TamperedBackend(on_send)), timeout_s=4 * HANG_S
    )
    group = watched.join()
    watched.session.want(range(6))
    assert stuck.reached.wait(HANG_S)
    watched.session.finish()
    stuck.release.set()
    # Nobody receives what was sent: the session does not wait out its timeout for that.
    assert watched.ends_in(10) == DONE
    assert log.sent == [0, 1, 2]
    group.abort()


def test_done_does_not_wait_for_a_turn() -> None:
    throttle = Throttle(1_000_000, 1)
    throttle.wait(10_000_000, threading.Event())  # The next turn is ten seconds away.
    watched = Watched(offer_of(big_weights(1, 2)), throttle=throttle)
    group = watched.join()
    watched.session.want([0])
    until(lambda: watched.session.has_sent(0))
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    group.abort()


def test_done_ends_a_session_whose_replica_has_not_come() -> None:
    watched = Watched(OFFER)
    watched.session.finish()
    assert watched.ends_in(10) == DONE


def test_an_abort_after_done_is_no_problem_of_the_session() -> None:
    stuck = Stuck()
    watched = Watched(
        offer_of(toy_weights(1), backend=TamperedBackend(stuck)), timeout_s=4 * HANG_S
    )
    group = watched.join()
    watched.session.want([0])
    assert stuck.reached.wait(HANG_S)
    watched.session.finish()
    watched.session.abort("enough")
    stuck.release.set()
    assert watched.ends_in(10) == DONE
    group.abort()


def test_peer_notices_when_the_session_is_aborted() -> None:
    watched = Watched(OFFER)
    group = watched.join()
    waiting = group.recv(torch.zeros(CHUNK_BYTES, dtype=torch.uint8), 0)
    watched.session.abort("enough")
    with at_most(2), pytest.raises(TransportError):
        waiting.wait(HANG_S)
    group.abort()
