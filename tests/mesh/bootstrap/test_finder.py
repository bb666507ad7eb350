import logging
import queue
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.fastest import HANG_S

from netmesh.address import Address
from netmesh.bootstrap.finder import (
    FAST_S,
    MAX_CONTACTS,
    MOST_S,
    REST_S,
    SLOW_S,
    ContactSource,
    Finder,
    pause_s,
)

A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))
LOG = logging.getLogger("netmesh.test")

Found = queue.Queue[tuple[Address, ...]]
Begin = Callable[..., Found]


@pytest.fixture
def begin() -> Iterator[Begin]:
    finders: list[Finder] = []

    def make(*finds: Callable[[], list[Address]], refuse: Address | None = None) -> Found:
        found: Found = queue.Queue()
        sources = [ContactSource(str(number), find) for number, find in enumerate(finds)]
        finder = Finder(
            sources,
            found.put,
            lambda address: address != refuse,
            LOG,
            fast_s=0.005,
            slow_s=0.005,
        )
        finders.append(finder)
        finder.start()
        return found

    yield make
    for finder in finders:
        finder.stop()


def until_found(found: Found, wanted: set[Address]) -> None:
    while set(found.get(timeout=HANG_S)) != wanted:
        pass


def failing() -> list[Address]:
    raise OSError("no resolver")


def test_what_several_sources_know_is_put_together(begin: Begin) -> None:
    until_found(begin(lambda: [A, B], lambda: [B, C], failing), {A, B, C})


def test_asked_for_ever(begin: Begin) -> None:
    answers = iter([[], [A], [B]])
    found = begin(lambda: next(answers, [C]))
    assert [found.get(timeout=HANG_S) for _ in range(4)] == [(), (A,), (B,), (C,)]


def test_a_source_that_fails_keeps_its_last_answer(begin: Begin) -> None:
    answers = iter([[A]])

    def find() -> list[Address]:
        for answer in answers:
            return answer
        raise OSError("gone")

    found = begin(find)
    assert [found.get(timeout=HANG_S) for _ in range(3)] == [(A,)] * 3


def test_nobody_is_told_only_when_every_source_has_answered(begin: Begin) -> None:
    gate = threading.Event()

    def slow() -> list[Address]:
        assert gate.wait(HANG_S)
        return []

    found = begin(list, slow)
    with pytest.raises(queue.Empty):
        found.get(timeout=0.05)
    gate.set()
    assert found.get(timeout=HANG_S) == ()


def test_a_hanging_source_holds_up_no_other(begin: Begin) -> None:
    gate = threading.Event()

    def hangs() -> list[Address]:
        gate.wait(HANG_S)
        return []

    try:
        assert begin(hangs, lambda: [A]).get(timeout=HANG_S / 2) == (A,)
    finally:
        gate.set()


def test_refused_addresses_are_complained_about_once(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    found = begin(lambda: [A, B], refuse=B)
    for _ in range(3):
        assert found.get(timeout=HANG_S) == (A,)
    assert len([r for r in caplog.records if "refused" in r.getMessage()]) == 1


def test_a_source_with_a_bug_is_asked_again(begin: Begin) -> None:
    answers = iter([ValueError("odd")])

    def find() -> list[Address]:
        for error in answers:
            raise error
        return [A]

    until_found(begin(find), {A})


def test_a_huge_answer_is_sampled(begin: Begin) -> None:
    many = [Address("10.0.0.1", port) for port in range(1, 2001)]
    assert len(begin(lambda: many).get(timeout=HANG_S)) == MAX_CONTACTS


def test_a_member_that_knows_nobody_asks_often_at_first_and_every_15_s_later() -> None:
    assert pause_s(FAST_S, 0.0, 1) == FAST_S
    assert FAST_S < pause_s(FAST_S, 20.0, 1) < SLOW_S
    assert pause_s(FAST_S, 1e6, 1) == pause_s(SLOW_S, 0.0, 1) == SLOW_S


def test_what_costs_nobody_anything_is_asked_as_often_for_ever() -> None:
    assert pause_s(SLOW_S, 1e6, 0) == SLOW_S and pause_s(FAST_S, 1e6, 0) == FAST_S


@pytest.mark.parametrize("members", [2, 10, 2000])
def test_all_members_together_ask_as_seldom_as_one(members: int) -> None:
    """A round of Kubernetes' name costs six queries, so 2,000 members once asked 800 times/s."""
    assert members / pause_s(SLOW_S, 0.0, members) <= 1 / SLOW_S + members / REST_S
    assert members / pause_s(SLOW_S, 1e6, members) <= 1 / MOST_S + members / REST_S
    assert 6 * members / pause_s(FAST_S, 3600.0, members) < 1.0


def test_a_member_that_is_alone_again_asks_soon() -> None:
    """A source that would be asked in an hour is asked within the pause of a lonely member."""
    alone = threading.Event()
    found: Found = queue.Queue()
    finder = Finder(
        [ContactSource("dns", lambda: [A])],
        found.put,
        lambda address: True,
        LOG,
        fast_s=0.005,
        slow_s=0.005,
        members=lambda: 1 if alone.is_set() else 1_000_000,
    )
    finder.start()
    try:
        assert found.get(timeout=HANG_S) == (A,)
        alone.set()
        assert found.get(timeout=HANG_S) == (A,)
    finally:
        finder.stop()
