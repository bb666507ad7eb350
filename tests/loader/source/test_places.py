"""A source's places: who keeps one, who loses one, and when it is free."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.source.held_weights import HeldWeights
from tests.loader.source.scripted_replica import WEIGHTS, Replica, refusal_of, replica_of
from tests.loader.support import (
    Caller,
    SendLog,
    Stuck,
    TamperedBackend,
    big_weights,
    calling,
    hello,
    offer_of,
    serving,
    until,
)

from netloader.protocol import messages
from netloader.source.observer import SourceObserver


def ask_until(done: Callable[[], bool], caller: Caller) -> None:
    """Be refused until something has happened: what refuses may end a session before it answers."""
    until(lambda: refusal_of(caller).code == "busy" and done())


def test_a_session_that_asks_for_nothing_loses_its_place_when_somebody_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        serving(offer_of(WEIGHTS), eviction_period_s=0.05, max_sessions=1) as source,
        replica_of(source) as trickle,
        calling(source) as newcomer,
    ):
        trickle.fetch(0)
        assert source.sessions == 1
        ask_until(lambda: source.sessions == 0, newcomer)
        ended = trickle.caller.receive()
        assert isinstance(ended, messages.Bye)
        assert "while others waited" in ended.reason
        until(lambda: ", then it lost its place: it " in caplog.text)
        assert isinstance(newcomer.ask(hello(WEIGHTS)), messages.Accept)


def test_a_session_that_is_slow_to_end_keeps_no_place_and_stands_before_no_other() -> None:
    hangs = Stuck()
    sends = itertools.count()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        return hangs(tag, data) if next(sends) == 0 else data

    offer = offer_of(WEIGHTS, backend=TamperedBackend(on_send))
    with (
        serving(offer, eviction_period_s=0.05, max_sessions=2) as source,
        replica_of(source) as stuck,
        replica_of(source) as trickle,
        calling(source) as newcomer,
        calling(source) as another,
    ):
        stuck.want(0)
        assert hangs.reached.wait(HANG_S)
        trickle.fetch(0)
        ask_until(lambda: source.sessions == 1, newcomer)
        assert isinstance(stuck.caller.receive(), messages.Bye)
        newcomer.accepted(WEIGHTS)
        assert source.sessions == 2
        ask_until(lambda: source.sessions == 1, another)
        assert isinstance(trickle.caller.receive(), messages.Bye)
        another.accepted(WEIGHTS)
        hangs.release.set()


def done(replica: Replica) -> None:
    replica.caller.send(messages.Done(session=replica.session))


def gives_up(replica: Replica) -> None:
    replica.bye(bad_chunk=None)


def asks_for_nonsense(replica: Replica) -> None:
    replica.want(100_000)
    assert isinstance(replica.caller.receive(), messages.Bye)


Ending = Callable[[Replica], None]
ENDINGS: tuple[Ending, ...] = (done, gives_up, asks_for_nonsense)


@pytest.mark.parametrize("end", ENDINGS)
def test_a_place_is_free_at_once_although_the_session_s_thread_has_not_ended(end: Ending) -> None:
    held = Stuck()
    counts: list[int] = []
    with (
        serving(
            offer_of(WEIGHTS, backend=TamperedBackend(held)),
            max_sessions=1,
            observer=SourceObserver(sessions=counts.append),
        ) as source,
        replica_of(source) as first,
    ):
        first.want(0, 1, 2)
        assert held.reached.wait(HANG_S)
        end(first)
        with calling(source) as second:
            until(lambda: source.sessions == 0)
            assert counts == [1, 0]
            second.accepted(WEIGHTS)
            assert source.sessions == 1
            assert refusal_of(first.caller).reason == "all 1 sessions are taken"
            held.release.set()
            # That the thread has ended changes nothing for those that are served.
            second.send(messages.Done(session="0" * 32))
            assert isinstance(second.receive(), messages.Bye)
            assert source.sessions == 1


@pytest.mark.parametrize("end", [done, gives_up])
def test_who_ends_sessions_again_and_again_gathers_a_bounded_number_of_threads(
    end: Ending,
) -> None:
    held, reached = Stuck(), SendLog()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        return held(tag, reached(tag, data))

    offer = offer_of(WEIGHTS, backend=TamperedBackend(on_send))
    with serving(offer, max_sessions=2) as source, ExitStack() as stack:
        newcomer = stack.enter_context(calling(source))
        for number in range(16):
            replica = stack.enter_context(replica_of(source))
            replica.want(0)
            until(lambda count=number + 1: len(reached.sent) == count)  # type: ignore[misc]
            end(replica)
            until(lambda: source.sessions == 0)
        refused = refusal_of(newcomer)
        assert (refused.code, refused.reason) == ("busy", "16 sessions are still ending")
        assert refused.retry_after_s
        held.release.set()
        until(lambda: isinstance(newcomer.ask(hello(WEIGHTS)), messages.Accept))


def test_a_withdrawal_waits_for_a_session_that_was_done_while_a_chunk_was_packed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    happened: list[str] = []
    held = HeldWeights.of(WEIGHTS, lambda: happened.append("read weights"))

    def withdraw() -> None:
        source.withdraw("they change")
        happened.append("withdrawn")

    with serving(offer_of(held)) as source, replica_of(source) as replica:
        replica.want(len(replica.chunks) - 1)
        assert held.packing.wait(HANG_S)
        done(replica)
        until(lambda: source.sessions == 0)
        thread = threading.Thread(target=withdraw)
        thread.start()
        thread.join(0.2)
        held.go_on.set()
        thread.join(HANG_S)
    assert happened == ["read weights", "withdrawn"]
    assert "slow to end" not in caplog.text


def test_a_replica_that_is_done_and_gone_was_served(caplog: pytest.LogCaptureFixture) -> None:
    held = Stuck()
    with (
        serving(offer_of(WEIGHTS, backend=TamperedBackend(held))) as source,
        replica_of(source) as replica,
        caplog.at_level(logging.INFO, "netloader.source.dispatch"),
    ):
        replica.want(0, 1)
        assert held.reached.wait(HANG_S)
        done(replica)
        until(lambda: source.sessions == 0)
        replica.group.abort()
        held.release.set()
        until(lambda: " to 'caller' by " in caplog.text)
        assert replica.caller.hears_nothing(0)
    assert not [one for one in caplog.records if one.levelno > logging.INFO]


def test_a_session_that_asks_for_nothing_stays_while_nobody_waits() -> None:
    with (
        serving(offer_of(WEIGHTS), eviction_period_s=0.01, max_sessions=1) as source,
        replica_of(source) as trickle,
    ):
        trickle.fetch(0)
        assert trickle.caller.hears_nothing(0.1)
        assert trickle.fetch(0).numel()


@fastest_of(5)
def test_a_replica_in_the_middle_of_a_message_hears_at_once_why_its_session_ends() -> None:
    weights = big_weights(1, 64)
    with serving(offer_of(weights), timeout_s=3) as source, replica_of(source, weights) as replica:
        data = [torch.zeros(chunk.nbytes, dtype=torch.uint8) for chunk in replica.chunks]
        arriving = [replica.group.recv(one, number) for number, one in enumerate(data)]
        replica.want(*range(len(data)))
        arriving[0].wait(HANG_S)
        with at_most(1):
            source.withdraw("its weights are about to change")
            ended = replica.caller.receive()
        assert isinstance(ended, messages.Bye)
        assert ended.reason == "its weights are about to change"
