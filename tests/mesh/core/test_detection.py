"""Probing, triage and judgement, seen from outside: who is thought what, and how soon."""

import pytest

from netmesh.core.events import Dialled, DialOutcome
from netmesh.core.records import MemberId, Status

from .town import Town


def test_a_crash_is_known_to_all_within_a_second() -> None:
    town = Town()
    ids = town.grow(12)
    town.crash(ids[5])
    assert town.until(lambda: town.statuses(ids[5]) == {Status.DEAD}, 1.0)


@pytest.mark.parametrize("count", [2, 3])
def test_in_a_tiny_mesh_one_observer_of_a_crash_is_enough(count: int) -> None:
    town = Town()
    ids = town.grow(count)
    town.crash(ids[1])
    assert town.until(lambda: town.statuses(ids[1]) == {Status.DEAD}, 0.5)


def test_a_crash_that_breaks_no_link_is_found_by_probing() -> None:
    town = Town()
    ids = town.grow(8)
    for member in ids:
        town.world.links.watch(town.process(member), frozenset())
    town.crash(ids[3])
    assert town.until(lambda: town.statuses(ids[3]) == {Status.DEAD}, 3.0)


@pytest.mark.parametrize("seconds", [5, 60, 119])
def test_a_stall_is_shown_within_three_seconds_and_kills_nobody(seconds: int) -> None:
    town = Town(checked=False)
    ids = town.grow(12)
    victim = ids[4]
    died = []
    town.handled = lambda viewer: (
        died.append(viewer) if town.status(viewer, victim) is Status.DEAD else None
    )
    town.stall(victim, seconds)
    assert town.until(lambda: town.statuses(victim) == {Status.STALLED}, 3.0)
    town.run(seconds - 3.5)
    assert town.statuses(victim) == {Status.STALLED}
    assert town.until(lambda: town.statuses(victim) == {Status.ALIVE}, 4.0)
    assert not died
    assert town.converged()


def test_a_stalled_member_is_buried_after_its_patience_is_over() -> None:
    town = Town(checked=False)
    ids = town.grow(6)
    town.stall(ids[2], 600)
    assert town.until(lambda: town.statuses(ids[2]) == {Status.DEAD}, 140)
    assert town.now > 120


def test_who_slept_blames_nobody_after_waking() -> None:
    town = Town(checked=False)
    ids = town.grow(8)
    blamed = []
    town.handled = lambda viewer: blamed.extend(
        v for v in ids if v != ids[0] and town.status(viewer, v) is not Status.ALIVE
    )
    town.stall(ids[0], 30)
    town.run(60)
    assert not blamed


def test_a_dead_host_takes_its_workers_with_it_within_twelve_seconds() -> None:
    town = Town(checked=False)
    ids = town.grow(40, per_host=8)
    gone = ids[16:24]
    assert town.host_down(gone[0]) == gone
    assert town.until(lambda: all(town.statuses(m) == {Status.DEAD} for m in gone), 12.0)
    assert len(town.running()) == 32 and town.converged()


def test_a_member_that_only_one_other_cannot_reach_is_not_accused() -> None:
    town = Town()
    ids = town.grow(8)
    pair = ids[1:3]
    town.cut(pair[:1], pair[1:])
    seen = set()
    town.handled = lambda viewer: seen.update(town.status(viewer, i) for i in pair)
    town.run(20.0)
    assert seen == {Status.ALIVE}


def test_a_false_suspicion_is_refuted_at_once() -> None:
    town = Town()
    ids = town.grow(8)
    victim = ids[3]
    town.cut({victim})
    assert town.until(lambda: Status.SUSPECT in town.statuses(victim), 5.0)
    town.mend()
    assert town.until(lambda: town.statuses(victim) == {Status.ALIVE}, 3.0)
    record = town.engine(ids[0]).record(victim)
    assert record is not None and record.incarnation >= 1


def test_loss_of_one_message_in_twenty_kills_nobody() -> None:
    town = Town(checked=False, loss=0.05)
    ids = town.grow(16, 30)
    dead = []
    town.handled = lambda viewer: dead.extend(
        v for v in ids[:4] if town.status(viewer, v) is Status.DEAD
    )
    town.run(60.0)
    assert not dead


def test_loss_does_not_turn_a_stall_into_a_death() -> None:
    town = Town(checked=False, loss=0.05, seed=5)
    ids = town.grow(24, 30)
    dead = []
    town.handled = lambda viewer: (
        dead.append(viewer) if town.status(viewer, ids[3]) is Status.DEAD else None
    )
    town.stall(ids[3], 100)
    town.run(110.0)
    assert not dead


def test_a_restart_on_the_same_address_replaces_the_old_process() -> None:
    town = Town()
    ids = town.grow(6)
    town.crash(ids[2])
    old = town.engine(ids[2]).generation
    town.run(0.01)
    again = town.start(ids[2], (ids[0],))
    new = town.engine(again).generation
    assert new > old

    def known() -> bool:
        records = [town.engine(v).record(again) for v in town.running()]
        return all(r and r.generation == new and r.status is Status.ALIVE for r in records)

    assert town.until(known, 5.0)
    town.run(5.0)
    assert known()


def test_an_answer_to_a_dial_that_nobody_asked_for_is_ignored() -> None:
    town = Town()
    ids = town.grow(3)
    for outcome in DialOutcome:
        town.give(ids[0], Dialled(ids[1], outcome))
        town.give(ids[0], Dialled(MemberId("10.9.9.9:1"), outcome))
    town.run(2.0)
    assert town.statuses(ids[1]) == {Status.ALIVE}


def test_a_member_without_descriptors_accuses_nobody() -> None:
    """It loses what it sends and cannot connect; the others are well."""
    town = Town()
    ids = town.grow(6)
    town.dial_outcome = DialOutcome.UNKNOWN
    town.cut({ids[1]})
    town.run(8.0)
    assert {town.status(ids[1], other) for other in ids if other != ids[1]} == {Status.ALIVE}
    town.mend()
    town.dial_outcome = None
    assert town.until(town.converged, 30.0)


def test_a_last_look_that_cannot_be_taken_is_taken_again() -> None:
    town = Town()
    ids = town.grow(5)
    town.host_down(ids[2])
    assert town.until(lambda: Status.SUSPECT in town.statuses(ids[2]), 10.0)
    town.dial_outcome = DialOutcome.UNKNOWN
    town.run(30.0)
    assert Status.DEAD not in town.statuses(ids[2])
    town.dial_outcome = None
    assert town.until(lambda: town.statuses(ids[2]) == {Status.DEAD}, 30.0)


def test_the_links_of_four_successors_are_watched() -> None:
    town = Town()
    ids = town.grow(10)
    assert {len(town.process(i).watching) for i in ids} == {4}
    watched = [m for i in ids for m in town.process(i).watching]
    assert all(watched.count(i) == 4 for i in ids)


def test_who_is_heard_but_cannot_be_reached_is_not_buried() -> None:
    town = Town(checked=False)
    ids = town.grow(16, 20)
    deaf = ids[3]
    town.deafen(deaf)
    town.run(20.0)
    assert Status.DEAD not in town.statuses(deaf)
    town.mend()
    assert town.until(town.converged, 20.0)
    assert town.statuses(deaf) == {Status.ALIVE}


def test_a_shell_that_loses_the_answers_of_its_dials_still_buries_in_the_end() -> None:
    town = Town()
    ids = town.grow(5)
    town.dials_answered = False
    town.host_down(ids[2])
    town.run(10.0)
    assert Status.DEAD not in town.statuses(ids[2])
    town.dials_answered = True
    assert town.until(lambda: town.statuses(ids[2]) == {Status.DEAD}, 40.0)


def answer_for(town: Town, prober: MemberId, target: MemberId, by: MemberId) -> None:
    """Everything that `prober` sends to `target` is answered by another member."""
    process = town.process(by)
    town.world.redirected[prober, target] = process


def test_another_member_that_answers_is_told_apart_and_accused_for_once() -> None:
    """The target lives and others reach it, so it refutes, and the accuser keeps quiet a while."""
    town = Town()
    ids = town.grow(6)
    answer_for(town, ids[0], ids[1], ids[2])
    assert town.until(lambda: Status.SUSPECT in town.statuses(ids[1]), 20.0)
    assert town.until(lambda: town.statuses(ids[1]) == {Status.ALIVE}, 20.0)
    before = town.engine(ids[1]).record(ids[1])
    town.run(40.0)
    assert town.statuses(ids[1]) == {Status.ALIVE}
    after = town.engine(ids[1]).record(ids[1])
    assert before is not None and after is not None and after.incarnation == before.incarnation
    assert any(f"{ids[1]} leads to {ids[2]}" in line for line in town.process(ids[0]).logs)
    assert any(f"reaches me as {ids[1]}" in line for line in town.process(ids[2]).logs)
