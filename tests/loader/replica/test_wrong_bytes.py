"""Sources that send other bytes than they promised: found, named, avoided."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from tests.fastest import HANG_S
from tests.loader import wrong_bytes
from tests.loader.replica.many_sources import CHUNKS, WEIGHTS, run, sources
from tests.loader.support import (
    GENERATION,
    TamperedBackend,
    candidate,
    equal,
    offer_of,
    pull_into,
    serving,
    toy_weights,
    until,
    wrong_byte_in,
)

from netloader.discovery.candidate import Candidate, Process
from netloader.errors import NoSourceLeft
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import Contradicted, Corrupt, Lost
from netloader.replica.settings import RetrySettings
from netloader.transport import TransportError


class TestWrongBytes:
    def test_are_found_and_fetched_elsewhere_and_the_liar_is_named(self) -> None:
        replica = toy_weights(rows=8000)
        caught: list[Process] = []
        lied = threading.Event()

        def lie(tag: int, data: torch.Tensor) -> torch.Tensor:
            lied.set()
            return wrong_byte_in(tag)(tag, data)

        def wait_for_the_lie(tag: int, data: torch.Tensor) -> torch.Tensor:
            assert lied.wait(HANG_S)
            return data

        with sources(lie, wait_for_the_lie) as made:
            liar, honest = made.candidates()
            unknown = Candidate(liar.endpoint, "a static list")
            pull = run(
                pull_into(replica, observer=PullObserver(accused=caught.append)),
                lambda: (unknown, honest),
            )
        assert equal(replica, WEIGHTS)
        lies = [f for f in pull.failures if isinstance(f.how, Corrupt)]
        assert [failure.source for failure in lies] == [unknown]
        assert f"source {liar.endpoint}" in str(lies[0])
        # Whose generation nobody knew has told it.
        assert caught == [(liar.endpoint, GENERATION)]
        assert pull.unverified() == ()

    def test_who_contradicted_the_liar_is_asked_again(self) -> None:
        replica, other = toy_weights(rows=8000), toy_weights(2, rows=8000)
        pull = pull_into(replica)
        begun = threading.Event()

        def contradicted() -> bool:
            return any(isinstance(failure.how, Contradicted) for failure in pull.failures)

        def lie(tag: int, data: torch.Tensor) -> torch.Tensor:
            begun.set()
            until(contradicted)
            return wrong_byte_in(tag)(tag, data)

        offer = offer_of(other, backend=TamperedBackend(lie))
        with serving(offer) as lying, sources(None) as made:
            liar, honest = candidate(lying), made.candidates()[0]
            run(pull, lambda: (liar, honest) if begun.is_set() else (liar,))
        assert equal(replica, WEIGHTS)
        kinds = [type(failure.how) for failure in pull.failures]
        assert kinds == [Contradicted, Corrupt]

    def test_every_chunk_of_a_liar_alone_is_worth_nothing(self) -> None:
        """It promised the digests itself, and then broke that promise."""
        replica, other = toy_weights(rows=8000), toy_weights(2, rows=8000)
        pull = pull_into(replica)
        last = max(chunk.id for chunk in CHUNKS if not chunk.packed)
        lying = TamperedBackend(wrong_byte_in(last))
        with serving(offer_of(other, backend=lying)) as source, pytest.raises(NoSourceLeft):
            pull.run(lambda: (candidate(source),))
        assert pull.nbytes == 0
        arrived = sum(len(chunk.pieces) for chunk in CHUNKS[: last + 1])
        assert len(pull.unverified()) >= arrived
        with sources(None) as made:
            run(pull, made.candidates)
        assert equal(replica, WEIGHTS)
        assert pull.unverified() == ()

    def test_what_a_liar_had_brought_in_an_earlier_session_is_worth_nothing_either(self) -> None:
        """It was cut off, came back, and then broke the promise of both sessions."""
        count = itertools.count()

        def lie_at_last(tag: int, data: torch.Tensor) -> torch.Tensor:
            number = next(count)
            if number == 4:
                raise TransportError("cut")
            return wrong_byte_in(tag)(tag, data) if number > 6 else data

        pull = pull_into(
            toy_weights(rows=8000),
            source_timeout_s=0.5,
            retry=RetrySettings(backoff_s=0.05),
        )
        with sources(lie_at_last) as made, pytest.raises(NoSourceLeft):
            pull.run(made.candidates)
        kinds = [type(failure.how) for failure in pull.failures]
        assert kinds == [Lost, Corrupt]
        assert (pull.nbytes, pull.deliveries) == (0, ())

    def test_with_verification_off_they_are_taken(self) -> None:
        replica = toy_weights(rows=8000)
        with sources(wrong_byte_in(0)) as made:
            run(pull_into(replica, verify=False), made.candidates)
        assert not equal(replica, WEIGHTS)


def test_a_wrong_byte_is_found_every_time() -> None:
    """`python -m tests.loader.wrong_bytes --trials 1000` is the long form."""
    result = wrong_bytes.run(trials=20, seed=7)
    assert result.injected == result.detected == result.refetched == 20
    assert result.digests_ok


@pytest.mark.parametrize(
    "trials", [3, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_a_wrong_byte_of_a_source_that_still_loads_is_found_and_not_passed_on(trials: int) -> None:
    result = wrong_bytes.run_relayed(trials, seed=7)
    assert result.injected == result.detected == result.named == result.pulls == trials
    assert result.passed_on == 0
    assert result.digests_ok
