"""What is offered at a moment, and who may take it back."""

from __future__ import annotations

from tests.loader.support import offer_of, toy_weights

from netloader.source.offer import CurrentOffer, Unready

FIRST, SECOND = offer_of(toy_weights(1, rows=10)), offer_of(toy_weights(2, rows=10))


def test_nothing_is_offered_at_first_and_the_reason_is_known() -> None:
    assert CurrentOffer("still loading").now == Unready("still loading")


def test_what_was_put_last_is_offered() -> None:
    current = CurrentOffer("still loading")
    current.put(FIRST)
    current.put(SECOND)
    assert current.now is SECOND


def test_withdrawn_weights_are_offered_no_more_and_the_last_reason_counts() -> None:
    current = CurrentOffer("still loading")
    current.put(FIRST)
    assert current.withdraw("asleep")
    assert current.withdraw("reloading")
    assert current.now == Unready("reloading")


def test_an_audit_of_earlier_weights_takes_back_nothing() -> None:
    current = CurrentOffer("still loading")
    current.put(FIRST)
    current.put(SECOND)
    assert not current.withdraw("changed", only=FIRST)
    assert current.now is SECOND
    current.withdraw("asleep")
    assert not current.withdraw("changed", only=SECOND)
    assert current.now == Unready("asleep")


def test_an_audit_takes_back_what_it_has_read() -> None:
    current = CurrentOffer("still loading")
    current.put(FIRST)
    assert current.withdraw("changed", only=FIRST)
    assert current.now == Unready("changed")
