"""Pulls whose sources fail: who is waited for, and what is told at the end."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import torch
import zmq
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.replica.many_sources import WEIGHTS, run, slowed, sources
from tests.loader.support import (
    calling,
    cut_after,
    equal,
    leaves_nothing,
    pull_into,
    toy_weights,
    until,
)

from netloader.discovery.candidate import Candidate
from netloader.errors import NoSourceLeft
from netloader.protocol import messages
from netloader.replica.outcome import AskLater


@pytest.mark.parametrize("retry_after_s", [0.001, 0.15])
@fastest_of(5)
def test_busy_sources_do_not_hold_a_replica_for_ever(retry_after_s: float) -> None:
    """There is always one that is just being asked."""
    with (
        sources(None, None, None, max_sessions=1, retry_after_s=retry_after_s) as made,
        ExitStack() as others,
    ):
        for source in made.sources:
            others.enter_context(calling(source)).accepted(WEIGHTS)
        started = time.monotonic()
        with at_most(4), pytest.raises(NoSourceLeft):
            run(pull_into(toy_weights(rows=8000), source_timeout_s=0.5), made.candidates)
    assert time.monotonic() - started >= 0.5


def test_a_failed_pull_is_gone_without_the_garbage_collector() -> None:
    def fail() -> None:
        with sources(cut_after(3)) as made, pytest.raises(NoSourceLeft):
            run(pull_into(toy_weights(rows=8000)), made.candidates)

    gc.disable()
    try:
        leaves_nothing(fail, 5)
    finally:
        gc.enable()


def test_failures_are_told_in_the_order_in_which_sources_ended() -> None:
    """Also where several end between two looks at them."""
    looks = 0
    with refusing() as first, refusing() as second, refusing() as third:

        def find() -> tuple[Candidate, ...]:
            nonlocal looks
            looks += 1
            if looks == 2:
                for one in (second, third, first):
                    one.answer()
            return (first.candidate, second.candidate, third.candidate)

        pull = pull_into(toy_weights())
        with pytest.raises(NoSourceLeft) as caught:
            pull.run(find)
    ended = [failure.source for failure in pull.failures]
    assert ended == [second.candidate, third.candidate, first.candidate]
    said = str(caught.value)
    assert said.index(second.endpoint) < said.index(third.endpoint) < said.index(first.endpoint)


@dataclass
class Refusing:
    """A source that refuses for good, when it is told to answer."""

    router: zmq.Socket[bytes]
    endpoint: str

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.endpoint, "test")

    def answer(self) -> None:
        """Refuse, and wait until the replica's stream has ended."""
        assert self.router.poll(int(HANG_S * 1000))
        connection, *_ = self.router.recv_multipart()
        no = messages.Refuse(code="identity", reason="other weights")
        self.router.send_multipart([connection, *messages.encode(no)])
        name = f"netloader-pull-{self.endpoint}"
        until(lambda: name not in {thread.name for thread in threading.enumerate()})


@contextmanager
def refusing() -> Iterator[Refusing]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    yield Refusing(router, f"127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
    context.destroy(linger=0)


class TestNobodyLeft:
    def test_a_source_that_comes_in_time_is_waited_for(self) -> None:
        replica = toy_weights(rows=8000)
        known: list[Candidate] = []
        with sources(cut_after(4), None) as made:
            first, second = made.candidates()
            known.append(first)
            appearing = threading.Timer(0.5, lambda: known.append(second))
            appearing.start()
            run(pull_into(replica, source_timeout_s=HANG_S), lambda: tuple(known))
            appearing.join()
        assert equal(replica, WEIGHTS)

    @fastest_of(5)
    def test_nobody_at_all_ends_the_pull_at_once(self) -> None:
        with at_most(1), pytest.raises(NoSourceLeft, match="no source could be used"):
            run(pull_into(toy_weights(), source_timeout_s=HANG_S), lambda: ())

    @fastest_of(5)
    def test_the_wait_is_bounded(self) -> None:
        started = time.monotonic()
        with (
            sources(cut_after(4)) as made,
            at_most(3),
            pytest.raises(NoSourceLeft, match=r"waited 0\.5 s for a source"),
        ):
            run(pull_into(toy_weights(rows=8000), source_timeout_s=0.5), made.candidates)
        assert time.monotonic() - started >= 0.5

    def test_a_busy_source_is_asked_again(self) -> None:
        first, second = toy_weights(rows=8000), toy_weights(rows=8000)
        with sources(slowed(0.01), max_sessions=1) as made:
            (only,) = made.candidates()
            pulling = threading.Thread(target=lambda: run(pull_into(first), lambda: (only,)))
            pulling.start()
            until(lambda: made.logs[0].sent)
            pull = run(pull_into(second, source_timeout_s=HANG_S), lambda: (only,))
            pulling.join()
        assert equal(first, WEIGHTS) and equal(second, WEIGHTS)
        (failure,) = pull.failures
        assert isinstance(failure.how, AskLater)

    def test_a_source_that_was_lost_may_come_back(self) -> None:
        replica = toy_weights(rows=8000)
        cut, count = cut_after(4), iter(range(1000))

        def cut_once(tag: int, data: torch.Tensor) -> torch.Tensor:
            return cut(tag, data) if next(count) <= 4 else data

        with sources(cut_once) as made:
            pull = run(pull_into(replica, source_timeout_s=HANG_S), made.candidates)
        assert equal(replica, WEIGHTS)
        assert len(pull.failures) == 1
