from __future__ import annotations

from netloader.discovery.candidate import BY_MESH, Candidate
from netloader.errors import (
    DigestMismatch,
    LetGo,
    OtherPromise,
    Refused,
    SourceLost,
    TransferError,
)
from netloader.replica.retry import LOST_PAUSE_S, MAX_LOSSES, MIN_PAUSE_S, Prospects

LISTED = Candidate("listed:1", "SOURCE")
A, B = Candidate("a:1", BY_MESH, 1), Candidate("b:1", BY_MESH, 1)


def lost() -> SourceLost:
    return SourceLost("a:1", "cut")


def test_everybody_may_be_tried_once_in_the_order_given() -> None:
    assert Prospects().usable([B, A], (), 0.0) == [B, A]


def test_an_endpoint_in_use_is_not_tried_a_second_time() -> None:
    assert Prospects().usable([A, B], {"a:1"}, 0.0) == [B]


def test_a_busy_source_is_tried_when_it_said() -> None:
    prospects = Prospects()
    prospects.ended(A, Refused("a:1", "busy", 2.0), 0, 10.0)
    assert prospects.usable([A], (), 11.9) == []
    assert prospects.usable([A], (), 12.0) == [A]


def test_a_busy_source_is_not_asked_again_at_once_whatever_it_said() -> None:
    prospects = Prospects()
    prospects.ended(A, Refused("a:1", "busy", 0.0), 0, 10.0)
    assert prospects.usable([A], (), 10.0) == []
    assert prospects.usable([A], (), 10.0 + MIN_PAUSE_S) == [A]


def test_only_those_who_were_never_tried_when_it_is_late() -> None:
    prospects = Prospects()
    prospects.ended(A, Refused("a:1", "busy", 1.0), 0, 10.0)
    assert prospects.usable([A, B], (), 12.0, again=False) == [B]
    assert prospects.usable([A, B], (), 12.0) == [A, B]


def test_who_contradicted_a_liar_is_tried_again() -> None:
    prospects = Prospects()
    prospects.ended(B, OtherPromise("b:1", "promises other digests"), 0, 0.0)
    assert prospects.usable([A, B], (), 1e9) == [A]
    prospects.ended(A, DigestMismatch("a:1", 1, "x", "y"), 100, 1.0)
    prospects.promise_broken()
    assert prospects.usable([A, B], (), 1.0) == [B]


def test_a_refusal_without_a_time_is_final() -> None:
    prospects = Prospects()
    prospects.ended(A, Refused("a:1", "another identity", None), 0, 0.0)
    assert prospects.usable([A], (), 1e9) == []


def test_a_liar_is_never_tried_again() -> None:
    prospects = Prospects()
    prospects.ended(A, DigestMismatch("a:1", 1, "x", "y"), 100, 0.0)
    prospects.ended(B, TransferError("b:1", "promises other digests"), 0, 0.0)
    assert prospects.usable([A, B], (), 1e9) == []


def test_the_next_process_on_the_same_endpoint_is_another_one() -> None:
    prospects = Prospects()
    prospects.ended(A, DigestMismatch("a:1", 1, "x", "y"), 100, 0.0)
    restarted = Candidate("a:1", BY_MESH, 2)
    assert prospects.usable([restarted], (), 0.0) == [restarted]


def test_a_lost_source_is_tried_again_after_a_pause_and_then_no_more() -> None:
    prospects = Prospects()
    now = 0.0
    for loss in range(MAX_LOSSES - 1):
        prospects.ended(A, lost(), 0, now)
        pause = LOST_PAUSE_S * 2**loss
        assert prospects.usable([A], (), now + pause - 0.01) == []
        now += pause
        assert prospects.usable([A], (), now) == [A]
    prospects.ended(A, lost(), 0, now)
    assert prospects.usable([A], (), 1e9) == []


def test_a_lost_source_that_delivered_starts_afresh() -> None:
    prospects = Prospects()
    for _ in range(10):
        prospects.ended(A, lost(), 1000, 0.0)
    assert prospects.usable([A], (), LOST_PAUSE_S) == [A]


def test_listed_sources_keep_the_mesh_out_while_one_can_be_used() -> None:
    prospects = Prospects()
    assert prospects.usable([LISTED, A], (), 0.0) == [LISTED]
    assert prospects.usable([LISTED, A], {"listed:1"}, 0.0) == []
    prospects.ended(LISTED, SourceLost("listed:1", "dead"), 0, 0.0)
    assert prospects.usable([LISTED, A], (), 0.1) == [A]


def test_a_source_that_was_let_go_may_always_come_back() -> None:
    prospects = Prospects()
    for at in (0.0, 10.0, 20.0, 30.0):
        prospects.ended(A, LetGo("a:1", "slow"), 0, at)
        assert prospects.usable([A], (), at + LOST_PAUSE_S / 2) == []
        assert prospects.usable([A], (), at + LOST_PAUSE_S) == [A]
