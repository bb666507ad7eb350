"""A complaint about wrong bytes is looked into, cheaply, and shows a source that has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from tests.fastest import HANG_S
from tests.loader.support import offer_of, toy_weights, until

from netloader.source.audit import CHANGED, Audit
from netloader.source.offer import CurrentOffer, Offer
from netloader.weights import digests
from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk


class AuditCase:
    """An audit, what it was told to be offered, and what it reported."""

    def __init__(
        self,
        read: Callable[[Weights, Chunk], bytes] = digests.of_chunk,
        on_changed: Callable[[Offer], object] = lambda offer: None,
    ) -> None:
        self.now = 100.0
        self.offer = offer_of(toy_weights(1))
        self.current = CurrentOffer("loading")
        self.current.put(self.offer)
        self.changed: list[Offer] = []
        self.on_changed = on_changed
        self.audit = Audit(self.current, self._report, 1.0, clock=lambda: self.now, read=read)

    def accuse(self, chunk: int = 0) -> bool:
        begun = self.audit.accuse("replica", self.offer, chunk)
        until(lambda: not any(t.name == "netloader-audit" for t in threading.enumerate()))
        return begun

    def _report(self, offer: Offer) -> None:
        self.changed.append(offer)
        self.on_changed(offer)

    def change(self, chunk: int) -> None:
        self.offer.weights.view(self.offer.chunks[chunk].pieces[-1])[0] ^= 0xFF


def test_weights_that_are_as_promised_are_the_replicas_problem(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = AuditCase()
    with caplog.at_level(logging.WARNING, "netloader.source.audit"):
        assert case.accuse(3)
    assert case.changed == []
    assert "'replica' received chunk 3 with a wrong digest, and mine is right" in caplog.text


@pytest.mark.parametrize("last", [False, True], ids=["single", "packed"])
def test_weights_that_have_changed_are_reported(
    last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    case = AuditCase()
    chunk = len(case.offer.chunks) - 1 if last else 0
    case.change(chunk)
    assert case.accuse(chunk)
    assert case.changed == [case.offer]
    assert CHANGED in caplog.text


def test_only_the_chunk_in_question_is_read() -> None:
    case = AuditCase()
    case.change(1)
    assert case.accuse(0)
    assert case.changed == []


def test_one_complaint_a_second_is_looked_into() -> None:
    case = AuditCase()
    assert case.accuse()
    assert not any(case.accuse() for _ in range(100))
    case.now += 1
    assert case.accuse()


def test_weights_that_are_no_longer_offered_are_not_read() -> None:
    case = AuditCase()
    case.change(0)
    case.current.withdraw("asleep")
    assert case.accuse()
    assert case.changed == []


def test_who_is_about_to_change_weights_waits_for_the_reading() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slowly(*args: object) -> bytes:
        reading.set()
        go_on.wait(HANG_S)
        return bytes(16)

    case = AuditCase(slowly)
    case.audit.accuse("replica", case.offer, 0)
    assert reading.wait(HANG_S)
    assert not case.audit.settle(0.05)
    case.now += 1
    assert not case.audit.accuse("replica", case.offer, 0)  # One at a time.
    go_on.set()
    assert case.audit.settle(5)


def test_who_is_about_to_change_weights_waits_for_the_consequences_too() -> None:
    """Otherwise an audit that is slow to publish would have the last word about later weights."""
    publishing, go_on = threading.Event(), threading.Event()

    def slowly(offer: Offer) -> None:
        publishing.set()
        go_on.wait(HANG_S)

    case = AuditCase(on_changed=slowly)
    case.change(0)
    assert case.audit.accuse("replica", case.offer, 0)
    assert publishing.wait(HANG_S)
    assert not case.audit.settle(0.05)
    go_on.set()
    assert case.audit.settle(5)


def test_a_chunk_that_cannot_be_read_is_not_taken_for_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*args: object) -> bytes:
        raise RuntimeError("no such memory")

    case = AuditCase(broken)
    assert case.accuse()
    assert case.changed == []
    assert "chunk 0 cannot be read" in caplog.text
