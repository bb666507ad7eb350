"""The planner alone, with sources that exist as a rate in bytes per second."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netloader.replica.schedule import Schedule
from netloader.replica.settings import PullSettings

SETTINGS = PullSettings()
WINDOW = SETTINGS.window

MIB = 1 << 20
SIZE = 32 * MIB


def schedule_of(chunks: int, size: int = SIZE, staged: range = range(0)) -> Schedule:
    return Schedule([size] * chunks, size, staged, SETTINGS)


TIMEOUT_S = 30.0
"""After which a pull gives up a source that is silent."""

REJOIN_S = 1.0
"""After which a pull asks a source again that it has dropped."""


@dataclass
class World:
    """Sources that deliver one chunk after the other, each at its rate.

    As in a pull, one that has stalled is dropped after a timeout, and one that was dropped comes
    back, unless it has died or stalled.
    """

    schedule: Schedule
    rates: dict[str, float]
    chunks: int
    dies: dict[str, float] = field(default_factory=dict)
    stalls: dict[str, float] = field(default_factory=dict)
    joins: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    delivered: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def run(self, size: int = SIZE, tick: float = 0.02) -> float:
        """Returns when the last chunk arrived."""
        queues: dict[str, list[int]] = {}
        busy_until: dict[str, float] = {}
        events: list[float] = sorted(
            {*self.dies.values(), *self.joins.values(), *self.stalls.values()}
        )
        waiting_to_join = {name: self.joins.get(name, 0.0) for name in self.rates}
        while not self.schedule.complete:
            for name in [n for n, at in waiting_to_join.items() if at <= self.now]:
                del waiting_to_join[name]
                self.schedule.join(name, range(self.chunks), self.now)
                queues[name] = []
            for name in [n for n in queues if self._gone(n)]:
                self._drop(name, queues, busy_until)
            for name, queue in queues.items():
                while (chunk := self.schedule.pick(name, self.now)) is not None:
                    queue.append(chunk)
                if queue and name not in busy_until:
                    busy_until[name] = self._done_at(name, size)
            slow = self.schedule.snubbed(self.now)
            if slow is not None:
                self.dropped.append(slow)
                self._drop(slow, queues, busy_until)
                if min(self.dies.get(slow, 1e9), self.stalls.get(slow, 1e9)) > self.now:
                    waiting_to_join[slow] = self.now + REJOIN_S
            self.schedule.check()
            following = [
                self.now + tick,
                *busy_until.values(),
                *(e for e in events if e > self.now),
            ]
            self.now = min(following)
            assert self.now < 10_000, "the pull does not end"
            for name in [n for n, at in busy_until.items() if at <= self.now]:
                chunk = queues[name].pop(0)
                self.delivered.append((name, chunk))
                self.schedule.arrived(name, chunk, self.now)
                del busy_until[name]
                if queues[name]:
                    busy_until[name] = self._done_at(name, size)
        return self.now

    def _gone(self, name: str) -> bool:
        silent_since = max(self.stalls.get(name, 1e9), self.joins.get(name, 0.0))
        return min(self.dies.get(name, 1e9), silent_since + TIMEOUT_S) <= self.now

    def _done_at(self, name: str, size: int) -> float:
        done = self.now + size / self.rates[name]
        return 1e9 if done > self.stalls.get(name, 1e9) else done

    def _drop(self, name: str, queues: dict[str, list[int]], busy_until: dict[str, float]) -> None:
        lost = self.schedule.leave(name)
        assert sorted(lost) == sorted(queues.pop(name))
        busy_until.pop(name, None)


def pull(chunks: int, rates: dict[str, float], **faults: dict[str, float]) -> World:
    world = World(schedule_of(chunks), rates, chunks, **faults)
    world.run()
    return world


def test_one_source_is_asked_for_everything_in_order() -> None:
    world = pull(20, {"a": 1e9})
    assert [chunk for _, chunk in world.delivered] == list(range(20))


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_equal_sources_share_equally(count: int) -> None:
    chunks = 48
    world = pull(chunks, {str(n): 50e6 for n in range(count)})
    ideal = chunks * SIZE / (count * 50e6)
    assert world.now == pytest.approx(ideal, rel=0.01)


@pytest.mark.parametrize(
    "rates",
    [
        {"a": 100e6, "b": 10e6},
        {"a": 1000e6, "b": 30e6, "c": 10e6},
        {"a": 200e6, "b": 100e6, "c": 50e6, "d": 3e6},
    ],
    ids=["tenth", "two slow", "mixed"],
)
def test_the_slowest_source_does_not_decide_the_finish(rates: dict[str, float]) -> None:
    chunks = 64
    world = pull(chunks, rates)
    ideal = chunks * SIZE / sum(rates.values())
    # The best that whole chunks allow is the ideal plus about one chunk of the fastest source.
    assert world.now <= ideal + 2 * SIZE / max(rates.values()) + 0.1


def test_a_source_that_stalls_costs_no_more_than_its_window() -> None:
    chunks, rate = 40, 100e6
    world = pull(chunks, {"a": rate, "b": rate}, stalls={"b": 2.0})
    assert "b" in world.dropped
    alone_after = 2.0 + (chunks * SIZE - 2 * rate * 2.0) / rate
    assert world.now <= alone_after + WINDOW.min_chunks * SIZE / rate + 1.0


def test_a_dead_source_loses_only_unfinished_chunks() -> None:
    world = pull(40, {"a": 100e6, "b": 100e6}, dies={"b": 3.0})
    chunks = [chunk for _, chunk in world.delivered]
    assert sorted(chunks) == list(range(40))
    assert any(name == "b" for name, _ in world.delivered)


def test_a_source_that_joins_in_the_middle_helps() -> None:
    alone = pull(40, {"a": 100e6}).now
    helped = pull(40, {"a": 100e6, "b": 100e6}, joins={"b": alone / 2}).now
    assert helped == pytest.approx(alone * 0.75, rel=0.05)


def test_equal_sources_are_never_dropped() -> None:
    assert pull(37, {"a": 90e6, "b": 100e6, "c": 95e6}).dropped == []


def in_flight_of(schedule: Schedule, at: float) -> int:
    """Chunks given to `a` at once."""
    count = 0
    while schedule.pick("a", at) is not None:
        count += 1
    return count


def test_a_source_that_has_proved_nothing_gets_a_small_window() -> None:
    schedule = schedule_of(20, MIB)
    schedule.join("a", range(20), 0.0)
    assert in_flight_of(schedule, 0.0) == WINDOW.first_chunks
    schedule.arrived("a", 0, 10.0)
    assert in_flight_of(schedule, 10.0) == WINDOW.min_chunks - WINDOW.first_chunks + 1


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (10e6, WINDOW.min_chunks * SIZE),
        (2e9, WINDOW.seconds * 2e9),
        (1e12, WINDOW.max_chunks * SIZE),
    ],
    ids=["slow", "fast", "faster than anything"],
)
def test_a_window_is_what_a_source_delivers_in_a_moment(rate: float, expected: float) -> None:
    schedule = schedule_of(100)
    schedule.join("a", range(100), 0.0)
    assert schedule.pick("a", 0.0) == 0
    now = SIZE / rate
    schedule.arrived("a", 0, now)
    assert schedule.window("a") == pytest.approx(expected)
    assert in_flight_of(schedule, now) == expected // SIZE


def test_a_clock_that_stands_still_bounds_the_window_too() -> None:
    schedule = schedule_of(100)
    schedule.join("a", range(100), 5.0)
    assert schedule.pick("a", 5.0) == 0
    schedule.arrived("a", 0, 5.0)
    assert in_flight_of(schedule, 5.0) == WINDOW.max_chunks


def test_a_source_is_asked_only_for_what_it_has() -> None:
    schedule = schedule_of(4)
    schedule.join("a", [2], 0.0)
    assert schedule.pick("a", 0.0) == 2
    assert schedule.pick("a", 0.0) is None
    schedule.have("a", [0])
    schedule.arrived("a", 2, 0.1)
    assert schedule.pick("a", 0.1) == 0
    schedule.arrived("a", 0, 0.2)
    assert schedule.pick("a", 0.2) is None


def test_a_chunk_that_only_a_slow_source_has_is_asked_of_it() -> None:
    schedule = schedule_of(3)
    schedule.join("slow", [0, 1, 2], 0.0)
    schedule.join("fast", [1], 0.0)
    assert schedule.pick("slow", 0.0) == 0
    assert schedule.pick("fast", 0.0) == 1
    schedule.arrived("fast", 1, 0.01)
    schedule.arrived("slow", 0, 100.0)
    assert schedule.pick("fast", 100.0) is None
    assert schedule.pick("slow", 100.0) == 2
    assert schedule.snubbed(1000.0) is None


def test_what_was_left_unfinished_is_given_out_first() -> None:
    schedule = schedule_of(10)
    for name in "ab":
        schedule.join(name, range(10), 0.0)
    assert [schedule.pick("a", 0.0), schedule.pick("a", 0.0)] == [0, 1]
    assert schedule.leave("a") == (0, 1)
    assert schedule.pick("b", 0.0) == 0
    assert schedule.leave("a") == ()


def test_staging_memory_is_bounded_over_all_sources() -> None:
    chunks = 200
    schedule = schedule_of(chunks, staged=range(chunks))
    taken = 0
    for number in range(60):
        schedule.join(str(number), range(chunks), 0.0)
        while schedule.pick(str(number), 0.0) is not None:
            taken += 1
    assert taken * SIZE <= WINDOW.staging_bytes


def test_staging_memory_is_shared_by_the_sources() -> None:
    """Else the first to come would hold all of it for ever, and could stall with it."""
    chunks, places = 200, WINDOW.staging_bytes // SIZE
    schedule = schedule_of(chunks, staged=range(chunks))
    schedule.join("first", range(chunks), 0.0)
    in_flight: list[int] = []

    def fill() -> int:
        while (chunk := schedule.pick("first", 0.001)) is not None:
            in_flight.append(chunk)
        return len(in_flight)

    fill()
    schedule.arrived(
        "first", in_flight.pop(0), 0.001
    )  # It is fast: its window is as large as can be.
    assert fill() == places
    schedule.join("second", range(chunks), 0.001)
    assert schedule.pick("second", 0.001) is None
    assert schedule.snubbed(0.01) is None
    assert schedule.snubbed(3.0) == "first"
    for _ in range(places):
        schedule.arrived("first", in_flight.pop(0), 0.002)
        assert fill() <= max(len(in_flight), places // 2)
    assert len(in_flight) == places // 2
    assert schedule.pick("second", 0.002) is not None


def test_a_source_that_stalls_is_replaced_by_one_that_has_shown_nothing_yet() -> None:
    schedule = schedule_of(3)
    schedule.join("stalled", range(3), 0.0)
    while schedule.pick("stalled", 0.0) is not None:
        pass
    schedule.arrived("stalled", 0, 0.1)
    schedule.join("other", range(3), 0.1)
    assert schedule.pick("other", 0.1) is None
    assert schedule.snubbed(0.2) is None
    assert schedule.snubbed(0.7) == "stalled"


def test_nobody_has_shown_anything_and_each_gets_twice_the_time_of_the_one_before() -> None:
    """A slow source and another as slow must not take each other's chunks for ever."""
    schedule = schedule_of(3)
    now, waits = 0.0, []
    busy, idle = "a", "b"
    for name in (busy, idle):
        schedule.join(name, range(3), now)
    for _ in range(5):
        while schedule.pick(busy, now) is not None:
            pass
        began = now
        while schedule.snubbed(now) is None:
            now += 0.01
        waits.append(now - began)
        schedule.leave(busy)
        schedule.join(busy, range(3), now)
        busy, idle = idle, busy
    assert waits == pytest.approx([1, 2, 4, 8, 16], abs=0.1)


def test_invalidated_chunks_are_fetched_again() -> None:
    schedule = schedule_of(2)
    schedule.join("a", range(2), 0.0)
    for chunk in (schedule.pick("a", 0.0), schedule.pick("a", 0.0)):
        assert chunk is not None
        schedule.arrived("a", chunk, 1.0)
    assert schedule.complete
    schedule.invalidate()
    assert not schedule.complete
    assert schedule.pick("a", 1.0) == 0
    schedule.check()


def test_a_model_without_chunks_is_complete() -> None:
    assert schedule_of(0).complete


@settings(max_examples=200, deadline=None)
@given(
    rates=st.lists(st.floats(1e6, 5e9), min_size=1, max_size=6),
    chunks=st.integers(0, 60),
    seed=st.integers(0, 1 << 30),
)
def test_every_chunk_arrives_once_whatever_happens(
    rates: list[float], chunks: int, seed: int
) -> None:
    """Sources die, stall and join at random; one of them, the first, does not."""
    rng = random.Random(seed)
    names = {str(number): rate for number, rate in enumerate(rates)}
    span = chunks * SIZE / sum(rates) + 0.01
    others = list(names)[1:]
    world = World(
        schedule_of(chunks),
        names,
        chunks,
        dies={name: rng.uniform(0, span) for name in others if rng.random() < 0.4},
        stalls={name: rng.uniform(0, span) for name in others if rng.random() < 0.4},
        joins={name: rng.uniform(0, span) for name in others if rng.random() < 0.4},
    )
    world.run(tick=max(0.02, span / 200))
    assert sorted(chunk for _, chunk in world.delivered) == list(range(chunks))
