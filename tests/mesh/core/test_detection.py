"""Probing, triage and judgement, seen from outside: who is thought what, and how soon."""

import pytest

from netmesh.core.events import Dialled, DialOutcome
from netmesh.core.records import MemberId, Status

from .world import World


def test_a_crash_is_known_to_all_within_a_second() -> None:
    world = World()
    ids = world.grow(12)
    world.crash(ids[5])
    assert world.until(lambda: world.statuses(ids[5]) == {Status.DEAD}, 1.0)


@pytest.mark.parametrize("count", [2, 3])
def test_in_a_tiny_mesh_one_observer_of_a_crash_is_enough(count: int) -> None:
    world = World()
    ids = world.grow(count)
    world.crash(ids[1])
    assert world.until(lambda: world.statuses(ids[1]) == {Status.DEAD}, 0.5)


def test_a_crash_that_breaks_no_link_is_found_by_probing() -> None:
    world = World()
    ids = world.grow(8)
    for process in world.processes.values():
        process.watching = frozenset()
    world.crash(ids[3])
    assert world.until(lambda: world.statuses(ids[3]) == {Status.DEAD}, 3.0)


@pytest.mark.parametrize("seconds", [5, 60, 119])
def test_a_stall_is_shown_within_three_seconds_and_kills_nobody(seconds: int) -> None:
    world = World(checked=False)
    ids = world.grow(12)
    victim = ids[4]
    died = []
    world.on_handled = lambda viewer, _: (
        died.append(viewer) if world.status(viewer, victim) is Status.DEAD else None
    )
    world.stall(victim, seconds)
    assert world.until(lambda: world.statuses(victim) == {Status.STALLED}, 3.0)
    world.run(seconds - 3.5)
    assert world.statuses(victim) == {Status.STALLED}
    assert world.until(lambda: world.statuses(victim) == {Status.ALIVE}, 4.0)
    assert not died
    assert world.converged()


def test_a_stalled_member_is_buried_after_its_patience_is_over() -> None:
    world = World(checked=False)
    ids = world.grow(6)
    world.stall(ids[2], 600)
    assert world.until(lambda: world.statuses(ids[2]) == {Status.DEAD}, 140)
    assert world.now > 120


def test_who_slept_blames_nobody_after_waking() -> None:
    world = World(checked=False)
    ids = world.grow(8)
    blamed = []
    world.on_handled = lambda viewer, _: blamed.extend(
        v for v in ids if v != ids[0] and world.status(viewer, v) is not Status.ALIVE
    )
    world.stall(ids[0], 30)
    world.run(60)
    assert not blamed


def test_a_dead_host_takes_its_workers_with_it_within_twelve_seconds() -> None:
    world = World(checked=False)
    ids = world.grow(40, per_host=8)
    gone = ids[16:24]
    for member in gone:
        world.host_down(member)
    assert world.until(lambda: all(world.statuses(m) == {Status.DEAD} for m in gone), 12.0)
    assert len(world.running()) == 32 and world.converged()


def test_a_member_that_only_one_other_cannot_reach_is_not_accused() -> None:
    world = World()
    ids = world.grow(8)
    pair = {ids[1], ids[2]}
    world.blocked = lambda a, b: {a, b} == pair
    seen = set()
    world.on_handled = lambda viewer, _: seen.update(world.status(viewer, i) for i in pair)
    world.run(20.0)
    assert seen == {Status.ALIVE}


def test_a_false_suspicion_is_refuted_at_once() -> None:
    world = World()
    ids = world.grow(8)
    victim = ids[3]
    world.blocked = lambda a, b: victim in (a, b)
    assert world.until(lambda: Status.SUSPECT in world.statuses(victim), 5.0)
    world.blocked = lambda a, b: False
    assert world.until(lambda: world.statuses(victim) == {Status.ALIVE}, 3.0)
    record = world.engine(ids[0]).record(victim)
    assert record is not None and record.incarnation >= 1


def test_loss_of_one_message_in_twenty_kills_nobody() -> None:
    world = World(checked=False, loss=0.05)
    ids = world.grow(16, 30)
    dead = []
    world.on_handled = lambda viewer, _: dead.extend(
        v for v in ids[:4] if world.status(viewer, v) is Status.DEAD
    )
    world.run(60.0)
    assert not dead


def test_loss_does_not_turn_a_stall_into_a_death() -> None:
    world = World(checked=False, loss=0.05, seed=5)
    ids = world.grow(24, 30)
    dead = []
    world.on_handled = lambda viewer, _: (
        dead.append(viewer) if world.status(viewer, ids[3]) is Status.DEAD else None
    )
    world.stall(ids[3], 100)
    world.run(110.0)
    assert not dead


def test_a_restart_on_the_same_address_replaces_the_old_process() -> None:
    world = World()
    ids = world.grow(6)
    world.crash(ids[2])
    old = world.engine(ids[2]).generation
    world.run(0.01)
    again = world.start(ids[2], (ids[0],))
    new = world.engine(again).generation
    assert new > old

    def known() -> bool:
        records = [world.engine(v).record(again) for v in world.running()]
        return all(r and r.generation == new and r.status is Status.ALIVE for r in records)

    assert world.until(known, 5.0)
    world.run(5.0)
    assert known()


def test_an_answer_to_a_dial_that_nobody_asked_for_is_ignored() -> None:
    world = World()
    ids = world.grow(3)
    for outcome in DialOutcome:
        world.give(ids[0], Dialled(ids[1], outcome))
        world.give(ids[0], Dialled(MemberId("10.9.9.9:1"), outcome))
    world.run(2.0)
    assert world.statuses(ids[1]) == {Status.ALIVE}


def test_the_links_of_four_successors_are_watched() -> None:
    world = World()
    ids = world.grow(10)
    assert {len(world.processes[i].watching) for i in ids} == {4}
    watched = [m for i in ids for m in world.processes[i].watching]
    assert all(watched.count(i) == 4 for i in ids)


def test_who_is_heard_but_cannot_be_reached_is_not_buried() -> None:
    world = World(checked=False)
    ids = world.grow(16, 20)
    deaf = ids[3]
    world.blocked = lambda a, b: b == deaf
    world.run(20.0)
    assert Status.DEAD not in world.statuses(deaf)
    world.blocked = lambda a, b: False
    assert world.until(world.converged, 20.0)
    assert world.statuses(deaf) == {Status.ALIVE}


def test_a_shell_that_loses_the_answers_of_its_dials_still_buries_in_the_end() -> None:
    world = World()
    ids = world.grow(5)
    world.dials_answered = False
    world.host_down(ids[2])
    world.run(10.0)
    assert Status.DEAD not in world.statuses(ids[2])
    world.dials_answered = True
    assert world.until(lambda: world.statuses(ids[2]) == {Status.DEAD}, 40.0)
