"""What a source that is still loading tells its replicas, and what it lets them ask for."""

from __future__ import annotations

import itertools

import torch
from tests.fastest import HANG_S
from tests.loader.partial_source import partial_source
from tests.loader.source.scripted_replica import replica_of
from tests.loader.support import calling, toy_weights, until
from tests.loader.support.ends import OPEN

from netloader.protocol import messages
from netloader.source.listener import ControlConnection, Listener
from netloader.source.policy.telling import LONGEST_S
from netloader.source.settings import SourceSettings

WEIGHTS = toy_weights(1)
CHUNKS = WEIGHTS.manifest.chunks()


def test_its_acceptance_says_what_it_has_and_no_more() -> None:
    with partial_source(WEIGHTS, [4, 0, 1]) as made, calling(made.source) as caller:
        assert caller.accepted(WEIGHTS).have == ((0, 2), (4, 5))


def test_what_it_gains_is_told_to_every_session_once() -> None:
    with (
        partial_source(WEIGHTS, [0]) as made,
        calling(made.source) as first,
        calling(made.source) as second,
    ):
        for caller in (first, second):
            caller.accepted(WEIGHTS)
        made.gain([3, 2])
        told: list[list[int]] = [[], []]
        for caller, chunks in zip((first, second), told, strict=True):
            while len(chunks) < 2:
                have = caller.receive()
                assert isinstance(have, messages.Have)
                chunks.extend(have.chunks)
        assert told == [[3, 2], [3, 2]]


class NotedListener(Listener):
    """Notes for how long the source means to sleep."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", None, OPEN, SourceSettings().handshake_timeout_s)
        self.sleeps: list[float | None] = []

    def wait(self, timeout_s: float | None) -> list[tuple[ControlConnection, list[bytes]]]:
        self.sleeps.append(timeout_s)
        return super().wait(timeout_s)


def test_it_wakes_by_itself_to_tell_what_it_has_kept_back() -> None:
    listener, ids = NotedListener(), itertools.count()
    with (
        partial_source(WEIGHTS, listener=listener) as made,
        calling(made.source) as caller,
    ):
        caller.accepted(WEIGHTS)
        assert set(listener.sleeps) == {None}

        def keeps_one_back() -> bool:
            made.gain([next(ids)])
            return any(each is not None for each in listener.sleeps)

        until(keeps_one_back)
        assert all(each is None or 0 <= each <= LONGEST_S for each in listener.sleeps)


def test_what_it_has_gained_can_be_asked_for() -> None:
    with partial_source(WEIGHTS, [0]) as made, replica_of(made.source) as replica:
        made.gain([2])
        assert isinstance(replica.caller.receive(), messages.Have)
        assert torch.equal(replica.fetch(2), WEIGHTS.view(CHUNKS[2].pieces[0]))


def test_asking_for_what_is_not_there_ends_the_session_in_words() -> None:
    with partial_source(WEIGHTS, [0]) as made, replica_of(made.source) as replica:
        replica.want(0, 5)
        ended = replica.caller.receive()
        assert isinstance(ended, messages.Bye)
        assert ended.reason == "asked for chunk 5, which is not there yet"
        until(lambda: made.source.sessions == 0)
        assert made.log.sent == []


def test_a_session_that_was_held_is_told_what_came_with_the_whole() -> None:
    with partial_source(WEIGHTS) as made, replica_of(made.source) as replica:
        made.source.hold("post-processing")
        made.source.serve(made.whole(WEIGHTS))
        have = replica.caller.receive(HANG_S)
        assert isinstance(have, messages.Have)
        assert have.chunks == tuple(range(len(CHUNKS)))


class TestOneHost:
    """A replica on the source's host hears what the source is getting from elsewhere."""

    def test_it_hears_what_is_coming_and_what_is_not(self) -> None:
        with partial_source(WEIGHTS, [0]) as made, calling(made.source) as caller:
            made.available.asked(3)
            session = caller.accepted(WEIGHTS, near=True).session
            made.source.gained()
            assert caller.receive() == messages.Have(session=session, chunks=(), coming=(3,))
            made.available.given_up([3])
            made.available.asked(2)
            made.source.gained()
            told = messages.Have(session=session, chunks=(), coming=(2,), gone=(3,))
            assert caller.receive() == told
            made.gain([2])
            assert caller.receive() == messages.Have(session=session, chunks=(2,))

    def test_others_hear_what_is_there_and_no_more(self) -> None:
        with partial_source(WEIGHTS, [0]) as made, calling(made.source) as caller:
            session = caller.accepted(WEIGHTS).session
            made.available.asked(3)
            made.source.gained()
            made.gain([2])
            assert caller.receive() == messages.Have(session=session, chunks=(2,))
            assert not made.available.overheard
