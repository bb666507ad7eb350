"""What the streams of a pull share, without streams."""

from __future__ import annotations

import threading

import pytest
from tests.fastest import HANG_S
from tests.loader.support import CHUNK, is_zero, toy_weights

from netloader.errors import DigestMismatch
from netloader.replica.acceptance import Promise
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import Contradicted, Corrupt, Dropped
from netloader.replica.settings import PullSettings
from netloader.replica.state import PullState

WEIGHTS = toy_weights(1)
CHUNKS = WEIGHTS.manifest.chunks()
EVERY = range(len(CHUNKS))
PROMISE = Promise((bytes(16),) * len(CHUNKS), "xxh3", {})
OTHER = Promise((bytes([1]) * 16,) * len(CHUNKS), "xxh3", {})
PACKED = next(chunk.id for chunk in CHUNKS if chunk.packed)
DIRECT = next(chunk.id for chunk in CHUNKS if not chunk.packed)


def state() -> PullState:
    return PullState(toy_weights(), PullSettings())


def bring(pull: PullState, source: str, count: int) -> None:
    for _ in range(count):
        assignment = pull.pick(source)
        assert assignment is not None
        pull.arrived(source, assignment)


def test_a_chunk_is_unverified_from_when_it_is_asked_for_in_place() -> None:
    pull = state()
    pull.enter("a#0", "a:1", PROMISE, [DIRECT])
    assignment = pull.pick("a#0")
    assert assignment is not None and assignment.staging is None
    assert pull.unverified() == CHUNKS[DIRECT].pieces
    pull.arrived("a#0", assignment)
    assert pull.unverified() == ()
    assert pull.arrived_bytes == CHUNKS[DIRECT].payload


def test_a_packed_chunk_is_received_apart_and_its_memory_is_used_again() -> None:
    pull = state()
    packed = [chunk.id for chunk in CHUNKS if chunk.packed][:2]
    pull.enter("a#0", "a:1", PROMISE, packed)
    first = pull.pick("a#0")
    assert first is not None and first.staging is not None
    assert len(first.staging) == CHUNK and len(first.data) == CHUNKS[packed[0]].nbytes
    first.data.fill_(1)
    assert pull.unverified() == () and is_zero(pull.weights, packed)
    pull.arrived("a#0", first)
    second = pull.pick("a#0")
    assert second is not None and second.staging is first.staging


def test_a_source_that_contradicts_is_given_nothing() -> None:
    pull = state()
    assert pull.enter("a#0", "a:1", PROMISE, EVERY) is None
    refused = pull.enter("b#1", "b:1", OTHER, EVERY)
    assert refused == Contradicted("promises other digests than an earlier source")
    assert pull.pick("b#1") is None
    assert pull.promise == PROMISE


def test_wrong_bytes_void_what_no_other_source_stands_for() -> None:
    pull = state()
    pull.enter("a#0", "a:1", PROMISE, EVERY)
    bring(pull, "a#0", 3)
    error = DigestMismatch("a:1", 3, "00", "01")
    assert pull.corrupt(("a:1", 7), error) == Corrupt(error.reason, 3, ("a:1", 7), void=True)
    assert pull.arrived_bytes == 0
    assert pull.promise is None
    assert set(pull.unverified()) >= {piece for n in range(3) for piece in CHUNKS[n].pieces}
    pull.leave("a#0")
    assert pull.enter("b#1", "b:1", OTHER, EVERY) is None


def test_wrong_bytes_of_one_of_two_cost_only_its_unfinished_chunks() -> None:
    pull = state()
    for source, endpoint in (("a#0", "a:1"), ("b#1", "b:1")):
        pull.enter(source, endpoint, PROMISE, EVERY)
    bring(pull, "a#0", 3)
    before = pull.arrived_bytes
    lie = pull.corrupt(("a:1", 7), DigestMismatch("a:1", 3, "00", "01"))
    assert not lie.void
    assert pull.arrived_bytes == before
    assert pull.promise == PROMISE


def test_nobody_may_begin_anything_once_it_is_closed() -> None:
    pull = state()
    pull.enter("a#0", "a:1", PROMISE, EVERY)
    pull.close()
    assert pull.over
    assert pull.pick("a#0") is None
    assert isinstance(pull.enter("b#1", "b:1", PROMISE, EVERY), Dropped)
    pull.open()
    assert not pull.over
    assert pull.pick("a#0") is not None


def test_whoever_waits_is_woken_when_all_is_there() -> None:
    pull = state()
    pull.enter("a#0", "a:1", PROMISE, EVERY)
    bring(pull, "a#0", len(CHUNKS) - 1)
    assert not pull.changed.is_set() and not pull.complete
    bring(pull, "a#0", 1)
    assert pull.changed.is_set() and pull.complete and pull.over


def test_a_source_cannot_have_chunks_that_there_are_not() -> None:
    pull = state()
    pull.enter("a#0", "a:1", PROMISE, [])
    assert not pull.interested("a#0")
    pull.have("a#0", [len(CHUNKS) + 5])
    assert not pull.interested("a#0")
    pull.have("a#0", [1])
    assert pull.interested("a#0")


@pytest.mark.parametrize("streams", [4])
def test_every_chunk_is_given_out_once_to_whichever_thread(streams: int) -> None:
    pull = state()
    given: list[int] = []
    start = threading.Barrier(streams)

    def stream(name: str) -> None:
        pull.enter(name, name, PROMISE, EVERY)
        start.wait(HANG_S)
        while not pull.over:
            assignment = pull.pick(name)
            if assignment is not None:
                given.append(assignment.chunk.id)
                pull.arrived(name, assignment)

    threads = [threading.Thread(target=stream, args=[f"s{n}"]) for n in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert sorted(given) == list(EVERY)
    assert pull.complete and pull.unverified() == ()


class TestObserver:
    """Who hands chunks on is told in an order that lets nobody read what may be overwritten."""

    def test_the_promise_comes_first_and_once(self) -> None:
        told: list[object] = []
        pull = observed(told)
        pull.enter("a#0", "a:1", PROMISE, EVERY)
        pull.enter("b#1", "b:1", PROMISE, EVERY)
        pull.enter("c#2", "c:1", OTHER, EVERY)
        bring(pull, "a#0", 2)
        assert told[0] == PROMISE
        assert len(told) == 3 and all(isinstance(chunk, int) for chunk in told[1:])

    def test_who_comes_when_the_pull_is_over_promises_nothing(self) -> None:
        told: list[object] = []
        pull = observed(told)
        pull.close()
        pull.enter("a#0", "a:1", PROMISE, EVERY)
        assert told == []

    def test_a_void_promise_is_told_before_a_chunk_is_asked_for_again(self) -> None:
        told: list[object] = []
        pull = observed(told)
        pull.enter("a#0", "a:1", PROMISE, EVERY)
        bring(pull, "a#0", 2)
        pull.corrupt(("a:1", 7), DigestMismatch("a:1", 2, "00", "01"))
        pull.leave("a#0")
        pull.enter("b#1", "b:1", OTHER, EVERY)
        bring(pull, "b#1", 1)
        assert [told[0], *told[3:5]] == [PROMISE, "void", OTHER]
        assert all(isinstance(chunk, int) for chunk in (*told[1:3], *told[5:]))
        assert len(told) == 6

    def test_a_promise_that_others_stand_for_is_not_void(self) -> None:
        told: list[object] = []
        pull = observed(told)
        for source, endpoint in (("a#0", "a:1"), ("b#1", "b:1")):
            pull.enter(source, endpoint, PROMISE, EVERY)
        pull.corrupt(("a:1", 7), DigestMismatch("a:1", 0, "00", "01"))
        assert told == [PROMISE]

    def test_what_is_asked_of_other_hosts_and_what_does_not_come(self) -> None:
        told: list[object] = []
        observer = PullObserver(
            asked=lambda chunk: told.append(("asked", chunk)),
            given_up=lambda chunks: told.append(("given up", *chunks)),
        )
        pull = PullState(toy_weights(), PullSettings(), observer)
        pull.enter("far#0", "far:1", PROMISE, [0, 1])
        pull.enter("near#1", "near:1", PROMISE, [2, 3], near=True)
        first = pull.pick("far#0")
        assert first is not None and pull.pick("near#1") is not None
        pull.arrived("far#0", first)
        second = pull.pick("far#0")
        assert second is not None
        pull.leave("near#1")
        pull.leave("far#0")
        numbers = (first.chunk.id, second.chunk.id)
        assert told == [*(("asked", number) for number in numbers), ("given up", numbers[1])]

    def test_only_of_its_own_host_it_believes_what_is_coming(self) -> None:
        pull = PullState(toy_weights(), PullSettings())
        pull.enter("whole#0", "whole:1", PROMISE, EVERY)
        pull.enter("far#1", "far:1", PROMISE, [0])
        pull.have("far#1", [], coming=list(EVERY))
        assert pull.pick("whole#0") is not None


def observed(told: list[object]) -> PullState:
    observer = PullObserver(
        promised=told.append, verified=told.append, voided=lambda: told.append("void")
    )
    return PullState(toy_weights(), PullSettings(), observer)
