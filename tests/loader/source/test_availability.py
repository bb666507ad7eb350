"""What a source has so far, and how that is told."""

from __future__ import annotations

from netloader.source.availability import Availability


def holding(*chunks: int) -> Availability:
    available = Availability()
    for chunk in chunks:
        available.add(chunk)
    return available


def test_nothing_is_there_at_first() -> None:
    available = Availability()
    assert (len(available), 0 in available, available.since(0)) == (0, False, ())


def test_what_is_added_is_there_once() -> None:
    available = holding(4, 2, 4)
    assert (len(available), 4 in available, 3 in available) == (2, True, False)


def test_gains_are_told_in_the_order_in_which_they_came() -> None:
    available = holding(4, 2)
    assert available.since(0) == (4, 2)
    available.add(3)
    assert available.since(2) == (3,)
    assert available.since(3) == ()


def test_what_is_asked_for_is_told_until_it_is_there_or_given_up() -> None:
    available = holding()
    for chunk in (4, 2, 7):
        available.asked(chunk)
    assert available.plans(0) == ((4, 2, 7), (), 3)
    available.given_up([2])
    available.add(4)
    assert available.plans(0) == ((7,), (2,), 4)
    assert available.plans(3) == ((), (2,), 4)
    available.asked(2)
    assert available.plans(3) == ((2,), (), 5)
    assert available.plans(5) == ((), (), 5)


def test_completing_adds_what_was_missing() -> None:
    available = holding(3, 0)
    available.complete(5)
    assert available.since(0) == (3, 0, 1, 2, 4)
