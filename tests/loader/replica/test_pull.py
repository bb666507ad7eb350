"""Whole pulls, over real control connections on loopback."""

from __future__ import annotations

import math
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.support import (
    GENERATION,
    SMALL_WINDOW,
    SendLog,
    StreamEnded,
    Stuck,
    TamperedBackend,
    big_weights,
    calling,
    candidate,
    ended_by,
    equal,
    identity,
    is_zero,
    leaves_nothing,
    offer_of,
    place,
    pull_from,
    pull_into,
    serving,
    source_process,
    toy_weights,
    until,
    wrong_byte_in,
)

from netloader.discovery.candidate import Candidate
from netloader.errors import NetloaderError
from netloader.identity.identity import Evidence
from netloader.plain import Plain
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import AskLater, Corrupt, Declined, Lost
from netloader.replica.pull import Pull
from netloader.transport.tcp import TcpBackend

WEIGHTS = toy_weights(1)
CHUNKS = WEIGHTS.manifest.chunks()
PACKED = [chunk.id for chunk in CHUNKS if chunk.packed]
DIRECT = [chunk.id for chunk in CHUNKS if not chunk.packed]


def test_the_toy_model_has_both_kinds_of_chunks() -> None:
    assert len(PACKED) >= 2
    assert len(DIRECT) > SMALL_WINDOW


class TestComplete:
    def test_every_byte_of_every_tensor_arrives(self) -> None:
        replica = toy_weights()
        pull = pull_into(replica)
        with serving(offer_of(WEIGHTS)) as source:
            pull_from(pull, candidate(source))
        assert equal(replica, WEIGHTS)
        assert pull.complete
        assert pull.unverified() == ()
        assert pull.nbytes == WEIGHTS.manifest.nbytes
        assert pull.digests == tuple(offer_of(WEIGHTS).digests)

    def test_every_chunk_travels_once(self) -> None:
        log = SendLog()
        with serving(offer_of(WEIGHTS, backend=TamperedBackend(log))) as source:
            pull_from(pull_into(toy_weights()), candidate(source))
        assert sorted(log.sent) == [chunk.id for chunk in CHUNKS]

    def test_progress_adds_up_to_the_whole(self) -> None:
        steps: list[int] = []
        with serving(offer_of(WEIGHTS)) as source:
            pull_from(
                pull_into(toy_weights(), observer=PullObserver(progress=steps.append)),
                candidate(source),
            )
        assert steps and sum(steps) == WEIGHTS.manifest.nbytes

    def test_chunks_of_the_real_size(self) -> None:
        weights, replica = big_weights(1, 24), big_weights(None, 24)
        with serving(offer_of(weights)) as source:
            pull_from(pull_into(replica), candidate(source))
        assert equal(replica, weights)

    def test_replica_serves_what_it_pulled_with_the_same_digests(self) -> None:
        middle, last = toy_weights(), toy_weights()
        first_pull, second_pull = pull_into(middle), pull_into(last)
        with serving(offer_of(WEIGHTS)) as source:
            pull_from(first_pull, candidate(source))
        with serving(offer_of(middle)) as source:
            pull_from(second_pull, candidate(source))
        assert equal(last, WEIGHTS)
        assert first_pull.digests == second_pull.digests

    def test_two_replicas_at_once(self) -> None:
        replicas = [toy_weights(), toy_weights()]
        with serving(offer_of(WEIGHTS)) as source:
            at_once = [
                threading.Thread(target=pull_from, args=[pull_into(replica), candidate(source)])
                for replica in replicas
            ]
            for thread in at_once:
                thread.start()
            for thread in at_once:
                thread.join()
        assert all(equal(replica, WEIGHTS) for replica in replicas)

    def test_model_without_any_bytes(self) -> None:
        from torch import nn

        from netloader.weights.capture import capture

        nothing = nn.Module()
        nothing.empty = nn.Parameter(torch.empty(0, 3))
        pull = pull_into(capture(nothing))
        with serving(offer_of(capture(nothing))) as source:
            pull_from(pull, candidate(source))
        assert pull.complete

    @pytest.mark.parametrize(
        "value",
        [True, 3, 2.0, -0.5, "text", None, math.inf, -math.inf, {"w1"}, [(1, {"a": frozenset()})]],
        ids=str,
    )
    def test_attributes_arrive_with_value_and_type(self, value: Plain) -> None:
        pull = pull_into(toy_weights())
        with serving(offer_of(WEIGHTS, attributes={"head.scale": value})) as source:
            pull_from(pull, candidate(source))
        assert pull.attributes == {"head.scale": value}
        assert type(pull.attributes["head.scale"]) is type(value)

    def test_nan_arrives_as_nan(self) -> None:
        pull = pull_into(toy_weights())
        with serving(offer_of(WEIGHTS, attributes={"scale": math.nan})) as source:
            pull_from(pull, candidate(source))
        arrived = pull.attributes["scale"]
        assert isinstance(arrived, float) and math.isnan(arrived)


class TestWrongBytes:
    def test_in_a_packed_chunk_never_reach_a_tensor(self) -> None:
        replica = toy_weights()
        pull = pull_into(replica)
        bad = PACKED[0]
        backend = TamperedBackend(wrong_byte_in(bad))
        with (
            serving(offer_of(WEIGHTS, backend=backend)) as source,
            ended_by(Corrupt) as caught,
        ):
            pull_from(pull, candidate(source))
        assert isinstance(caught.value.how, Corrupt)
        assert caught.value.how.chunk == bad
        assert is_zero(replica, [bad])
        assert not pull.complete

    def test_in_a_direct_chunk_are_known_as_unverified(self) -> None:
        replica = toy_weights()
        pull = pull_into(replica)
        bad = DIRECT[1]
        backend = TamperedBackend(wrong_byte_in(bad))
        with (
            serving(offer_of(WEIGHTS, backend=backend)) as source,
            ended_by(Corrupt),
        ):
            pull_from(pull, candidate(source))
        assert CHUNKS[bad].pieces[0] in pull.unverified()

    def test_are_replaced_by_the_next_source(self) -> None:
        replica = toy_weights()
        pull = pull_into(replica)
        for bad in (DIRECT[1], PACKED[0]):
            backend = TamperedBackend(wrong_byte_in(bad))
            with (
                serving(offer_of(WEIGHTS, backend=backend)) as source,
                ended_by(Corrupt),
            ):
                pull_from(pull, candidate(source))
        with serving(offer_of(WEIGHTS)) as source:
            pull_from(pull, candidate(source))
        assert equal(replica, WEIGHTS)
        assert pull.unverified() == ()

    def test_weights_that_changed_under_the_source_are_found(self) -> None:
        weights = toy_weights(1)
        offer = offer_of(weights)
        weights.tensors[0][5] ^= 1
        with serving(offer) as source, ended_by(Corrupt):
            pull_from(pull_into(toy_weights()), candidate(source))

    def test_a_chunk_that_is_too_short_is_found(self) -> None:
        def cut(tag: int, data: torch.Tensor) -> torch.Tensor:
            return data[:-1].clone()

        with (
            serving(offer_of(WEIGHTS, backend=TamperedBackend(cut))) as source,
            ended_by(Corrupt),
        ):
            pull_from(pull_into(toy_weights()), candidate(source))


class TestLostSource:
    def test_killed_half_way_costs_only_what_had_not_arrived(self) -> None:
        replica = toy_weights()
        steps: list[int] = []
        pull = pull_into(replica, observer=PullObserver(progress=steps.append))
        with doomed(1, 5) as killed, ended_by(Lost):
            pull_from(pull, killed)
        arrived = pull.nbytes
        assert arrived < WEIGHTS.manifest.nbytes
        log = SendLog()
        with serving(offer_of(WEIGHTS, backend=TamperedBackend(log))) as source:
            pull_from(pull, candidate(source))
        assert equal(replica, WEIGHTS)
        assert sum(steps) == WEIGHTS.manifest.nbytes
        assert len(set(log.sent)) == len(log.sent)
        assert sum(CHUNKS[number].payload for number in log.sent) + arrived == sum(steps)

    def test_killed_in_the_middle_of_a_large_tensor(self) -> None:
        weights, replica = big_weights(1, 24), big_weights(None, 24)
        pull = pull_into(replica)
        with doomed(1, 2, 24) as killed, ended_by(Lost):
            pull_from(pull, killed)
        assert pull.unverified()
        with serving(offer_of(weights)) as source:
            pull_from(pull, candidate(source))
        assert equal(replica, weights)
        assert pull.unverified() == ()

    def test_frozen_source_is_given_up_after_the_timeout(self) -> None:
        stuck = Stuck(after=2)
        pull = pull_into(toy_weights(), timeout_s=1.0)
        with serving(offer_of(WEIGHTS, backend=TamperedBackend(stuck))) as source:
            try:
                with ended_by(Lost, match="timed out after 1 s"):
                    pull_from(pull, candidate(source))
            finally:
                stuck.release.set()

    def test_withdrawal_ends_the_pull_with_the_sources_reason(self) -> None:
        stuck = Stuck(after=2)
        failed: list[NetloaderError] = []
        pull = pull_into(toy_weights(), timeout_s=HANG_S)
        with serving(offer_of(WEIGHTS, backend=TamperedBackend(stuck))) as source:
            thread = threading.Thread(target=lambda: failed.append(failure(pull, source.endpoint)))
            thread.start()
            assert stuck.reached.wait(HANG_S)
            releasing = threading.Timer(0.05, stuck.release.set)
            releasing.start()
            source.withdraw("its weights are being updated")
            thread.join(HANG_S)
            assert not thread.is_alive()
            releasing.join()
        assert "its weights are being updated" in str(failed[0])

    @fastest_of(5)
    def test_nobody_listening_fails_at_once(self) -> None:
        with serving(None) as source:
            gone = candidate(source)
        pull = pull_into(toy_weights(), timeout_s=HANG_S)
        with at_most(1), ended_by(Lost, match="cannot connect"):
            pull_from(pull, gone)

    def test_listener_that_says_nothing_is_given_up_after_the_timeout(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
            with ended_by(Lost, match=r"says nothing within 0\.1 s"):
                pull_from(pull_into(toy_weights(), timeout_s=0.1), Candidate(endpoint, "test"))

    @pytest.mark.parametrize("endpoint", ["", "host", "127.0.0.1:", "127.0.0.1:99999", "a\0b:1"])
    def test_endpoint_that_is_none_is_a_lost_source(self, endpoint: str) -> None:
        with ended_by(Lost, match="cannot connect"):
            pull_from(pull_into(toy_weights()), Candidate(endpoint, "test"))


class TestRefused:
    def test_for_another_identity_with_the_differing_field(self) -> None:
        error = refused(pull_into(toy_weights(), who=identity(built=place(tp_size=4))))
        assert "tp_size: mine 2, theirs 4" in str(error)

    def test_for_other_content(self) -> None:
        error = refused(pull_into(toy_weights(), who=identity(content={Evidence.SAMPLE: "c"})))
        assert "checkpoint content (sample)" in str(error)

    def test_for_another_manifest_with_the_first_differing_tensor(self) -> None:
        error = refused(pull_into(toy_weights(rows=999)))
        assert "(embed.weight): shape: mine (999, 64), theirs (2000, 64)" in str(error)

    def test_for_another_generation(self) -> None:
        error = refused(pull_into(toy_weights()), generation=99)
        assert "not 99: restarted" in str(error)

    def test_while_the_source_is_loading(self) -> None:
        with serving(None) as source, ended_by(Declined, match="still loading"):
            pull_from(pull_into(toy_weights()), candidate(source))

    def test_while_all_sessions_are_taken_with_a_time_to_ask_again(self) -> None:
        offer = offer_of(WEIGHTS)
        with serving(offer, max_sessions=1) as source, calling(source) as other:
            other.accepted(WEIGHTS)
            with ended_by(AskLater) as caught:
                pull_from(pull_into(toy_weights()), candidate(source))
        assert isinstance(caught.value.how, AskLater)
        assert caught.value.how.after_s == 1.0

    def test_without_a_tensor_being_touched(self) -> None:
        replica = toy_weights()
        refused(pull_into(replica), generation=99)
        assert is_zero(replica, [chunk.id for chunk in CHUNKS])


def test_fifty_sessions_leave_no_threads_and_no_descriptors() -> None:
    small = toy_weights(1, rows=10)
    replica = toy_weights(rows=10)
    tcp = TcpBackend()
    with serving(offer_of(small, backend=tcp)) as source:

        def once() -> None:
            pull_from(pull_into(replica, backend=tcp), candidate(source))
            until(lambda: source.sessions == 0)

        leaves_nothing(once, 50)
    assert equal(replica, small)


def test_failed_sessions_leave_no_threads_and_no_descriptors() -> None:
    tcp = TcpBackend()
    backend = TamperedBackend(wrong_byte_in(0), tcp)
    with serving(offer_of(WEIGHTS, backend=backend)) as source:

        def once() -> None:
            with ended_by(Corrupt):
                pull_from(pull_into(toy_weights(), backend=tcp), candidate(source))
            until(lambda: source.sessions == 0)

        leaves_nothing(once, 10)


def failure(pull: Pull, endpoint: str) -> NetloaderError:
    try:
        pull_from(pull, Candidate(endpoint, "test", GENERATION))
    except NetloaderError as error:
        return error
    raise AssertionError("the pull succeeded")


def refused(pull: Pull, generation: int | None = GENERATION) -> StreamEnded:
    with serving(offer_of(WEIGHTS)) as source, ended_by(Declined) as caught:
        pull_from(pull, candidate(source, generation))
    return caught.value


@contextmanager
def doomed(seed: int, sends: int, mebibytes: int = 0) -> Iterator[Candidate]:
    """A source that is SIGKILLed when it starts its send number `sends`."""
    with source_process(seed, sends, mebibytes) as (found, process):
        yield found
        assert process.wait() == -signal.SIGKILL
