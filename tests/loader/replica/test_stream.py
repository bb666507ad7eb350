"""One stream against a source that says whatever a test wants, and one that still loads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.replica.scripted import CHUNKS, WEIGHTS, ScriptedSource, acceptance, scripted
from tests.loader.support import (
    GENERATION,
    MEMORY,
    OPEN,
    Stuck,
    TamperedBackend,
    candidate,
    cut_after,
    ended_by,
    equal,
    identity,
    is_zero,
    offer_of,
    pull_from,
    pull_into,
    serving,
    toy_weights,
    until,
)

from netloader.discovery.candidate import Candidate
from netloader.protocol import messages
from netloader.replica.outcome import (
    Contradicted,
    Declined,
    Dropped,
    Ended,
    Faulty,
    Lost,
    Unopened,
)
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.replica.state import PullState
from netloader.replica.stream import Stream


class TestLyingSource:
    """A hand-made source that says whatever a test wants."""

    def test_unexpected_answer_to_hello(self) -> None:
        with ended_by(Faulty, match="answered hello with bye"):
            pull_from_script(messages.encode(messages.Bye(session="0" * 32, reason="no")))

    def test_rubbish_instead_of_an_answer(self) -> None:
        with ended_by(Faulty, match="not a control message"):
            pull_from_script([b"rubbish"])

    def test_acceptance_that_does_not_fit(self) -> None:
        """`test_acceptance.py` has all that may not fit."""
        with ended_by(Faulty, match="another protocol version"):
            answer = acceptance(version=4)
            pull_from_script(messages.encode(answer, digests_of(len(CHUNKS))))

    def test_it_sends_nobody_to_a_third_address(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as third:
            third.setblocking(False)
            host, port = third.getsockname()
            elsewhere = acceptance(host=host, port=port)
            with ended_by(Faulty, match=f"sends this worker to '{host}:{port}'"):
                pull_from_script(
                    messages.encode(elsewhere, digests_of(len(CHUNKS))),
                    reaches=lambda where: where != f"{host}:{port}",
                )
            with pytest.raises(BlockingIOError):
                third.accept()

    def test_rendezvous_where_nobody_is(self) -> None:
        with ended_by(Unopened, match="no process group by memory"):
            pull_from_script(messages.encode(acceptance(), digests_of(len(CHUNKS))))

    def test_other_digests_than_an_earlier_source(self) -> None:
        pull = pull_into(toy_weights())
        broken = TamperedBackend(cut_after(3))
        with serving(offer_of(WEIGHTS, backend=broken)) as source, ended_by(Lost):
            pull_from(pull, candidate(source))
        with (
            serving(offer_of(toy_weights(2))) as source,
            ended_by(Contradicted, match="other digests than an earlier source"),
        ):
            pull_from(pull, candidate(source))

    @pytest.mark.parametrize(
        ("first", "second", "said"),
        [
            ({"a.x": 1}, {"a.x": 2}, "(a.x: 1, 2)"),
            ({"a.x": True}, {"a.x": 1}, "(a.x: True, 1)"),
            ({"a.x": 1}, {}, "(a.x: 1, nothing)"),
            ({}, {"a.x": None}, "(a.x: nothing, None)"),
            ({"a.x": {"w1", "w2"}}, {"a.x": {"w2"}}, "(a.x: set({'w1', 'w2'}), set({'w2'}))"),
        ],
    )
    def test_other_attributes_than_an_earlier_source(
        self, first: dict[str, Any], second: dict[str, Any], said: str
    ) -> None:
        replica = toy_weights()
        pull = pull_into(replica)
        broken = TamperedBackend(cut_after(3))
        with (
            serving(offer_of(WEIGHTS, backend=broken, attributes=first)) as source,
            ended_by(Lost),
        ):
            pull_from(pull, candidate(source))
        with (
            serving(offer_of(WEIGHTS, attributes=second)) as source,
            ended_by(Contradicted, match="has other attributes than an earlier") as caught,
        ):
            pull_from(pull, candidate(source))
        assert said in str(caught.value)
        assert pull.attributes == first
        with serving(offer_of(WEIGHTS, attributes=first)) as source:
            pull_from(pull, candidate(source))
        assert equal(replica, WEIGHTS)

    def test_replica_says_bye_so_that_the_session_is_free_again(self) -> None:
        said: list[messages.Message] = []
        with ended_by(Faulty):
            pull_from_script(
                messages.encode(acceptance(version=4), digests_of(len(CHUNKS))), heard=said
            )
        assert [message.type for message in said] == ["hello", "bye"]


class TestAbandoned:
    def test_it_ends_at_once_and_once_whatever_its_thread_finds(self) -> None:
        stuck = Stuck(after=2)
        state = PullState(toy_weights(), PullSettings())
        told: list[tuple[str, Ended]] = []
        with serving(offer_of(WEIGHTS, backend=TamperedBackend(stuck))) as source:
            stream = stream_from(candidate(source), state, told)
            assert stuck.reached.wait(HANG_S)
            until(lambda: stream.brought.nbytes == state.arrived_bytes > 0)
            ended = stream.abandon("others are faster")
            assert ended == Ended(Dropped("others are faster"), True, stream.brought)
            assert state.pick(stream.name) is None
            assert stream.abandon("too late") == ended
            stuck.release.set()
            until(lambda: told)
        assert told == [(stream.name, ended)]
        assert ended.brought.nbytes == state.arrived_bytes

    def test_before_the_source_has_answered_nothing_is_ever_brought(self) -> None:
        state = PullState(toy_weights(), PullSettings())
        told: list[tuple[str, Ended]] = []
        with serving(offer_of(WEIGHTS)) as source:
            stream = stream_from(candidate(source), state, told, at_once="given up")
            until(lambda: told)
        assert [ended.how for _, ended in told] == [Dropped("given up")]
        assert (stream.brought.nbytes, state.arrived_bytes) == (0, 0)

    def test_a_source_that_ended_before_is_not_said_to_be_dropped(self) -> None:
        state = PullState(toy_weights(), PullSettings())
        told: list[tuple[str, Ended]] = []
        with serving(None) as source:
            stream = stream_from(candidate(source), state, told)
            until(lambda: told)
        assert isinstance(stream.abandon("others are faster").how, Declined)


def stream_from(
    source: Candidate, state: PullState, told: list[tuple[str, Ended]], at_once: str | None = None
) -> Stream:
    """A stream that was started; with `at_once` abandoned before."""
    stream = Stream(
        source,
        Request(identity(), (MEMORY,), lambda: OPEN, "replica"),
        MEMORY,
        PullSettings(),
        state,
        lambda nbytes: None,
        lambda name, ended: told.append((name, ended)),
    )
    if at_once is not None:
        stream.abandon(at_once)
    stream.start()
    return stream


class TestSourceThatIsStillLoading:
    def test_have_makes_the_rest_available(self) -> None:
        with scripted(3, gaining(later=True)) as source:
            replica = toy_weights()
            pull_from(pull_into(replica), source)
        assert equal(replica, WEIGHTS)

    @fastest_of(5)
    def test_empty_promises_do_not_hold_a_replica(self) -> None:
        with scripted(3, gaining(later=False)) as source:
            pull = pull_into(toy_weights(), timeout_s=1.0)
            with at_most(2), ended_by(Lost, match=r"no further chunk in 1 s"):
                pull_from(pull, source)
        assert pull.nbytes == sum(chunk.payload for chunk in CHUNKS[:3])


def digests_of(chunks: int) -> bytes:
    return bytes(16 * chunks)


def gaining(*, later: bool) -> Callable[[ScriptedSource], None]:
    """Says again and again which chunks there are: the rest, or those that it had at first."""

    def script(source: ScriptedSource) -> None:
        more = tuple(range(3, len(CHUNKS)) if later else range(3))
        while True:
            if source.said(5):
                message = source.hear()
                if not isinstance(message, messages.Want):
                    return
                source.session.want(message.chunks)
            source.have(more)

    return script


def pull_from_script(
    answer: list[bytes],
    *,
    heard: list[messages.Message] | None = None,
    reaches: Callable[[str], bool] = lambda where: True,
) -> None:
    """Pull from something that answers hello with `answer`. `heard` gets what it hears, which has
    to be two messages."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    said: list[messages.Message] = [] if heard is None else heard
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            if router.poll(5):
                connection, *frames = router.recv_multipart()
                said.append(messages.decode(frames)[0])
                if len(said) == 1:
                    router.send_multipart([connection, *answer])

    thread = threading.Thread(target=run)
    thread.start()
    replica = toy_weights()
    try:
        pull = pull_into(replica, backend=MEMORY, reaches=reaches)
        pull_from(pull, Candidate(f"127.0.0.1:{port}", "test", GENERATION))
    finally:
        if heard is not None:
            until(lambda: len(heard) == 2)
        stop.set()
        thread.join()
        context.destroy(linger=0)
        assert is_zero(replica, [chunk.id for chunk in CHUNKS])
