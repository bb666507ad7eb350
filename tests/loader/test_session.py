"""A session ends when it has to, whatever its replica does."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from tests.loader.support import (
    Stuck,
    TamperedBackend,
    big_weights,
    offer_of,
    toy_weights,
)

from netloader.manifest import CHUNK_BYTES
from netloader.session import Offer, Session
from netloader.transport import Group, Rendezvous, TransportError, join
from netloader.transport.gloo import GlooBackend


class Watched:
    """A session and what became of it."""

    def __init__(self, offer: Offer, timeout_s: float = 5.0, opening_s: float = 5.0) -> None:
        self.ended = threading.Event()
        self.problem: str | None = None
        self.rendezvous = Rendezvous("127.0.0.1", opening_s)
        self.session = Session("0" * 32, "replica", offer, self.rendezvous, timeout_s, self._on_end)
        self.session.start()

    def join(self) -> Group:
        return join("127.0.0.1", self.rendezvous.port, self.rendezvous.secret, GlooBackend(), 5)

    def ends_in(self, timeout_s: float) -> str | None:
        started = time.monotonic()
        assert self.ended.wait(timeout_s), "the session goes on"
        assert self.session.join(2)
        assert time.monotonic() - started < timeout_s
        return self.problem

    def _on_end(self, session: Session, problem: str | None) -> None:
        self.problem = problem
        self.ended.set()


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
    arriving.wait(5)
    watched.session.finish()
    assert watched.ends_in(2) is None
    assert torch.equal(target, offer.weights.view(chunk.pieces[0]))
    assert watched.session.sent_bytes == chunk.nbytes


def test_replica_that_never_asks_is_given_up(offer: Offer) -> None:
    watched = Watched(offer, timeout_s=0.1)
    group = watched.join()
    assert watched.ends_in(2) == "nothing asked for in 0.1 s"
    group.abort()


def test_replica_that_asks_and_does_not_receive_is_given_up() -> None:
    watched = Watched(offer_of(big_weights(1, 64)), timeout_s=0.2)
    group = watched.join()
    watched.session.want(range(8))
    problem = watched.ends_in(3)
    assert problem is not None
    assert "Timed out" in problem
    group.abort()


def test_replica_that_dies_ends_the_session_with_the_next_send(offer: Offer) -> None:
    watched = Watched(offer)
    watched.join().abort()
    watched.session.want([0, 1])
    assert watched.ends_in(2) is not None


def test_abort_ends_a_session_that_waits_for_requests(offer: Offer) -> None:
    watched = Watched(offer, timeout_s=30)
    group = watched.join()
    watched.session.abort("enough")
    watched.session.abort("a later reason")
    assert watched.ends_in(2) == "enough"
    group.abort()


def test_abort_ends_a_session_that_waits_for_a_send() -> None:
    watched = Watched(offer_of(big_weights(1, 64)), timeout_s=30)
    group = watched.join()
    watched.session.want(range(8))
    waiting = group.recv(torch.zeros(8 << 20, dtype=torch.uint8), 0)
    waiting.wait(5)
    watched.session.abort("enough")
    assert watched.ends_in(2) == "enough"
    group.abort()


def test_abort_ends_a_session_whose_replica_has_not_come(offer: Offer) -> None:
    watched = Watched(offer, opening_s=30)
    watched.session.abort("enough")
    assert watched.ends_in(2) == "enough"


def test_abort_while_the_group_opens_sends_nothing_of_what_was_wanted(offer: Offer) -> None:
    log: list[int] = []
    opened = threading.Event()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        log.append(tag)
        return data

    class Slow(TamperedBackend):
        def open(self, *args: object, **kwargs: object) -> Group:
            group = super().open(*args, **kwargs)  # type: ignore[arg-type]
            opened.wait(5)
            return group

    watched = Watched(offer_of(toy_weights(1), backend=Slow(on_send)))
    watched.session.want([0, 1, 2])
    group = watched.join()
    watched.session.abort("enough")
    opened.set()
    assert watched.ends_in(2) == "enough"
    assert log == []
    group.abort()


def test_abort_with_a_full_queue_still_ends_the_session() -> None:
    stuck = Stuck()
    offer = offer_of(toy_weights(1), backend=TamperedBackend(stuck))
    watched = Watched(offer, timeout_s=30)
    group = watched.join()
    watched.session.want([0])
    assert stuck.reached.wait(5)
    while watched.session.want([0]) is None:
        pass
    watched.session.abort("enough")
    stuck.release.set()
    assert watched.ends_in(2) == "enough"
    group.abort()


def test_more_requests_than_are_ever_needed_are_turned_away(offer: Offer) -> None:
    watched = Watched(offer)
    many = [0] * (4 * len(offer.chunks) + 65)
    assert watched.session.want(many) == "too many chunks asked for at once"
    watched.session.abort("enough")
    watched.ends_in(2)


def test_done_with_a_full_queue_is_an_abort(offer: Offer) -> None:
    watched = Watched(offer)
    while watched.session.want([0]) is None:
        pass
    watched.session.finish()
    assert watched.ends_in(2) == "the replica is done with requests outstanding"


def test_a_fault_of_ours_ends_the_session_and_nothing_else(offer: Offer) -> None:
    def broken(tag: int, data: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("oops")

    watched = Watched(offer_of(toy_weights(1), backend=TamperedBackend(broken)))
    group = watched.join()
    watched.session.want([0])
    assert watched.ends_in(2) == "ZeroDivisionError: oops"
    group.abort()


def test_peer_notices_when_the_session_is_aborted(offer: Offer) -> None:
    watched = Watched(offer)
    group = watched.join()
    waiting = group.recv(torch.zeros(CHUNK_BYTES, dtype=torch.uint8), 0)
    watched.session.abort("enough")
    with pytest.raises(TransportError):
        waiting.wait(2)
    group.abort()
