"""The planner while other replicas pull as well: sources that have some chunks, and gain others."""

from __future__ import annotations

from tests.loader.replica.test_schedule import SETTINGS, SIZE, in_flight_of

from netloader.replica.schedule import Schedule


def swarm_of(name: str, chunks: int = 8) -> Schedule:
    return Schedule([SIZE] * chunks, SIZE, (), SETTINGS, name)


def test_while_others_pull_one_chunk_is_in_flight_from_each_source() -> None:
    schedule = swarm_of("me")
    schedule.join("a", range(8), 0.0)
    schedule.join("b", [1, 2], 0.0)
    assert schedule.pick("a", 0.0) is not None and schedule.pick("a", 0.0) is None
    assert schedule.pick("b", 0.0) in (1, 2) and schedule.pick("b", 0.0) is None


def test_a_fast_source_has_more_in_flight_so_that_its_link_is_never_idle() -> None:
    schedule = swarm_of("me")
    schedule.join("a", range(7), 0.0)
    first = schedule.pick("a", 0.0)
    assert first is not None
    quick = SETTINGS.swarm.ahead_s / 2
    schedule.arrived("a", first, quick)
    assert in_flight_of(schedule, quick) == 3


def test_a_source_is_of_interest_while_it_has_what_is_wanted() -> None:
    schedule = swarm_of("me", 2)
    schedule.join("a", [0], 0.0)
    schedule.join("b", [1], 0.0)
    assert schedule.interested("a") and schedule.pick("a", 0.0) == 0
    assert not schedule.interested("a")
    schedule.leave("a")
    schedule.have("b", [0])
    assert schedule.pick("b", 0.0) == 0
    schedule.arrived("b", 0, 0.1)
    assert schedule.pick("b", 0.1) == 1
    assert schedule.interested("b")  # Nothing is wanted: there is nothing that it lacks.
    schedule.arrived("b", 1, 0.2)
    schedule.invalidate()
    assert schedule.interested("b") and schedule.pick("b", 0.2) is not None
    schedule.check()


def test_the_rarest_chunk_of_a_source_is_asked_for_first() -> None:
    schedule = swarm_of("me")
    schedule.join("a", [1, 2, 3], 0.0)
    schedule.join("b", [1, 2], 0.0)
    assert schedule.pick("a", 0.0) == 3


def test_what_this_host_has_or_gets_is_not_asked_for_over_the_network() -> None:
    schedule = swarm_of("h:1")
    schedule.join("far", [0, 1], 0.0)
    schedule.join("near", [0], 0.0, near="h:2")
    schedule.coming("near", [1], 10.0)
    assert schedule.pick("far", 10.0) is None
    assert schedule.pick("near", 10.0) == 0
    schedule.gone("near", [1])
    late = 10.0 + SETTINGS.swarm.near_s
    assert 1 in (schedule.pick("far", 10.0), schedule.pick("far", late))


def test_a_replica_of_this_host_that_is_slower_than_others_is_not_waited_for() -> None:
    """Its operator may have limited its rate."""
    schedule = swarm_of("h:1", 4)
    schedule.join("far", range(4), 0.0)
    schedule.join("near", [0, 1, 2], 0.0, near="h:2")
    first = schedule.pick("near", 0.0)
    assert first is not None
    assert 3 in (schedule.pick("far", 1.0), schedule.pick("far", 2.0))
    schedule.arrived("far", 3, 3.0)
    assert schedule.pick("far", 3.0) is None
    schedule.arrived("near", first, 50.0)
    assert schedule.pick("far", 50.0) is not None


def test_a_whole_source_of_this_host_is_one_among_others() -> None:
    schedule = swarm_of("h:1", 4)
    schedule.join("far", range(4), 0.0)
    schedule.join("near", range(4), 0.0, near="h:2")
    assert schedule.pick("near", 0.0) is not None
    assert schedule.pick("far", 0.0) is not None


def test_a_slow_source_of_this_host_is_asked_for_what_only_it_may_bring() -> None:
    """Nobody else is asked for that, however much sooner it would be there."""
    schedule = swarm_of("h:1", 4)
    schedule.join("far", range(4), 0.0)
    schedule.join("near", [0, 1], 0.0, near="h:2")
    first = schedule.pick("near", 0.0)
    assert first in (0, 1)
    now = 1.0
    while (chunk := schedule.pick("far", now)) is not None:
        assert chunk > 1
        now += 0.001
        schedule.arrived("far", chunk, now)
    schedule.arrived("near", first, 50.0)
    assert schedule.pick("near", 50.0) == 1 - first


def test_a_source_of_this_host_that_stands_still_is_dropped() -> None:
    schedule = swarm_of("h:1", 2)
    schedule.join("far", range(2), 0.0)
    schedule.join("near", [0], 0.0, near="h:2")
    assert schedule.pick("near", 0.0) == 0
    # It may fall to the other at first.
    assert 1 in (schedule.pick("far", 0.5), schedule.pick("far", 1.0))
    schedule.arrived("far", 1, 1.1)
    assert schedule.snubbed(3.0) == "near"
    assert schedule.leave("near") == (0,)
    assert schedule.pick("far", 3.0) == 0


def test_numbers_that_no_chunk_has_are_ignored() -> None:
    schedule = swarm_of("me", 2)
    schedule.join("a", [0, 7, -1], 0.0)
    schedule.have("a", [2])
    schedule.coming("a", [99], 0.0)
    schedule.gone("a", [-2, 5])
    assert schedule.pick("a", 0.0) == 0
    schedule.check()


def test_a_chunk_larger_than_the_window_is_asked_for_alone() -> None:
    schedule = Schedule([10 * SIZE, SIZE], SIZE, (), SETTINGS, "me")
    schedule.join("a", [0], 0.0)
    assert schedule.pick("a", 0.0) == 0


def test_a_chunk_that_is_withdrawn_is_asked_of_others() -> None:
    schedule = swarm_of("me")
    schedule.join("a", [0], 0.0)
    schedule.join("b", [0], 0.0)
    schedule.gone("a", [0])
    assert not schedule.offers("a", 0)
    assert schedule.pick("a", 0.0) is None
    assert schedule.pick("b", 0.0) == 0


def test_news_of_a_source_that_has_left_is_ignored() -> None:
    schedule = swarm_of("me")
    schedule.join("a", [0], 0.0)
    schedule.leave("a")
    schedule.have("a", [1])
    schedule.coming("a", [2], 0.0)
    schedule.gone("a", [0])
    assert not schedule.offers("a", 1)
    schedule.check()
