"""What a source says to its replicas, with the sockets played by the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import zmq
from tests.loader.support import GENERATION, hello, offer_of, toy_weights, until

from netloader.protocol import messages
from netloader.source.audit import Audit
from netloader.source.availability import Availability
from netloader.source.dispatch import Dispatch
from netloader.source.listener import ControlConnection, Exposure, Listener
from netloader.source.observer import SourceObserver
from netloader.source.offer import CurrentOffer, Offer
from netloader.source.opening import Opener
from netloader.source.policy import telling
from netloader.source.session import Session, SessionOutcome
from netloader.source.settings import SourceSettings

WEIGHTS = toy_weights(1)
CALLER = ControlConnection(cast("zmq.Socket[bytes]", None), b"one")


@dataclass
class PlayedListener:
    """Keeps what is said, while the replica reads."""

    reads: bool = True
    said: list[messages.Message] = field(default_factory=list)

    def retired(self, caller: ControlConnection) -> bool:
        return False

    def lack(self) -> str | None:
        return None

    def reply(
        self, caller: ControlConnection, message: messages.Message, attachment: bytes | None = None
    ) -> bool:
        if self.reads:
            self.said.append(message)
        return self.reads


class Desk:
    """A dispatch, and who it talks to."""

    def __init__(self, offer: Offer) -> None:
        self.listener = PlayedListener()
        self.now = 1000.0
        self.next_s: float | None = None
        self.current = CurrentOffer("loading")
        self.current.put(offer)
        self.ended: list[tuple[Session, SessionOutcome]] = []
        opener = Opener(
            "127.0.0.1",
            Exposure(),
            lambda: GENERATION,
            SourceSettings(),
            None,
            lambda session, outcome: self.ended.append((session, outcome)),
        )
        audit = Audit(self.current, lambda offer: None, 1.0)
        self.dispatch = Dispatch(
            cast(Listener, self.listener), self.current, opener, audit, SourceObserver()
        )

    def accept(self, *, near: bool = False) -> messages.Accept:
        greeting = hello(WEIGHTS).model_copy(update={"near": near})
        self.dispatch.hear(CALLER, messages.encode(greeting))
        (accept,) = self.listener.said
        assert isinstance(accept, messages.Accept)
        self.listener.said.clear()
        return accept

    def told(self) -> list[tuple[int, ...]]:
        """The chunks of each `Have`."""
        self.next_s = self.dispatch.tell_gains(self.now)
        return [one.chunks for one in self.listener.said if isinstance(one, messages.Have)]


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk(replace(offer_of(WEIGHTS), available=Availability()))
    yield made
    made.dispatch.end_all("the test is over")
    until(lambda: len(made.ended) == 1)


def available(desk: Desk) -> Availability:
    offer = desk.current.now
    assert isinstance(offer, Offer) and offer.available is not None
    return offer.available


def test_a_replica_that_does_not_read_is_told_later(desk: Desk) -> None:
    desk.accept()
    available(desk).add(3)
    desk.listener.reads = False
    assert desk.told() == []
    available(desk).add(1)
    desk.listener.reads = True
    assert desk.told() == [(3, 1)]
    assert desk.told() == [(3, 1)]  # Not once more.


def test_gains_are_told_at_once_then_in_bunches(desk: Desk) -> None:
    desk.accept()
    gains = available(desk)
    gains.add(3)
    assert desk.told() == [(3,)]
    assert desk.next_s is None
    gains.add(1)
    assert desk.told() == [(3,)]
    assert desk.next_s == telling.LONGEST_S
    gains.add(2)
    desk.now += 1.5 * telling.LONGEST_S
    assert desk.told() == [(3,), (1, 2)]
    assert desk.next_s is None


def test_many_gains_do_not_wait_for_long(desk: Desk) -> None:
    desk.accept()
    gains = available(desk)
    gains.add(0)
    desk.told()
    for chunk in range(1, 1 + telling.MANY):
        gains.add(chunk)
    desk.now += 1.5 * telling.SHORTEST_S
    assert desk.told()[1:] == [tuple(range(1, 1 + telling.MANY))]


def test_a_replica_of_this_host_waits_for_no_word() -> None:
    desk = Desk(replace(offer_of(WEIGHTS), available=Availability()))
    desk.accept(near=True)
    gains = available(desk)
    for chunk in (3, 1):
        gains.add(chunk)
        desk.told()
    assert desk.told() == [(3,), (1,)]
    desk.dispatch.end_all("the test is over")
    until(lambda: len(desk.ended) == 1)


def test_a_patchwork_that_no_acceptance_can_name_is_told_afterwards(desk: Desk) -> None:
    patches = range(0, 2 * messages.MAX_IDS + 2, 2)
    for chunk in patches:
        available(desk).add(chunk)
    assert desk.accept().have == ()
    told = desk.told()
    assert [len(chunks) for chunks in told] == [messages.MAX_IDS, 1]
    assert [chunk for chunks in told for chunk in chunks] == list(patches)


def test_an_offer_that_was_withdrawn_meanwhile_releases_nobody(desk: Desk) -> None:
    desk.accept()
    (session,) = desk.dispatch.hold_all()
    whole = offer_of(WEIGHTS)
    desk.current.put(whole)
    desk.current.withdraw("held once more")
    desk.dispatch.resume_all(whole)
    assert session.held
    desk.current.put(whole)
    desk.dispatch.resume_all(whole)
    assert not session.held


def test_who_was_held_is_ended_by_an_offer_of_a_part(desk: Desk) -> None:
    desk.accept()
    desk.dispatch.hold_all()
    partial = replace(offer_of(WEIGHTS), available=Availability())
    desk.current.put(partial)
    desk.dispatch.resume_all(partial)
    (bye,) = desk.listener.said
    assert isinstance(bye, messages.Bye)
    assert bye.reason == "other weights are offered now"
