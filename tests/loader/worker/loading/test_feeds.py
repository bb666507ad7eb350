"""What the mesh is told of a pull."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from tests.fastest import HANG_S
from tests.loader.discovery.test_advert import holding
from tests.loader.support import (
    GENERATION,
    Stuck,
    TamperedBackend,
    candidate,
    equal,
    in_background,
    offer_of,
    pull_into,
    serving,
    toy_weights,
    until,
)
from tests.loader.worker.loading.whole_load import advert, working
from tests.loader.worker.test_progress import Clock

from netloader.discovery.advert import MAX_FEEDS, Holding
from netloader.discovery.candidate import Process
from netloader.errors import NoSourceLeft
from netloader.replica.observer import Intake, PullObserver
from netloader.transport import TransportError
from netloader.worker.loading.feeds import Feeds
from netloader.worker.loading.speed import WINDOW_S
from netloader.worker.process import Worker
from netloader.worker.progress import Progress

WEIGHTS = toy_weights(1, rows=8000)
A: Process = ("10.0.0.2:2000", 1)
B: Process = ("10.0.0.3:2000", 1)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with working() as made:
        made.membership.announce(**dict(holding(state="loading")))
        yield made


class Played:
    """A pull whose looks are played."""

    def __init__(self, worker: Worker) -> None:
        self.clock = Clock()
        self.worker = worker
        self.feeds = Feeds(Progress(worker.membership, lambda: 1, self.clock), "target", self.clock)

    def look(self, after_s: float, held: int, **brought: int) -> None:
        names = {"a": A, "b": B}
        self.clock.now += after_s
        self.feeds.looked(Intake(held, {names[name]: count for name, count in brought.items()}))

    @property
    def told(self) -> tuple[int, int, dict[Process, tuple[int, int]]]:
        """Bytes and rate, of all and of each source."""
        said = advert(self.worker)
        assert said.pulling >= len(said.feeds)
        each = {(one.endpoint, one.generation): (one.nbytes, one.rate) for one in said.feeds}
        return said.held, said.rate, each


@pytest.fixture
def played(worker: Worker) -> Played:
    return Played(worker)


def test_the_first_source_is_told_at_once_and_the_end_as_well(played: Played) -> None:
    played.look(0.25, 0)
    assert played.told == (0, 0, {})
    played.look(0.25, 50, a=50)
    assert played.told == (50, 100, {A: (50, 200)})
    played.look(0.25, 100, a=100)
    assert played.told[0] == 50
    played.feeds.looked(Intake(120, over=True))
    assert played.told == (120, 0, {})


def test_a_source_that_comes_and_goes_makes_no_more_words_than_others(played: Played) -> None:
    told = set()
    for step in range(1, 400):
        played.look(0.25, step, **({"a": step} if step % 2 else {}))
        told.add(played.told[0])
    assert len(told) <= 101


def test_the_fastest_comes_first(played: Played) -> None:
    for step in range(1, 20):
        played.look(0.25, step * 40, a=step * 10, b=step * 30)
    assert played.told[1:] == (160, {B: (510, 120), A: (170, 40)})
    assert [one.endpoint for one in advert(played.worker).feeds] == [B[0], A[0]]


def test_a_pull_that_stalls_shows_that_within_seconds(played: Played) -> None:
    for step in range(1, 9):
        played.look(0.25, step * 10, a=step * 10)
    assert played.told[1] > 0
    stalled_at = played.clock.now
    while played.told[1]:
        played.look(0.25, 80, a=80)
        assert played.clock.now - stalled_at <= WINDOW_S + 1.25
    assert played.told == (80, 0, {A: (80, 0)})


def test_a_source_that_starts_anew_is_another_process(played: Played) -> None:
    played.look(0.25, 100, a=100)
    played.feeds.looked(Intake(100, over=True))
    played.clock.now += 1
    played.feeds.looked(Intake(130, {(A[0], 2): 30}))
    assert played.told == (130, pytest.approx(104), {(A[0], 2): (30, 30)})


def test_what_a_broken_promise_costs_is_told_without_a_negative_rate(played: Played) -> None:
    played.look(1, 100, a=100)
    played.look(1, 0)
    assert played.told == (0, 0, {})
    played.look(1, 30, b=30)
    assert played.told == (30, 30, {B: (30, 30)})


def test_of_64_sources_the_fastest_are_named_and_all_are_counted(played: Played) -> None:
    for step in range(1, 9):
        played.clock.now += 0.25
        played.feeds.looked(
            Intake(step * 64, {(f"10.0.1.{at}:2000", at): step * at * 10 for at in range(64)})
        )
    said = advert(played.worker)
    assert (said.pulling, len(said.feeds)) == (64, MAX_FEEDS)
    assert [one.generation for one in said.feeds] == list(range(63, 63 - MAX_FEEDS, -1))


def test_what_was_given_up_is_gone(played: Played) -> None:
    played.look(0.25, 50, a=50)
    played.feeds.given_up()
    assert played.told == (0, 0, {})
    assert advert(played.worker).pulling == 0


def test_a_fault_in_telling_costs_the_telling(worker: Worker) -> None:
    counted: list[int] = []

    def broken() -> int:
        counted.append(1)
        raise RuntimeError("broken on purpose")

    clock = Clock()
    feeds = Feeds(Progress(worker.membership, broken, clock), "target", clock)
    for held in range(1, 9):
        clock.now += 2.0
        feeds.looked(Intake(held, {A: held}))
    assert counted == [1]
    assert advert(worker).held == 1


def stands_still(said: Holding) -> bool:
    """Whether two sources have brought something, and bring nothing now."""
    brought = sum(one.nbytes for one in said.feeds)
    rates = [one.rate for one in said.feeds]
    return rates == [0, 0] and said.rate == 0 and said.held == brought > 0


@pytest.mark.parametrize("verify", [True, False])
def test_a_real_pull_from_two_sources(worker: Worker, verify: bool) -> None:
    """Also where nothing is shared, because nothing is verified."""
    stuck = [Stuck(after=8), Stuck(after=8)]
    clock = Clock()
    feeds = Feeds(Progress(worker.membership, lambda: 1, clock), "target", clock)

    def looked(intake: Intake) -> None:
        clock.now += 1.0
        feeds.looked(intake)

    replica = toy_weights(rows=8000)
    with ExitStack() as stack:
        made = [
            stack.enter_context(serving(offer_of(WEIGHTS, backend=TamperedBackend(one))))
            for one in stuck
        ]
        pull = pull_into(
            replica,
            look_s=0.01,
            verify=verify,
            timeout_s=HANG_S,
            observer=PullObserver(looked=looked),
        )
        with in_background(lambda: pull.run(lambda: tuple(map(candidate, made)))):
            until(lambda: all(one.reached.is_set() for one in stuck))
            # Both stand still now. Chunks may have been under way when they stopped.
            until(lambda: stands_still(advert(worker)))
            said = advert(worker)
            for one in stuck:
                one.release.set()
    assert {(one.endpoint, one.generation) for one in said.feeds} == {
        (source.endpoint, GENERATION) for source in made
    }
    assert equal(replica, WEIGHTS)
    last = advert(worker)
    assert (last.held, last.rate, last.feeds, last.pulling) == (WEIGHTS.manifest.nbytes, 0, (), 0)


def test_a_source_that_is_lost_is_fed_from_no_more(worker: Worker) -> None:
    feeds = Feeds(worker.progress, "target")
    sends = iter(range(1000))

    def cut(tag: int, data: torch.Tensor) -> torch.Tensor:
        if next(sends) > 5:
            raise TransportError("cut")
        return data

    with serving(offer_of(WEIGHTS, backend=TamperedBackend(cut))) as source:
        pull = pull_into(
            toy_weights(rows=8000), look_s=0.001, observer=PullObserver(looked=feeds.looked)
        )
        with pytest.raises(NoSourceLeft):
            pull.run(lambda: (candidate(source),))
    said = advert(worker)
    assert (said.feeds, said.rate, said.pulling) == ((), 0, 0)
    assert said.held == pull.nbytes > 0
