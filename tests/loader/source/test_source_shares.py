"""What replicas share of a source: its places, its bytes per second, and its good name."""

from __future__ import annotations

import itertools
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from tests.fastest import HANG_S, at_most, fastest_of
from tests.forked import start_loader
from tests.loader.source.held_weights import HeldWeights
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
    toy_weights,
    until,
)

from netloader.protocol import messages
from netloader.source.audit import CHANGED
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.source.throttle import Throttle
from netloader.transport import Group, Pending, join
from netloader.transport.gloo import GlooBackend
from netloader.weights.capture import Weights

WEIGHTS = toy_weights(1)


class Replica:
    """A session from the replica's end, doing just what a test says."""

    def __init__(self, caller: Caller, weights: Weights) -> None:
        self.caller = caller
        self.chunks = weights.manifest.chunks()
        self.accept = caller.accepted(weights)
        self.session = self.accept.session
        self.group: Group = join(
            self.accept.host, self.accept.port, self.accept.secret, GlooBackend(), 5
        )

    def begin(self, chunk: int) -> tuple[torch.Tensor, list[Pending]]:
        """Ask for a chunk: where it will be, and its messages on their way."""
        data = torch.zeros(self.chunks[chunk].nbytes, dtype=torch.uint8)
        arriving = [self.group.recv(part, chunk) for part in self.parts(data)]
        self.want(chunk)
        return data, arriving

    def fetch(self, chunk: int) -> torch.Tensor:
        data, arriving = self.begin(chunk)
        for part in arriving:
            part.wait(HANG_S)
        return data

    def want(self, *chunks: int) -> None:
        self.caller.send(messages.Want(session=self.session, chunks=chunks))

    def bye(self, bad_chunk: int | None) -> None:
        self.caller.send(
            messages.Bye(session=self.session, reason="wrong bytes", bad_chunk=bad_chunk)
        )

    def parts(self, data: torch.Tensor) -> list[torch.Tensor]:
        size = self.accept.message_bytes
        return [data[start : start + size] for start in range(0, data.numel(), size)]


@contextmanager
def replica_of(source: Source, weights: Weights = WEIGHTS) -> Iterator[Replica]:
    with calling(source) as caller:
        replica = Replica(caller, weights)
        try:
            yield replica
        finally:
            replica.group.abort()


def refusal_of(caller: Caller, weights: Weights = WEIGHTS) -> messages.Refuse:
    answer = caller.ask(hello(weights))
    assert isinstance(answer, messages.Refuse), answer
    return answer


# Weights that have changed.


@contextmanager
def changing() -> Iterator[tuple[Source, Offer, list[str]]]:
    """A source of its own weights, and what it says when they have changed."""
    reasons: list[str] = []
    offer = offer_of(toy_weights(1))
    with serving(offer, on_changed=reasons.append) as source:
        yield source, offer, reasons


def test_source_whose_weights_have_changed_withdraws_when_a_replica_complains() -> None:
    with (
        changing() as (source, offer, reasons),
        replica_of(source) as replica,
        replica_of(source) as other,
    ):
        offer.weights.view(offer.chunks[2].pieces[0])[5] ^= 1
        replica.fetch(2)
        replica.bye(bad_chunk=2)
        until(lambda: reasons)
        assert reasons == [CHANGED]
        ended = other.caller.receive()
        assert isinstance(ended, messages.Bye)
        assert ended.reason == CHANGED
        until(lambda: source.sessions == 0)
        refused = refusal_of(other.caller)
        assert (refused.code, refused.reason) == ("not-ready", CHANGED)


def test_a_complaint_about_right_bytes_costs_nobody_but_its_replica(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        changing() as (source, _, reasons),
        replica_of(source) as replica,
        replica_of(source) as other,
        caplog.at_level(logging.WARNING),
    ):
        replica.fetch(2)
        replica.bye(bad_chunk=2)
        until(lambda: "mine is right" in caplog.text)
        assert reasons == []
        assert other.fetch(1).numel() == other.chunks[1].nbytes
        until(lambda: source.sessions == 1)


@pytest.mark.parametrize("chunk", [2, 100_000], ids=["not sent", "none"])
def test_a_complaint_about_what_was_not_sent_is_not_looked_into(
    chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        changing() as (source, offer, reasons),
        replica_of(source) as replica,
        caplog.at_level(logging.INFO, "netloader.source.dispatch"),
    ):
        offer.weights.view(offer.chunks[2].pieces[0])[5] ^= 1
        replica.fetch(1)
        replica.bye(bad_chunk=chunk)
        until(lambda: source.sessions == 0)
        assert f"complains about chunk {chunk} without ground" in caplog.text
        assert reasons == []


def test_a_complaint_about_weights_of_before_says_nothing_of_those_of_now() -> None:
    with changing() as (source, offer, reasons), replica_of(source) as replica:
        replica.fetch(2)
        offer.weights.view(offer.chunks[2].pieces[0])[5] ^= 1
        source.serve(offer_of(toy_weights(1)))
        replica.bye(bad_chunk=2)
        until(lambda: source.sessions == 0)
        with replica_of(source) as other:
            other.fetch(2)
        assert reasons == []


def test_a_listener_for_changes_that_fails_leaves_the_source_withdrawn() -> None:
    told = threading.Event()

    def fail(reason: str) -> None:
        told.set()
        raise RuntimeError("the mesh is gone")

    offer = offer_of(toy_weights(1))
    with serving(offer, on_changed=fail) as source, replica_of(source) as replica:
        offer.weights.view(offer.chunks[0].pieces[0])[0] ^= 1
        replica.fetch(0)
        replica.bye(bad_chunk=0)
        assert told.wait(HANG_S)
        assert refusal_of(replica.caller).reason == CHANGED
        assert source.sessions == 0


# Bytes per second.


def test_sources_of_one_worker_share_its_rate_limit() -> None:
    weights = big_weights(1, 4)
    throttle = Throttle(10_000_000, 400)
    with ExitStack() as stack:
        replicas = []
        for _ in range(2):
            source = stack.enter_context(serving(offer_of(weights), throttle=throttle))
            replicas.append(stack.enter_context(replica_of(source, weights)))
        assert replicas[0].accept.message_bytes == throttle.message_bytes
        started = time.monotonic()
        arriving = [replica.begin(0) for replica in replicas]
        for data, parts in arriving:
            for part in parts:
                part.wait(HANG_S)
            assert torch.equal(data, weights.view(replicas[0].chunks[0].pieces[0]))
        took_s = time.monotonic() - started
    # 8 MiB at 10 MB/s take 0.84 s, less what was made up for. Either alone would take half of it.
    assert took_s > 0.7


def test_without_a_limit_a_chunk_is_one_message() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        assert caller.accepted(WEIGHTS).message_bytes == messages.MAX_BULK_MESSAGE_BYTES


# Places.


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
        until(lambda: "'caller' lost its place after" in caplog.text)
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
            on_sessions=counts.append,
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
        until(lambda: "served 'caller'" in caplog.text)
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


def test_a_session_that_only_the_rate_limit_slows_keeps_its_place() -> None:
    weights = big_weights(1, 8)
    with (
        serving(
            offer_of(weights),
            eviction_period_s=0.5,
            max_sessions=1,
            throttle=Throttle(1_000_000, 400),
        ) as source,
        replica_of(source, weights) as slow,
        calling(source) as newcomer,
    ):
        _, arriving = slow.begin(0)
        for number, pending in enumerate(arriving[:40]):  # One takes 66 ms.
            pending.wait(HANG_S)
            if number < 24:  # Until it has been at work for longer than it took to begin.
                continue
            assert refusal_of(newcomer, weights).code == "busy"
        assert source.sessions == 1
        assert slow.caller.hears_nothing(0)


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


# What a replica may do wrong.


def test_hellos_that_ask_for_manifests_get_few_of_them() -> None:
    """Each is up to 20 MB for a large model."""
    offer = offer_of(WEIGHTS)
    size = len(offer.encoded_manifest)
    other = hello(toy_weights(rows=999))
    with serving(offer, manifest_rate=size / 60) as source, calling(source) as caller:
        sizes = []
        for _ in range(10):
            caller.send(other)
            message, attachment = caller.receive_all()
            assert isinstance(message, messages.Refuse)
            sizes.append(len(attachment))
    assert sizes == [size] + 9 * [0]


def test_a_replica_that_asks_on_and_on_and_reads_nothing_costs_little() -> None:
    offer = offer_of(WEIGHTS)
    with serving(offer, max_sessions=1) as source, calling(source) as flood:
        for _ in range(5000):
            flood.send(messages.Done(session="0" * 32))
        with replica_of(source) as replica:
            assert replica.fetch(0).numel()


def test_a_replica_that_leaves_without_a_word_frees_its_place() -> None:
    with serving(offer_of(WEIGHTS), max_sessions=1, rendezvous_timeout_s=0.3) as source:
        for step in ("accepted", "connected", "grouped", "asked"):
            with calling(source) as caller:
                accept = caller.accepted(WEIGHTS)
                if step == "connected":
                    socket.create_connection((accept.host, accept.port)).close()
                if step in ("grouped", "asked"):
                    group = join(accept.host, accept.port, accept.secret, GlooBackend(), 5)
                    if step == "asked":
                        caller.send(messages.Want(session=accept.session, chunks=(0, 1, 2)))
                    group.abort()
                    caller.send(messages.Want(session=accept.session, chunks=(3,)))
            until(lambda: source.sessions == 0)


def test_words_after_the_end_change_nothing() -> None:
    with serving(offer_of(WEIGHTS)) as source, replica_of(source) as replica:
        replica.fetch(0)
        replica.caller.send(messages.Done(session=replica.session))
        until(lambda: source.sessions == 0)
        for message in (
            messages.Want(session=replica.session, chunks=(0,)),
            messages.Done(session=replica.session),
            messages.Bye(session=replica.session, reason="late", bad_chunk=0),
        ):
            answer = replica.caller.ask(message)
            assert isinstance(answer, messages.Bye)
            assert answer.reason == "no such session"
        with replica_of(source) as other:
            other.fetch(0)


def test_what_a_replica_says_cannot_forge_lines_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forged = "\n2026-01-01 ERROR all is lost\x1b[2J" * 40
    with (
        serving(offer_of(WEIGHTS)) as source,
        calling(source) as caller,
        caplog.at_level(logging.DEBUG),
    ):
        answer = caller.ask(hello(WEIGHTS, replica=forged))
        assert isinstance(answer, messages.Accept)
        caller.send(messages.Bye(session=answer.session, reason=forged, bad_chunk=0))
        until(lambda: "the replica gave up" in caplog.text)
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 1500


def test_a_replica_that_receives_less_than_is_sent_ends_itself_and_not_the_source(
    tmp_path: Path,
) -> None:
    """Gloo terminates a process that gets more than it has posted for: the receiver's, that is."""
    with (
        serving(offer_of(WEIGHTS), rendezvous_timeout_s=HANG_S) as source,
        calling(source) as caller,
    ):
        accept = caller.accepted(WEIGHTS)
        command = [accept.host, str(accept.port), accept.secret]
        with (
            (tmp_path / "log").open("wb") as log,
            start_loader("tests.loader.source.short_receive", *command, stderr=log) as process,
        ):
            assert process.stdout.readline() == "ready\n"
            caller.send(messages.Want(session=accept.session, chunks=(0, 1, 2)))
            assert process.wait() == -signal.SIGABRT
        until(lambda: source.sessions == 0)
        with replica_of(source) as other:
            assert other.fetch(0).numel()
