"""What is sent next, how much may be asked for, and which time counts as idle."""

from __future__ import annotations

import threading

import pytest
from tests.fastest import HANG_S

from netloader.source.request_queue import RequestQueue


class StillClock:
    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


def test_chunks_are_taken_in_the_order_they_were_asked_for() -> None:
    queue = RequestQueue(10, 4)
    assert queue.add([3, 1]) is None
    assert queue.add([2]) is None
    assert [queue.take(0.0) for _ in range(3)] == [3, 1, 2]


def test_nothing_asked_for_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        RequestQueue(10, 4).take(0.0)


def test_request_of_another_thread_ends_the_waiting() -> None:
    queue = RequestQueue(10, 4)
    threading.Timer(0.01, queue.add, [[5]]).start()
    assert queue.take(5.0) == 5


def test_closing_ends_the_waiting_whatever_is_queued() -> None:
    queue = RequestQueue(10, 4)
    threading.Timer(0.01, queue.close).start()
    assert queue.take(5.0) is None
    assert queue.add([1]) is None
    assert queue.take(5.0) is None


def test_chunk_that_does_not_exist_is_refused_and_nothing_queued() -> None:
    queue = RequestQueue(10, 4)
    assert queue.add([1, 10]) == "there are only 10 chunks"
    with pytest.raises(TimeoutError):
        queue.take(0.0)


def test_requests_are_limited_however_they_are_spread() -> None:
    queue = RequestQueue(10, 4)
    for _ in range(4 * 10 + 64):
        assert queue.add([0]) is None
    assert queue.add([]) is None
    assert queue.add([0]) == "asked for each chunk more than 4 times"


def test_time_until_the_first_chunk_is_taken_is_idle() -> None:
    clock = StillClock()
    queue = RequestQueue(10, 4, clock)
    clock.now += 2
    assert queue.idle_s == 2
    queue.add([0])
    queue.take(1.0)
    clock.now += 7
    assert queue.idle_s == 2


def test_looking_for_a_request_while_sends_are_under_way_is_not_idle() -> None:
    clock = StillClock()
    queue = RequestQueue(10, 4, clock)
    queue.add([0])
    queue.take(1.0)
    with pytest.raises(TimeoutError):
        queue.take(0.0)
    clock.now += 3
    assert queue.idle_s == 0


def test_waiting_for_a_request_is_idle_until_it_comes() -> None:
    clock = StillClock()
    queue = RequestQueue(10, 4, clock)
    queue.add([0])
    queue.take(1.0)
    with pytest.raises(TimeoutError):
        queue.take(0.001)
    clock.now += 3
    assert queue.idle_s == 3
    queue.add([0])
    queue.take(1.0)
    clock.now += 3
    assert queue.idle_s == 3


class TestHeld:
    def test_nothing_is_handed_out_and_what_is_asked_for_waits(self) -> None:
        queue = RequestQueue(10, 4)
        queue.add([1])
        queue.hold()
        assert queue.add([2]) is None
        with pytest.raises(TimeoutError, match="nothing could be sent"):
            queue.take(0.001)
        queue.release()
        assert (queue.take(0.0), queue.take(0.0)) == (1, 2)

    def test_who_waits_for_requests_gets_none_that_come_while_it_is_held(self) -> None:
        queue = RequestQueue(10, 4)
        taken: list[int | None] = []
        waiting = threading.Thread(target=lambda: taken.append(queue.take(HANG_S)))
        waiting.start()
        queue.hold()
        queue.add([5])
        assert queue.wait_resting(0.0)
        assert taken == []
        queue.release()
        waiting.join(HANG_S)
        assert taken == [5]

    def test_it_rests_when_nothing_was_handed_out_yet(self) -> None:
        queue = RequestQueue(10, 4)
        queue.hold()
        assert queue.wait_resting(0.0)

    def test_it_rests_only_when_all_that_was_handed_out_is_put_away(self) -> None:
        queue = RequestQueue(10, 4)
        queue.add([1])
        queue.take(1.0)
        queue.hold()
        with pytest.raises(TimeoutError):
            queue.take(0.0)  # Its sends are still under way.
        assert not queue.wait_resting(0.0)
        with pytest.raises(TimeoutError):
            queue.take(0.001)
        assert queue.wait_resting(0.0)

    def test_the_end_is_no_rest_while_a_chunk_is_read(self) -> None:
        queue = RequestQueue(10, 4)
        queue.add([1])
        queue.take(1.0)
        queue.close()
        assert not queue.wait_resting(HANG_S)

    def test_closing_ends_the_waiting(self) -> None:
        queue = RequestQueue(10, 4)
        queue.hold()
        threading.Timer(0.01, queue.close).start()
        assert queue.take(HANG_S) is None

    def test_the_time_is_not_idle(self) -> None:
        clock = StillClock()
        queue = RequestQueue(10, 4, clock)
        clock.now += 2
        queue.hold()
        clock.now += 5
        assert queue.idle_s == 2
        queue.release()
        clock.now += 1
        assert queue.idle_s == 3

    def test_a_release_begins_the_time_for_requests_anew(self) -> None:
        queue = RequestQueue(10, 4)
        queue.hold()
        outcome: list[str] = []

        def take() -> None:
            try:
                queue.take(0.05)
            except TimeoutError as error:
                outcome.append(str(error))

        waiting = threading.Thread(target=take)
        waiting.start()
        queue.release()
        waiting.join(HANG_S)
        assert outcome == ["nothing asked for in 0.05 s"]
