from __future__ import annotations

import pytest

from netloader.discovery.candidate import BY_MESH, Candidate
from netloader.replica.outcome import (
    AskLater,
    Brought,
    Contradicted,
    Corrupt,
    Declined,
    Dropped,
    Ended,
    Faulty,
    Finished,
    Lost,
    Outcome,
    Unopened,
)
from netloader.replica.retry import RetryPolicy
from netloader.replica.settings import RetrySettings

LISTED = Candidate("listed:1", "SOURCE")
A, B = Candidate("a:1", BY_MESH, 1), Candidate("b:1", BY_MESH, 1)
LIMITS = RetrySettings(max_losses=3, backoff_s=2.0, min_pause_s=0.5)
LOST = Lost("cut")


def policy() -> RetryPolicy:
    return RetryPolicy(LIMITS, ("fast", "gloo"))


def end(how: Outcome, nbytes: int = 0) -> Ended:
    return Ended(how, accepted=True, brought=Brought(nbytes, 1.0))


def corrupt(*, void: bool) -> Ended:
    return end(Corrupt("chunk 1 has another digest", 1, ("a:1", 1), void))


def test_everybody_may_be_asked_once_in_the_order_given() -> None:
    assert policy().eligible([B, A], (), 0.0) == [B, A]


def test_an_endpoint_in_use_is_not_asked_a_second_time() -> None:
    assert policy().eligible([A, B], {"a:1"}, 0.0) == [B]


def test_a_busy_source_is_asked_when_it_said() -> None:
    retry = policy()
    retry.ended(A, end(AskLater("busy", 2.0)), 10.0)
    assert retry.eligible([A], (), 11.9) == []
    assert retry.eligible([A], (), 12.0) == [A]


def test_a_busy_source_is_not_asked_again_at_once_whatever_it_said() -> None:
    retry = policy()
    retry.ended(A, end(AskLater("busy", 0.0)), 10.0)
    assert retry.eligible([A], (), 10.0) == []
    assert retry.eligible([A], (), 10.0 + LIMITS.min_pause_s) == [A]


def test_only_those_who_were_never_asked_when_it_is_late() -> None:
    retry = policy()
    retry.ended(A, end(AskLater("busy", 1.0)), 10.0)
    assert retry.eligible([A, B], (), 12.0, again=False) == [B]
    assert retry.eligible([A, B], (), 12.0) == [A, B]


@pytest.mark.parametrize(
    "how", [Declined("another identity"), Faulty("sent accept in a session"), Finished()]
)
def test_an_end_that_asking_again_does_not_mend_is_final(how: Outcome) -> None:
    retry = policy()
    retry.ended(A, end(how), 0.0)
    assert retry.eligible([A], (), 1e9) == []


@pytest.mark.parametrize("void", [False, True])
def test_a_source_of_wrong_bytes_is_never_asked_again(void: bool) -> None:
    retry = policy()
    retry.ended(A, corrupt(void=void), 0.0)
    assert retry.eligible([A], (), 1e9) == []


def test_who_contradicted_a_promise_is_asked_again_once_that_is_void() -> None:
    retry = policy()
    retry.ended(B, end(Contradicted("promises other digests")), 0.0)
    assert retry.eligible([A, B], (), 1e9) == [A]
    retry.ended(A, corrupt(void=True), 1.0)
    assert retry.eligible([A, B], (), 1.0, again=False) == [B]


def test_who_contradicted_a_promise_that_others_stand_for_is_not_asked_again() -> None:
    retry = policy()
    retry.ended(B, end(Contradicted("promises other digests")), 0.0)
    retry.ended(A, corrupt(void=False), 1.0)
    assert retry.eligible([A, B], (), 1e9) == []


def test_who_contradicted_and_lied_itself_is_not_forgiven() -> None:
    retry = policy()
    retry.ended(A, end(Contradicted("promises other digests")), 0.0)
    retry.ended(A, corrupt(void=True), 1.0)
    assert retry.eligible([A], (), 1e9) == []


def test_the_next_process_on_the_same_endpoint_is_another_one() -> None:
    retry = policy()
    retry.ended(A, corrupt(void=False), 0.0)
    restarted = Candidate("a:1", BY_MESH, 2)
    assert retry.eligible([restarted], (), 0.0) == [restarted]


def test_a_lost_source_is_asked_again_after_a_growing_backoff_and_then_no_more() -> None:
    retry = policy()
    now = 0.0
    for loss in range(LIMITS.max_losses - 1):
        retry.ended(A, end(LOST), now)
        backoff = LIMITS.backoff_s * 2**loss
        assert retry.eligible([A], (), now + backoff - 0.01) == []
        now += backoff
        assert retry.eligible([A], (), now) == [A]
    retry.ended(A, end(LOST), now)
    assert retry.eligible([A], (), 1e9) == []


def test_a_lost_source_that_delivered_starts_afresh() -> None:
    retry = policy()
    for _ in range(10):
        retry.ended(A, end(LOST, 1000), 0.0)
    assert retry.eligible([A], (), LIMITS.backoff_s) == [A]


def test_listed_sources_keep_the_mesh_out_while_one_can_be_used() -> None:
    retry = policy()
    assert retry.eligible([LISTED, A], (), 0.0) == [LISTED]
    assert retry.eligible([LISTED, A], {"listed:1"}, 0.0) == []
    retry.ended(LISTED, end(LOST), 0.0)
    assert retry.eligible([LISTED, A], (), 0.1) == [A]


def test_a_source_that_was_dropped_may_always_come_back() -> None:
    retry = policy()
    for at in (0.0, 10.0, 20.0, 30.0):
        retry.ended(A, end(Dropped("slow")), at)
        assert retry.eligible([A], (), at + LIMITS.backoff_s / 2) == []
        assert retry.eligible([A], (), at + LIMITS.backoff_s) == [A]


# Which transport carries the bytes


def having(*transports: str) -> Candidate:
    return Candidate("a:1", BY_MESH, 1, transports)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (having("gloo", "fast"), "fast"),
        (having("gloo"), "gloo"),
        (having("unheard-of", "gloo"), "gloo"),
        (Candidate("a:1", "SOURCE"), "fast"),
    ],
    ids=["the best that both have", "the only one", "one of theirs is unknown", "nobody knows"],
)
def test_a_source_is_asked_for_the_best_transport_that_both_have(
    candidate: Candidate, expected: str
) -> None:
    assert policy().transport(candidate) == expected


def test_a_source_is_asked_at_once_for_the_next_transport_without_counting_a_loss() -> None:
    retry, both = policy(), having("fast", "gloo")
    retry.ended(both, end(Unopened("no memory", "fast")), 10.0)
    assert retry.transport(both) == "gloo"
    assert retry.eligible([both], (), 10.0, again=False) == [both]
    for loss in range(LIMITS.max_losses):  # All of them are left.
        assert retry.eligible([both], (), 100.0 * (loss + 1)) == [both]
        retry.ended(both, end(LOST), 100.0 * (loss + 1))
    assert retry.eligible([both], (), 1e9) == []


def test_a_transport_that_failed_with_one_source_is_tried_with_another() -> None:
    retry = policy()
    retry.ended(A, end(Unopened("no memory", "fast")), 10.0)
    assert (retry.transport(A), retry.transport(B)) == ("gloo", "fast")


@pytest.mark.parametrize("candidate", [having("gloo"), having("unheard-of")], ids=repr)
def test_a_source_whose_last_transport_fails_is_lost(candidate: Candidate) -> None:
    retry = policy()
    for loss in range(LIMITS.max_losses + 1):
        now = 100.0 * loss
        for transport in ("fast", "gloo"):
            retry.ended(candidate, end(Unopened("refused", transport)), now)
        assert retry.transport(candidate) == "gloo"
        assert retry.eligible([candidate], (), now) == []
    assert retry.eligible([candidate], (), 1e9) == []
