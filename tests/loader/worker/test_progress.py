"""What a worker says of its loads, and when."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.loader.discovery.test_advert import feed, holding
from tests.loader.support import until
from tests.loader.worker.loading.whole_load import advert, member, working

from netloader.discovery.advert import MAX_FEEDS, MAX_TEXT, decode
from netloader.worker.pace import SHORTEST_S
from netloader.worker.process import Worker
from netloader.worker.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with working() as made:
        made.membership.announce(**dict(holding(state="loading")))
        yield made


def test_the_first_word_is_said_and_the_next_one_waits(worker: Worker, clock: Clock) -> None:
    progress = Progress(worker.membership, lambda: 1, clock)
    assert progress.tell("target", held=1)
    clock.now += SHORTEST_S / 2
    assert not progress.tell("target", held=2)
    assert advert(worker).held == 1
    clock.now += SHORTEST_S / 2
    assert progress.tell("target", held=3)
    assert advert(worker).held == 3


def test_an_end_is_told_at_once(worker: Worker, clock: Clock) -> None:
    progress = Progress(worker.membership, lambda: 1, clock)
    assert progress.tell("target", held=1, rate=5)
    assert progress.tell("target", at_once=True, held=2, rate=0)
    assert (advert(worker).held, advert(worker).rate) == (2, 0)


def test_what_is_no_news_uses_up_no_turn(worker: Worker, clock: Clock) -> None:
    progress = Progress(worker.membership, lambda: 1, clock)
    assert progress.tell("target", held=1)
    clock.now += SHORTEST_S
    assert progress.tell("target", held=1)
    assert progress.tell("target", held=2)
    assert advert(worker).held == 2


def test_draft_and_target_share_the_turns(worker: Worker, clock: Clock) -> None:
    worker.membership.announce(**dict(holding(role="draft", state="loading")))
    progress = Progress(worker.membership, lambda: 1, clock)
    said = 0
    for _ in range(200):
        clock.now += SHORTEST_S / 10
        held = int(clock.now * 1000)
        said += progress.tell("target", held=held) + progress.tell("draft", held=held)
    assert 18 <= said <= 21


def test_of_a_model_that_was_never_announced_nothing_is_said(clock: Clock) -> None:
    with working() as made:
        progress = Progress(made.membership, lambda: 1, clock)
        assert progress.tell("draft", at_once=True, held=1)
        assert made.membership.holding("draft") is None


def test_threads_that_tell_at_once_keep_the_pace(worker: Worker, clock: Clock) -> None:
    progress = Progress(worker.membership, lambda: 1, clock)
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda held: progress.tell("target", held=held + 1), range(200)))
    assert sum(told) == 1


def test_everybody_counts_everybody_who_loads(tmp_path: Path) -> None:
    with member(tmp_path, 0) as first, member(tmp_path, 1) as second, member(tmp_path, 2) as third:
        first.membership.announce(**dict(holding(state="loading")))
        first.membership.announce(**dict(holding(role="draft", state="loading")))
        second.membership.announce(**dict(holding(state="loading")))
        third.membership.announce(**dict(holding(state="ready")))
        until(lambda: all(one.peers.loading == 2 for one in (first, second, third)))
        second.membership.update("target", state="ready")
        until(lambda: all(one.peers.loading == 1 for one in (first, second, third)))


def test_names_of_sources_never_keep_the_rest_from_the_mesh(tmp_path: Path) -> None:
    """An advert may have 8 KiB, and long texts leave no room."""
    long = "x" * (MAX_TEXT - 100)
    feeds = tuple(feed(at, endpoint=f"{long}:{at}") for at in range(MAX_FEEDS))
    with member(tmp_path, 0) as first, member(tmp_path, 1) as second:
        first.membership.announce(**dict(holding(state="loading")))
        first.progress.tell("target", at_once=True, held=5, feeds=feeds)

        def seen() -> int:
            return sum(
                one.held
                for other in second.membership.members()
                if not other.me
                for one in decode(other.advert)
            )

        until(lambda: seen() == 5)
        assert advert(first).feeds == feeds
