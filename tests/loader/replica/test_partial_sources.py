"""Pulls from sources that are still loading themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from tests.fastest import HANG_S
from tests.loader.partial_source import partial_source
from tests.loader.relay import relay
from tests.loader.replica.scripted import CHUNKS, WEIGHTS, ScriptedSource, scripted
from tests.loader.support import (
    SMALL_WINDOW,
    SendLog,
    Stuck,
    TamperedBackend,
    candidate,
    ended_by,
    equal,
    in_background,
    offer_of,
    pull_from,
    pull_into,
    serving,
    toy_weights,
    until,
)

from netloader.protocol import messages
from netloader.replica.outcome import Dropped, Lost
from netloader.replica.pull import Pull
from netloader.replica.settings import RetrySettings, SwarmSettings

EVERY = range(len(CHUNKS))


def size(chunks: Iterable[int]) -> int:
    return sum(CHUNKS[chunk].payload for chunk in chunks)


def patient(replica: object, **settings: object) -> Pull:
    return pull_into(
        replica,  # type: ignore[arg-type]
        **{"source_timeout_s": HANG_S, "uninteresting_s": HANG_S, **settings},
    )


def test_what_a_source_gains_later_comes_too() -> None:
    replica = toy_weights()
    pull = patient(replica)
    with (
        partial_source(WEIGHTS, [0, 2]) as source,
        in_background(lambda: pull.run(lambda: (source.candidate,))),
    ):
        until(lambda: pull.nbytes == size([0, 2]))
        source.gain([1])
        until(lambda: pull.nbytes == size([0, 1, 2]))
        source.gain_all()
    assert equal(replica, WEIGHTS)
    assert {*source.log.sent[:2]} == {0, 2} and source.log.sent[2] == 1
    assert sorted(source.log.sent) == list(EVERY)
    assert pull.failures == ()


def test_a_source_that_has_nothing_yet_is_waited_for() -> None:
    replica = toy_weights()
    pull = patient(replica)
    with (
        partial_source(WEIGHTS) as source,
        in_background(lambda: pull.run(lambda: (source.candidate,))),
    ):
        until(lambda: source.source.sessions == 1)
        source.gain_all()
    assert equal(replica, WEIGHTS)


def test_gains_are_heard_while_chunks_are_on_their_way() -> None:
    """The source keeps a chunk back until it is asked for one that it has gained."""
    replica = toy_weights()
    with scripted(SMALL_WINDOW, gaining_all) as source:
        pull = patient(replica, swarm=SwarmSettings(ahead_s=HANG_S))
        pull.run(lambda: (source,))
    assert equal(replica, WEIGHTS)


def gaining_all(source: ScriptedSource) -> None:
    """Sends one chunk, is asked for the others, and says that it has all. It keeps one of them
    until one of the new ones was asked for."""
    source.session.want(source.wanted())
    *others, last = source.wanted()
    source.have(tuple(EVERY))
    # The word may reach the replica after a chunk.
    source.session.want([others.pop(0)])
    while not source.said(500):
        source.session.want([others.pop(0)])
    source.session.want([*others, last, *source.wanted()])
    while isinstance(asked := source.hear(), messages.Want):
        source.session.want(asked.chunks)
    assert isinstance(asked, messages.Done)


def test_why_a_source_ended_is_not_forgotten_over_what_is_under_way() -> None:
    pull = pull_into(toy_weights(), swarm=SwarmSettings(ahead_s=HANG_S))

    def script(source: ScriptedSource) -> None:
        (first,) = source.wanted()
        source.session.want([first])
        second, *rest = source.wanted()
        assert rest
        source.bye("ended on purpose")
        # The word may reach the replica before this chunk or after it. The rest never comes.
        source.session.want([second])
        until(lambda: pull.nbytes == size([first, second]))
        source.session.abort("broken")

    with scripted(len(CHUNKS) - 1, script) as source, ended_by(Lost, match="ended on purpose"):
        pull_from(pull, source)


def test_a_flood_of_gains_keeps_no_pull_from_ending() -> None:
    """The source says the same again as fast as it can."""
    replica = toy_weights()
    pull = patient(replica)
    stop = threading.Event()
    with (
        partial_source(WEIGHTS, [0]) as source,
        in_background(lambda: pull.run(lambda: (source.candidate,))),
    ):
        until(lambda: pull.nbytes == size([0]))

        def flood() -> None:
            while not stop.is_set():
                source.gain(EVERY)

        with in_background(flood):
            until(lambda: pull.complete)
            stop.set()
    assert equal(replica, WEIGHTS)


class TestChain:
    def test_the_last_gets_chunks_before_the_middle_is_complete(self) -> None:
        first, last = toy_weights(), toy_weights()
        end = patient(last)
        with partial_source(WEIGHTS, [0, 1, 2]) as source, relay(first) as middle:
            with (
                middle.pulling(lambda: (source.candidate,)),
                in_background(lambda: end.run(middle.look, wait_for_one=True)),
            ):
                until(lambda: end.nbytes == size([0, 1, 2]))
                assert middle.pull.nbytes == size([0, 1, 2])
                source.gain_all()
            assert equal(first, WEIGHTS) and equal(last, WEIGHTS)
            assert sorted(source.log.sent) == sorted(middle.log.sent) == list(EVERY)
            assert [one.endpoint for one in end.deliveries] == [middle.source.endpoint]

    def test_post_processing_of_the_middle_costs_the_last_nothing(self) -> None:
        """It has asked for a chunk that it gets afterwards, from where the originals lie then."""
        first, last = toy_weights(), toy_weights()
        stuck, log = Stuck(after=2), SendLog()
        end = patient(last)
        backend = TamperedBackend(log)
        with serving(offer_of(WEIGHTS, backend=backend)) as source, relay(first, stuck) as middle:
            with middle.pulling(lambda: (candidate(source),)):
                pass
            ending = in_background(lambda: end.run(middle.look, wait_for_one=True))
            with ending:
                assert stuck.reached.wait(HANG_S)
                holding = threading.Thread(target=lambda: middle.complete(toy_weights(1)))
                holding.start()
                stuck.release.set()
                holding.join(HANG_S)
        assert equal(last, WEIGHTS)
        assert end.failures == ()
        assert sorted(middle.log.sent) == sorted(log.sent) == list(EVERY)


def test_two_that_have_different_halves_complete_each_other() -> None:
    one, other = toy_weights(), toy_weights()
    even, odd = EVERY[::2], EVERY[1::2]
    with (
        partial_source(WEIGHTS, even) as evens,
        partial_source(WEIGHTS, odd) as odds,
        relay(one) as left,
        relay(other) as right,
        left.pulling(lambda: (evens.candidate, *right.look())),
        right.pulling(lambda: (odds.candidate, *left.look())),
    ):
        pass
    assert equal(one, WEIGHTS) and equal(other, WEIGHTS)
    assert sorted(evens.log.sent) == sorted(left.log.sent) == list(even)
    assert sorted(odds.log.sent) == sorted(right.log.sent) == list(odd)


def test_a_source_without_anything_new_makes_room_and_is_asked_again() -> None:
    replica = toy_weights()
    pull = patient(
        replica, max_sources=1, uninteresting_s=0.05, retry=RetrySettings(backoff_s=0.05)
    )
    with (
        partial_source(WEIGHTS, [0]) as first,
        partial_source(WEIGHTS, [1]) as second,
        in_background(lambda: pull.run(lambda: (first.candidate, second.candidate))),
    ):
        until(lambda: pull.nbytes == size([0, 1]))
        first.gain_all()
    assert equal(replica, WEIGHTS)
    assert second.log.sent == [1]
    assert [failure.how for failure in pull.failures] == [
        Dropped("it has nothing that is missing here")
    ] * 2
    assert [failure.source for failure in pull.failures] == [first.candidate, second.candidate]


def test_a_source_that_has_what_is_missing_is_not_dropped_for_its_silence() -> None:
    replica = toy_weights()
    stuck = Stuck(after=1)
    pull = patient(replica, uninteresting_s=0.01)
    with (
        partial_source(WEIGHTS, [0, 1], stuck) as source,
        in_background(lambda: pull.run(lambda: (source.candidate,))),
    ):
        until(lambda: pull.nbytes == size([0]))
        assert stuck.reached.wait(HANG_S)
        source.gain_all()
        stuck.release.set()
    assert equal(replica, WEIGHTS)
    assert pull.failures == ()
