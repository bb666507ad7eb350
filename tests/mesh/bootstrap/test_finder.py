import logging
import queue
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.fastest import HANG_S

from netmesh.address import Address
from netmesh.bootstrap.finder import MAX_CONTACTS, ContactSource, Finder

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
