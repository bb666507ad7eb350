"""Pulls from several sources at once: real sessions, real Gloo groups, on loopback."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
import torch
import zmq
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.partial_source import partial_source
from tests.loader.relay import relay
from tests.loader.replica.test_pull import doomed
from tests.loader.support import (
    OnSend,
    SendLog,
    Stuck,
    TamperedBackend,
    TamperedGroup,
    big_weights,
    calling,
    candidate,
    cut_after,
    equal,
    in_background,
    leaves_nothing,
    offer_of,
    pull_into,
    serving,
    source_process,
    toy_weights,
    until,
)
from torch._C._distributed_c10d import Store

from netloader.discovery.candidate import Candidate
from netloader.errors import NoSourceLeft
from netloader.protocol import messages
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import AskLater, Dropped, Lost
from netloader.replica.pull import Pull
from netloader.replica.settings import PullSettings
from netloader.source.service import Source
from netloader.transport import Group, Pending

WEIGHTS = toy_weights(1, rows=8000)
CHUNKS = WEIGHTS.manifest.chunks()


def slowed(seconds: float, log: SendLog | None = None) -> OnSend:
    """Every send takes this much longer."""

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        time.sleep(seconds)
        return log(tag, data) if log is not None else data

    return on_send


_HONEST = slowed(0.001)


@dataclass
class ManySources:
    """Several sources of the same weights, each with its own log and its own fault."""

    sources: list[Source] = field(default_factory=list)
    logs: list[SendLog] = field(default_factory=list)

    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(map(candidate, self.sources))

    @property
    def sent(self) -> list[int]:
        return [chunk for log in self.logs for chunk in log.sent]


@contextmanager
def sources(*faults: OnSend | None, **options: object) -> Iterator[ManySources]:
    """One source for each fault; None: an honest one that takes a millisecond a chunk."""
    made = ManySources()
    with ExitStack() as stack:
        for fault in faults:
            log = SendLog()

            def on_send(
                tag: int,
                data: torch.Tensor,
                log: SendLog = log,
                fault: OnSend = fault or _HONEST,
            ) -> torch.Tensor:
                return fault(tag, log(tag, data))

            offer = offer_of(WEIGHTS, backend=TamperedBackend(on_send))
            made.sources.append(stack.enter_context(serving(offer, **options)))
            made.logs.append(log)
        yield made


def run(pull: Pull, find: Callable[[], Sequence[Candidate]]) -> Pull:
    pull.run(find)
    return pull


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


def test_a_killed_process_costs_only_its_unfinished_chunks() -> None:
    weights, replica = toy_weights(1), toy_weights()
    steps: list[int] = []
    offer = offer_of(weights, backend=TamperedBackend(slowed(0.01)))
    with serving(offer) as source, doomed(1, 3) as killed:
        pull = run(
            pull_into(replica, observer=PullObserver(progress=steps.append)),
            lambda: (killed, candidate(source)),
        )
    assert equal(replica, weights)
    assert len(steps) == len(weights.manifest.chunks())
    assert pull.failures[0].source == killed
    # Its last chunks may be asked of the other source before it is found dead.
    assert isinstance(pull.failures[0].how, Lost | Dropped)


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


def test_the_number_of_sources_is_told() -> None:
    told: list[int] = []
    with sources(slowed(0.01), slowed(0.01)) as made:
        run(
            pull_into(toy_weights(rows=8000), observer=PullObserver(sources=told.append)),
            made.candidates,
        )
    assert max(told) == 2
    assert told[-1] == 0


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
