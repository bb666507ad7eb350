"""Sessions that wait while the weights they read change."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.partial_source import PartialSource, partial_source
from tests.loader.source.held_weights import HeldWeights
from tests.loader.source.scripted_replica import Replica, refusal_of, replica_of
from tests.loader.support import (
    GENERATION,
    MEMORY,
    OnSend,
    SendLog,
    Stuck,
    TamperedBackend,
    calling,
    candidate,
    equal,
    in_background,
    leaves_nothing,
    offer_of,
    pull_into,
    serving,
    start_source,
    toy_weights,
    until,
)

from netloader.protocol import messages
from netloader.replica.outcome import AskLater, Lost
from netloader.source.service import Source
from netloader.transport import join

TRUTH = toy_weights(1)
CHUNKS = TRUTH.manifest.chunks()
PACKED = next(chunk.id for chunk in CHUNKS if TRUTH.contiguous(chunk) is None)


@contextmanager
def loaded(on_send: OnSend = lambda tag, data: data, **options: object) -> Iterator[PartialSource]:
    """A source that has just got all chunks, and weights of its own."""
    with partial_source(toy_weights(1), range(len(CHUNKS)), on_send, **options) as made:
        yield made


def overwrite(made: PartialSource) -> None:
    for data in made.offer.weights.tensors:
        data.zero_()


def heard(replica: Replica) -> None:
    """Wait until the source has acted on all that the replica has said."""
    replica.caller.send(messages.Want(session="f" * 32, chunks=()))
    answer = replica.caller.receive()
    assert isinstance(answer, messages.Bye) and answer.reason == "no such session"


def right(chunk: int, data: torch.Tensor) -> bool:
    staging = torch.empty(TRUTH.manifest.chunk_bytes, dtype=torch.uint8)
    return torch.equal(data, TRUTH.pack(CHUNKS[chunk], staging))


@pytest.mark.parametrize("chunk", [1, PACKED], ids=["in place", "packed"])
def test_what_is_asked_for_meanwhile_comes_from_where_the_weights_lie_then(chunk: int) -> None:
    with loaded() as made, replica_of(made.source) as replica:
        replica.fetch(0)
        made.source.hold("post-processing")
        data, arriving = replica.begin(chunk)
        heard(replica)
        overwrite(made)
        assert made.log.sent == [0]
        made.source.serve(made.whole(toy_weights(1)))
        for part in arriving:
            part.wait(HANG_S)
        assert right(chunk, data)
        assert made.log.sent == [0, chunk]
        assert made.source.sessions == 1


@fastest_of(5)
def test_sessions_without_requests_keep_nobody_waiting() -> None:
    """Also one whose replica has not opened its group yet."""
    with loaded() as made, replica_of(made.source) as idle, calling(made.source) as late:
        accept = late.accepted(TRUTH)
        with at_most(0.5):
            made.source.hold("post-processing")
        assert made.source.sessions == 2
        made.source.serve(made.whole(TRUTH))
        assert right(1, idle.fetch(1))
        group = join(accept.host, accept.port, accept.secret, MEMORY, HANG_S)
        data = torch.zeros(CHUNKS[0].nbytes, dtype=torch.uint8)
        arriving = group.recv(data, 0)
        late.send(messages.Want(session=accept.session, chunks=(0,)))
        arriving.wait(HANG_S)
        assert right(0, data)
        group.abort()


def test_the_memory_of_held_weights_goes_back() -> None:
    weights = toy_weights(1)
    storages = [weakref.ref(data.untyped_storage()) for data in weights.tensors]
    log = SendLog()
    source = start_source()
    source.serve(offer_of(weights, backend=TamperedBackend(log)))
    with replica_of(source) as replica:
        for chunk in (0, PACKED):
            assert right(chunk, replica.fetch(chunk))
        del weights
        source.hold("post-processing")
        assert sum(storage() is not None for storage in storages) == 0
        source.serve(offer_of(TRUTH, backend=TamperedBackend(log)))
        assert right(1, replica.fetch(1))
    source.close()
    assert log.sent == [0, PACKED, 1]


def test_a_chunk_under_way_is_finished_first() -> None:
    stuck = Stuck(after=1)
    with loaded(stuck, hold_s=HANG_S) as made, replica_of(made.source) as replica:
        replica.fetch(0)
        data, arriving = replica.begin(1)
        assert stuck.reached.wait(HANG_S)
        with in_background(lambda: made.source.hold("post-processing")) as holding:
            until(lambda: is_held(made.source))
            assert holding.is_alive()
            stuck.release.set()
            for part in arriving:
                part.wait(HANG_S)
        assert right(1, data)
        made.source.serve(made.whole(TRUTH))
        assert right(2, replica.fetch(2))


def is_held(source: Source) -> bool:
    with calling(source) as stranger:
        return refusal_of(stranger).retry_after_s is not None


def test_who_has_said_goodbye_is_waited_for_too() -> None:
    """It may still be sent a chunk that it no longer wants."""
    held = HeldWeights.of(toy_weights(1))
    source_of = serving(offer_of(held), hold_s=0.05, close_timeout_s=HANG_S)
    # Computing the digests has packed nothing.
    with source_of as source, replica_of(source) as replica:
        replica.begin(PACKED)
        assert held.packing.wait(HANG_S)
        replica.caller.send(messages.Done(session=replica.session))
        until(lambda: source.sessions == 0)
        with in_background(lambda: source.hold("post-processing")) as holding:
            until(lambda: is_held(source))
            assert holding.is_alive()
            held.go_on.set()


def test_a_slow_session_is_ended_and_its_replica_goes_on_elsewhere() -> None:
    stuck = Stuck(after=2)
    replica = toy_weights()
    pull = pull_into(replica, source_timeout_s=HANG_S)
    with loaded(stuck, hold_s=0.05) as slow, serving(offer_of(TRUTH)) as other:

        def find() -> tuple[object, ...]:
            return (candidate(other),) if pull.failures else (slow.candidate,)

        with in_background(lambda: pull.run(find)):  # type: ignore[arg-type]
            assert stuck.reached.wait(HANG_S)
            slow.source.hold("post-processing")
            overwrite(slow)
            stuck.release.set()
    assert equal(replica, TRUTH)
    (failure,) = pull.failures
    assert failure.how == Lost("ended the session: post-processing")


def test_withdrawn_instead_its_sessions_end_with_the_reason() -> None:
    with loaded() as made, replica_of(made.source) as replica:
        made.source.hold("post-processing")
        made.source.withdraw("it holds other weights")
        ended = replica.caller.receive()
        assert isinstance(ended, messages.Bye)
        assert ended.reason == "it holds other weights"
        refused = refusal_of(replica.caller)
        assert (refused.reason, refused.retry_after_s) == ("it holds other weights", None)


def test_other_bytes_afterwards_end_its_sessions() -> None:
    with loaded() as made, replica_of(made.source) as replica:
        made.source.hold("post-processing")
        made.source.serve(offer_of(toy_weights(2)))
        ended = replica.caller.receive()
        assert isinstance(ended, messages.Bye)
        assert ended.reason == "other weights are offered now"
        until(lambda: made.source.sessions == 0)
        assert isinstance(replica.caller.accepted(TRUTH), messages.Accept)


def test_it_can_be_held_again() -> None:
    with loaded() as made, replica_of(made.source) as replica:
        for chunk in (0, 1, 2):
            made.source.hold("post-processing")
            made.source.serve(made.whole(TRUTH))
            assert right(chunk, replica.fetch(chunk))


def test_nothing_is_looked_into_while_it_is_held() -> None:
    with loaded() as made, replica_of(made.source) as replica:
        replica.fetch(0)
        made.source.hold("post-processing")
        overwrite(made)
        replica.bye(bad_chunk=0)
        until(lambda: made.source.sessions == 0)
        made.source.serve(made.whole(TRUTH))
        assert replica.caller.accepted(TRUTH).generation == GENERATION


def test_a_new_replica_is_told_to_come_again_and_does() -> None:
    replica = toy_weights()
    pull = pull_into(replica, source_timeout_s=HANG_S)
    with loaded(retry_after_s=0.05) as made:
        made.source.hold("post-processing")
        with in_background(lambda: pull.run(lambda: (made.candidate,))):
            until(lambda: pull.failures)
            made.source.serve(made.whole(TRUTH))
    assert equal(replica, TRUTH)
    (failure,) = pull.failures
    assert failure.how == AskLater("refused: post-processing", 0.05)


def test_withdrawn_for_now_it_says_when_to_come_again() -> None:
    with loaded(retry_after_s=0.5) as made, calling(made.source) as caller:
        made.source.withdraw("given up", for_now=True)
        refused = refusal_of(caller)
    assert (refused.code, refused.reason, refused.retry_after_s) == ("not-ready", "given up", 0.5)


def test_a_closed_source_holds_nobody_up() -> None:
    with loaded() as made:
        made.source.close()
        made.source.hold("post-processing")


def test_sessions_that_were_held_leave_nothing_behind() -> None:
    def once() -> None:
        with loaded() as made, replica_of(made.source) as replica:
            replica.fetch(0)
            made.source.hold("post-processing")
            made.source.serve(made.whole(TRUTH))
            replica.fetch(1)
            made.source.hold("post-processing")

    leaves_nothing(once, 3)
