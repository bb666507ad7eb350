"""A session ends when it has to, whatever its replica does."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
import torch
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.source.held_weights import HeldWeights
from tests.loader.support import (
    SendLog,
    Stuck,
    TamperedBackend,
    TamperedGroup,
    big_weights,
    offer_of,
    toy_weights,
    until,
)
from torch import nn
from torch._C._distributed_c10d import Store

from netloader.source.offer import Offer
from netloader.source.session import Session, SessionOutcome, SessionTerms
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle
from netloader.transport import Group, Pending, Rendezvous, TransportError, join
from netloader.transport.gloo import GlooBackend
from netloader.weights.capture import capture
from netloader.weights.manifest import CHUNK_BYTES

DONE = SessionOutcome("done")
ABORTED = SessionOutcome("aborted", "enough")


class Watched:
    """A session and what became of it."""

    def __init__(
        self,
        offer: Offer,
        timeout_s: float = 4 * HANG_S,
        opening_s: float = 4 * HANG_S,
        throttle: Throttle | None = None,
    ) -> None:
        self.ended = threading.Event()
        self.outcomes: list[SessionOutcome] = []
        self.rendezvous = Rendezvous("127.0.0.1", opening_s)
        self.session = Session(
            SessionTerms("0" * 32, "replica", offer.backends[0]),
            offer,
            self.rendezvous,
            SourceSettings(timeout_s=timeout_s),
            self._on_end,
            throttle=throttle,
        )
        self.session.start()

    def join(self) -> Group:
        return join(
            "127.0.0.1", self.rendezvous.port, self.rendezvous.secret, GlooBackend(), HANG_S
        )

    def ends_in(self, limit_s: float) -> SessionOutcome:
        with at_most(limit_s):
            assert self.ended.wait(HANG_S), "the session goes on"
            assert self.session.join(HANG_S)
        (outcome,) = self.outcomes
        return outcome

    def _on_end(self, session: Session, outcome: SessionOutcome) -> None:
        self.outcomes.append(outcome)
        self.ended.set()


@dataclass
class SeenPending:
    inner: Pending
    waits: threading.Event

    def wait(self, timeout_s: float) -> None:
        self.waits.set()
        self.inner.wait(timeout_s)


@dataclass
class SeenGroup(TamperedGroup):
    waits: threading.Event = field(default_factory=threading.Event)

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return SeenPending(super().send(data, tag), self.waits)


@dataclass
class WaitingSeen(TamperedBackend):
    """Says when the session waits for a send."""

    waits: threading.Event = field(default_factory=threading.Event)

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        group = super().open(store, rank, host, timeout)
        assert isinstance(group, TamperedGroup)
        return SeenGroup(group.inner, group.on_send, self.waits)


@pytest.fixture(scope="module")
def offer() -> Offer:
    return offer_of(toy_weights(1))


def test_wanted_chunks_are_sent_and_done_ends_the_session(offer: Offer) -> None:
    watched = Watched(offer)
    group = watched.join()
    chunk = offer.chunks[0]
    target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
    arriving = group.recv(target, chunk.id)
    assert watched.session.want([chunk.id]) is None
    arriving.wait(HANG_S)
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    assert torch.equal(target, offer.weights.view(chunk.pieces[0]))
    assert watched.session.sent_bytes == chunk.nbytes
    assert watched.session.has_sent(chunk.id)
    assert not watched.session.has_sent(chunk.id + 1)


def test_a_limited_session_cuts_chunks_into_messages_and_waits_for_each_turn() -> None:
    offer = offer_of(big_weights(1, 2))
    throttle = Throttle(5_000_000, 400)
    assert throttle.message_bytes == 98_304
    watched = Watched(offer, throttle=throttle)
    group = watched.join()
    chunk = offer.chunks[0]
    target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
    started = time.monotonic()
    arriving = [group.recv(part, 0) for part in target.split(throttle.message_bytes)]
    watched.session.want([0])
    for part in arriving:
        part.wait(HANG_S)
    took_s = time.monotonic() - started
    usage = watched.session.usage()
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    assert torch.equal(target, offer.weights.view(chunk.pieces[0]))
    # 2 MiB at 5 MB/s, less the first message and one turn made up for.
    assert took_s > 0.35
    assert usage.held_s > 0.1
    group.abort()


def test_packed_chunks_may_be_cut_too_and_share_staging_memory() -> None:
    weights = toy_weights(1, chunk=1 << 20)
    offer = offer_of(weights)
    throttle = Throttle(1_000_000_000, 80_000)  # Fast, and in small messages.
    size = throttle.message_bytes
    packed = [chunk for chunk in offer.chunks if len(chunk.pieces) > 1]
    assert max(chunk.nbytes for chunk in packed) > size
    watched = Watched(offer, throttle=throttle)
    group = watched.join()
    staging = torch.empty(weights.manifest.chunk_bytes, dtype=torch.uint8)
    for chunk in packed * 2:
        target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
        arriving = [group.recv(part, chunk.id) for part in target.split(size)]
        watched.session.want([chunk.id])
        for part in arriving:
            part.wait(HANG_S)
        assert torch.equal(target, weights.pack(chunk, staging))
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    group.abort()


def test_staging_memory_is_two_chunks_however_many_are_asked_for() -> None:
    weights = toy_weights(1)
    log = SendLog()
    used: set[int] = set()
    waits = threading.Event()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        used.add(data.untyped_storage().data_ptr())
        return log(tag, data)

    offer = offer_of(weights, backend=WaitingSeen(on_send, waits=waits))
    packed = [chunk for chunk in offer.chunks if weights.contiguous(chunk) is None] * 3
    assert len(packed) > SourceSettings().staged_chunks
    watched = Watched(offer)
    group = watched.join()
    watched.session.want([chunk.id for chunk in packed])
    assert waits.wait(HANG_S)  # Nobody receives: the next ones have to wait.
    assert len(log.sent) == SourceSettings().staged_chunks
    for chunk in packed:
        target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
        group.recv(target, chunk.id).wait(HANG_S)
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    assert len(log.sent) == len(packed)
    assert len(used) <= SourceSettings().staged_chunks
    group.abort()


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


def test_time_without_requests_is_counted_as_idle() -> None:
    watched = Watched(offer_of(toy_weights(1)))
    group = watched.join()
    until(lambda: watched.session.usage().idle_s >= 0.02)
    stuck_at = watched.session.usage()
    target = torch.zeros(watched.session.offer.chunks[0].nbytes, dtype=torch.uint8)
    arriving = group.recv(target, 0)
    watched.session.want([0])
    arriving.wait(HANG_S)
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    ended = watched.session.usage()
    assert ended.sent_bytes == target.numel()
    assert ended.idle_s >= stuck_at.idle_s
    assert ended.held_s == 0
    group.abort()


def test_replica_that_never_asks_is_given_up(offer: Offer) -> None:
    watched = Watched(offer, timeout_s=0.1)
    group = watched.join()
    assert watched.ends_in(10) == SessionOutcome("broken", "nothing asked for in 0.1 s")
    group.abort()


def test_replica_that_asks_and_does_not_receive_is_given_up() -> None:
    watched = Watched(offer_of(big_weights(1, 64)), timeout_s=0.2)
    group = watched.join()
    watched.session.want(range(8))
    outcome = watched.ends_in(10)
    assert outcome.how == "broken"
    assert "Timed out" in outcome.reason
    group.abort()


def test_replica_that_dies_ends_the_session_with_the_next_send(offer: Offer) -> None:
    watched = Watched(offer)
    watched.join().abort()
    watched.session.want([0, 1])
    assert watched.ends_in(10).how == "broken"


def test_abort_ends_a_session_that_waits_for_requests(offer: Offer) -> None:
    watched = Watched(offer)
    group = watched.join()
    watched.session.abort("enough")
    watched.session.abort("a later reason")
    assert watched.ends_in(10) == ABORTED
    group.abort()


def test_a_session_that_makes_room_says_so(offer: Offer) -> None:
    watched = Watched(offer)
    group = watched.join()
    watched.session.evict("took nothing")
    watched.session.abort("a later reason")
    assert watched.ends_in(10) == SessionOutcome("evicted", "took nothing")
    group.abort()


def test_abort_ends_a_session_that_waits_for_a_send() -> None:
    watched = Watched(offer_of(big_weights(1, 64)))
    group = watched.join()
    watched.session.want(range(8))
    waiting = group.recv(torch.zeros(8 << 20, dtype=torch.uint8), 0)
    waiting.wait(HANG_S)
    watched.session.abort("enough")
    assert watched.ends_in(10) == ABORTED
    group.abort()


def test_a_replica_that_connects_to_the_rendezvous_and_says_nothing_is_given_up(
    offer: Offer,
) -> None:
    watched = Watched(offer, opening_s=0.3)
    with socket.create_connection(("127.0.0.1", watched.rendezvous.port)):
        assert watched.ends_in(10).how == "broken"


@fastest_of(5)
def test_aborted_in_the_middle_of_a_message_no_weights_are_read_although_gloo_waits_on() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(256, 1 << 18))
    watched = Watched(offer_of(capture(model, chunk_bytes=64 << 20)), timeout_s=2)
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


def test_whoever_wants_quiet_waits_for_a_chunk_that_is_being_packed(offer: Offer) -> None:
    held = HeldWeights.of(offer.weights)
    watched = Watched(replace(offer, weights=held))
    group = watched.join()
    watched.session.want([len(offer.chunks) - 1])
    assert held.packing.wait(HANG_S)
    watched.session.abort("enough")
    assert not watched.session.quiet(0.05)
    held.go_on.set()
    assert watched.session.quiet(HANG_S)
    assert watched.ends_in(10) == ABORTED
    group.abort()


def test_abort_ends_a_session_whose_replica_has_not_come(offer: Offer) -> None:
    watched = Watched(offer)
    watched.session.abort("enough")
    assert watched.ends_in(10) == ABORTED


def test_abort_while_the_group_opens_sends_nothing_of_what_was_wanted(offer: Offer) -> None:
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


def test_requests_in_all_are_limited_however_they_are_spread() -> None:
    offer = offer_of(toy_weights(1))
    watched = Watched(offer)
    allowed = 4 * len(offer.chunks) + 64
    for _ in range(allowed):
        assert watched.session.want([0]) is None
    assert watched.session.want([]) is None
    assert watched.session.want([0]) == "asked for each chunk more than 4 times"
    watched.session.abort("enough")
    assert watched.ends_in(10) == ABORTED


def test_what_is_asked_for_after_done_is_not_sent(offer: Offer) -> None:
    watched = Watched(offer)
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


def test_done_ends_a_session_whose_replica_has_not_come(offer: Offer) -> None:
    watched = Watched(offer)
    watched.session.finish()
    assert watched.ends_in(10) == DONE


def test_an_abort_after_done_is_no_problem_of_the_session(offer: Offer) -> None:
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


def test_a_fault_of_ours_ends_the_session_and_nothing_else(offer: Offer) -> None:
    def broken(tag: int, data: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("oops")

    watched = Watched(offer_of(toy_weights(1), backend=TamperedBackend(broken)))
    group = watched.join()
    watched.session.want([0])
    assert watched.ends_in(10) == SessionOutcome("broken", "ZeroDivisionError: oops")
    group.abort()


def test_peer_notices_when_the_session_is_aborted(offer: Offer) -> None:
    watched = Watched(offer)
    group = watched.join()
    waiting = group.recv(torch.zeros(CHUNK_BYTES, dtype=torch.uint8), 0)
    watched.session.abort("enough")
    with at_most(2), pytest.raises(TransportError):
        waiting.wait(HANG_S)
    group.abort()
