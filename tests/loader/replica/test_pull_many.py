"""Pulls from several sources at once: real sessions, on loopback."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
import torch
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.partial_source import partial_source
from tests.loader.relay import relay
from tests.loader.replica.many_sources import CHUNKS, WEIGHTS, run, slowed, sources
from tests.loader.support import (
    GENERATION,
    Stuck,
    TamperedBackend,
    TamperedGroup,
    big_weights,
    candidate,
    cut_after,
    equal,
    in_background,
    offer_of,
    pull_into,
    serving,
    source_process,
    toy_weights,
    until,
    wrong_byte_in,
)
from torch._C._distributed_c10d import Store

from netloader.discovery.candidate import Candidate
from netloader.replica.observer import Intake, PullObserver
from netloader.replica.settings import PullSettings, RetrySettings
from netloader.transport import Group, Pending, TransportError


def test_all_sources_contribute_and_no_chunk_travels_twice() -> None:
    replica = toy_weights(rows=8000)
    with sources(None, None, None) as made:
        pull = run(pull_into(replica), made.candidates)
    assert equal(replica, WEIGHTS)
    assert sorted(made.sent) == list(range(len(CHUNKS)))
    assert {delivery.endpoint for delivery in pull.deliveries} == {
        source.endpoint for source in made.sources
    }
    assert sum(delivery.nbytes for delivery in pull.deliveries) == WEIGHTS.manifest.nbytes
    assert pull.failures == ()


def test_no_more_sources_than_allowed_at_once() -> None:
    replica = toy_weights(rows=8000)
    with sources(None, None, None) as made:
        pull = run(pull_into(replica, max_sources=2), made.candidates)
    assert equal(replica, WEIGHTS)
    assert len(pull.deliveries) == 2
    assert made.logs[2].sent == []


def test_a_slow_source_gets_less() -> None:
    replica = toy_weights(rows=8000)
    with sources(slowed(0.02), None) as made:
        run(pull_into(replica), made.candidates)
    slow, fast = (len(log.sent) for log in made.logs)
    assert equal(replica, WEIGHTS)
    assert 0 < slow < fast


@fastest_of(5)
def test_a_source_that_stalls_is_dropped_and_its_chunks_come_from_the_other() -> None:
    replica = toy_weights(rows=8000)
    stuck = Stuck(after=2)
    with sources(stuck, None) as made:
        # Far below the timeout, after which the stalled source would be given up anyway.
        try:
            with at_most(3):
                pull = run(pull_into(replica, timeout_s=HANG_S), made.candidates)
        finally:
            stuck.release.set()
    assert equal(replica, WEIGHTS)
    (failure,) = pull.failures
    assert "others deliver its last chunks sooner" in str(failure)


@fastest_of(2)
def test_a_source_that_is_stopped_in_the_middle_of_a_message_costs_little() -> None:
    """By SIGSTOP: its connections stay, and a message has arrived in part."""
    mebibytes = 64
    weights, replica = big_weights(1, mebibytes), big_weights(None, mebibytes)
    steps: list[int] = []
    offer = offer_of(weights, backend=TamperedBackend(slowed(0.05)))
    with serving(offer) as source, source_process(1, 1 << 30, mebibytes) as (stopped, process):

        def progress(nbytes: int) -> None:
            steps.append(nbytes)
            if len(steps) == 1:
                process.send_signal(signal.SIGSTOP)

        # Far below the timeout, after which it would be given up anyway.
        with at_most(15):
            pull = run(
                pull_into(replica, timeout_s=HANG_S, observer=PullObserver(progress=progress)),
                lambda: (stopped, candidate(source)),
            )
    assert equal(replica, weights)
    assert len(steps) == len(weights.manifest.chunks())
    assert pull.unverified() == ()


@pytest.mark.parametrize("sends", [0, 1, 5, 20])
def test_a_source_that_breaks_costs_only_its_unfinished_chunks(sends: int) -> None:
    replica = toy_weights(rows=8000)
    steps: list[int] = []
    with sources(cut_after(sends), None) as made:
        pull = run(
            pull_into(replica, observer=PullObserver(progress=steps.append)), made.candidates
        )
    assert equal(replica, WEIGHTS)
    assert sum(steps) == WEIGHTS.manifest.nbytes
    assert len(steps) == len(CHUNKS)
    assert pull.unverified() == ()


def test_a_killed_source_that_still_loads_costs_nobody_a_chunk_twice() -> None:
    """It had half of the chunks, and dies while it sends them. The replica of its replica notices
    nothing."""
    weights, first, last = toy_weights(1), toy_weights(), toy_weights()
    chunks = weights.manifest.chunks()
    verified: list[int] = []

    def observed(observer: PullObserver) -> PullObserver:
        def note(chunk: int) -> None:
            verified.append(chunk)
            observer.verified(chunk)

        return replace(observer, verified=note)

    end = pull_into(last, source_timeout_s=HANG_S, uninteresting_s=HANG_S)
    with (
        source_process(1, sends=4, chunks=len(chunks) // 2) as (dying, process),
        partial_source(weights) as survivor,
        relay(first, observed=observed) as middle,
    ):
        with (
            middle.pulling(lambda: (dying, survivor.candidate)),
            in_background(lambda: end.run(middle.look, wait_for_one=True)),
        ):
            assert process.wait() == -signal.SIGKILL
            survivor.gain_all()
        assert equal(first, weights) and equal(last, weights)
        assert sorted(verified) == sorted(middle.log.sent) == list(range(len(chunks)))
        assert len(survivor.log.sent) == len({*survivor.log.sent})
        brought = {one.endpoint: one.nbytes for one in middle.pull.deliveries}
        survivors = sum(chunks[chunk].payload for chunk in survivor.log.sent)
        assert brought[survivor.source.endpoint] == survivors
        assert sum(brought.values()) == weights.manifest.nbytes
        (failure,) = middle.pull.failures
        assert failure.source == dying
    assert end.failures == ()


def test_what_had_arrived_when_a_source_broke_is_not_fetched_again() -> None:
    """Verified or not: several chunks may be there before the first is looked at."""
    replica = toy_weights(rows=8000)
    arrived = PullSettings().window.first_chunks

    @dataclass
    class Breaking(TamperedGroup):
        """Receives what was asked for, and breaks when more is."""

        arriving: list[Pending] = field(default_factory=list)

        def recv(self, data: torch.Tensor, tag: int) -> Pending:
            if len(self.arriving) == arrived:
                for pending in self.arriving:
                    pending.wait(HANG_S)
                self.abort()
            self.arriving.append(self.inner.recv(data, tag))
            return self.arriving[-1]

    class Backend(TamperedBackend):
        def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
            group = super().open(store, rank, host, timeout)
            assert isinstance(group, TamperedGroup)
            first = not made.logs[1].sent and len(known) == 1
            return Breaking(group.inner, group.on_send) if first else group

    known: list[Candidate] = []
    with sources(None, None) as made:
        known.append(made.candidates()[0])
        backend = Backend(lambda tag, data: data)
        pull = pull_into(replica, backend=backend, source_timeout_s=HANG_S)

        def find() -> tuple[Candidate, ...]:
            if pull.failures:
                known[:] = made.candidates()[1:]
            return tuple(known)

        run(pull, find)
    assert equal(replica, WEIGHTS)
    assert not {*made.logs[0].sent} & {*made.logs[1].sent}
    assert len(made.logs[0].sent) == arrived


def test_a_withdrawing_source_is_replaced() -> None:
    replica = toy_weights(rows=8000)
    with sources(slowed(0.005), slowed(0.005)) as made:
        first = made.sources[0]
        withdrawing = threading.Thread(
            target=lambda: (until(lambda: made.logs[0].sent[2:]), first.withdraw("it sleeps"))
        )
        withdrawing.start()
        pull = run(pull_into(replica), made.candidates)
        withdrawing.join()
    assert equal(replica, WEIGHTS)
    assert "it sleeps" in str(pull.failures[0])


def test_a_member_that_appears_in_the_middle_joins() -> None:
    replica = toy_weights(rows=8000)
    known: list[Candidate] = []
    with sources(slowed(0.02), None) as made:
        first, second = made.candidates()
        known.append(first)
        appearing = threading.Thread(
            target=lambda: (until(lambda: made.logs[0].sent[3:]), known.append(second))
        )
        appearing.start()
        pull = run(pull_into(replica), lambda: tuple(known))
        appearing.join()
    assert equal(replica, WEIGHTS)
    assert {one.endpoint for one in pull.deliveries} == {first.endpoint, second.endpoint}


def test_listed_sources_go_before_the_mesh() -> None:
    replica = toy_weights(rows=8000)
    with sources(None, None) as made:
        listed, meshed = made.candidates()
        meshed = Candidate(meshed.endpoint, "mesh", meshed.generation)
        run(pull_into(replica), lambda: (listed, meshed))
    assert made.logs[1].sent == []
    assert equal(replica, WEIGHTS)


def test_the_mesh_is_asked_when_the_listed_sources_fail() -> None:
    replica = toy_weights(rows=8000)
    with sources(cut_after(3), None) as made:
        listed, meshed = made.candidates()
        meshed = Candidate(meshed.endpoint, "mesh", meshed.generation)
        run(pull_into(replica), lambda: (listed, meshed))
    assert equal(replica, WEIGHTS)


def test_what_each_source_brings_is_told() -> None:
    told: list[Intake] = []
    with sources(slowed(0.01), slowed(0.01)) as made:
        run(
            pull_into(
                toy_weights(rows=8000), look_s=0.01, observer=PullObserver(looked=told.append)
            ),
            made.candidates,
        )
        named = {(one.endpoint, GENERATION) for one in made.candidates()}
    assert max(len(one.brought) for one in told) == 2
    assert set().union(*(one.brought for one in told)) == named
    assert [one.held for one in told] == sorted(one.held for one in told)
    for process in named:
        counts = [one.brought[process] for one in told if process in one.brought]
        assert counts == sorted(counts) and counts[-1] > 0
    assert told[-1] == Intake(WEIGHTS.manifest.nbytes, over=True)
    assert not any(one.over for one in told[:-1])


def test_a_source_that_comes_again_goes_on_counting() -> None:
    told: list[Intake] = []
    sends = itertools.count(1)

    def cut_now_and_then(tag: int, data: torch.Tensor) -> torch.Tensor:
        if next(sends) % 20 == 0:
            raise TransportError("cut")
        return data

    with sources(cut_now_and_then) as made:
        pull = pull_into(
            toy_weights(rows=8000),
            look_s=0.001,
            source_timeout_s=HANG_S,
            retry=RetrySettings(backoff_s=0.01),
            observer=PullObserver(looked=told.append),
        )
        run(pull, made.candidates)
    assert pull.failures
    counts = [count for one in told for count in one.brought.values()]
    assert counts == sorted(counts)
    assert all(sum(one.brought.values()) <= WEIGHTS.manifest.nbytes for one in told)
    assert told[-1] == Intake(WEIGHTS.manifest.nbytes, over=True)


def test_bytes_of_a_broken_promise_are_nobodys() -> None:
    told: list[Intake] = []
    with (
        partial_source(WEIGHTS, [0, 1], wrong_byte_in(1)) as lying,
        serving(offer_of(toy_weights(2, rows=8000))) as honest,
    ):
        pull = pull_into(
            toy_weights(rows=8000),
            source_timeout_s=HANG_S,
            look_s=0.001,
            observer=PullObserver(looked=told.append),
        )
        run(pull, lambda: (candidate(honest) if pull.failures else lying.candidate,))
    assert told[-1] == Intake(WEIGHTS.manifest.nbytes, over=True)
    assert sum(next(one for one in reversed(told) if one.brought).brought.values()) <= (
        WEIGHTS.manifest.nbytes
    )


def test_ten_replicas_and_three_sources_with_random_deaths() -> None:
    """ManySources die at random moments; one stays. Everybody ends with the right bytes."""
    rng = random.Random(4)
    replicas = [toy_weights(rows=8000) for _ in range(10)]
    with sources(None, *(cut_after(rng.randrange(60)) for _ in range(2)), max_sessions=10) as made:
        threads = [
            threading.Thread(
                target=lambda r=r: run(pull_into(r, source_timeout_s=HANG_S), made.candidates)
            )
            for r in replicas
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
    assert all(equal(replica, WEIGHTS) for replica in replicas)
