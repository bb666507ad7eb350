from dataclasses import replace

from netmesh.core.records import Record, Status
from netsim.process import Process
from netsim.witness import Watchpoint
from netsim.world import World

from .scripted import A, B, C, script, world_of


def view(world: World, observer: Process, old: Record, **change: object) -> Record:
    new = replace(old, **change)  # type: ignore[arg-type]
    script(observer).changed(old, new)
    return new


def test_a_death_of_the_living_is_false_and_of_the_dead_is_not() -> None:
    world, (a, b, c) = world_of(A, B, C)
    world.crash(c)
    view(world, a, script(c).me, status=Status.DEAD)
    assert (world.witness.deaths, world.witness.false_deaths) == (1, 0)
    view(world, a, script(b).me, status=Status.DEAD)
    assert (world.witness.deaths, world.witness.false_deaths) == (2, 1)
    assert world.witness.problems == []


def test_who_repeats_a_verdict_inherits_whether_it_was_right() -> None:
    world, (a, b, c) = world_of(A, B, C)
    world.witness.excused = lambda observer, subject: observer is a
    view(world, a, script(c).me, status=Status.DEAD)
    view(world, b, script(c).me, status=Status.DEAD)
    assert world.witness.false_deaths == 0


def test_an_incarnation_that_falls_is_a_problem() -> None:
    world, (a, b) = world_of(A, B)
    script(b).me = replace(script(b).me, incarnation=3)
    view(world, a, script(b).me, incarnation=2)
    assert "fell" in world.witness.problems[0]


def test_an_incarnation_that_its_member_never_had_is_a_problem() -> None:
    world, (a, b) = world_of(A, B)
    view(world, a, script(b).me, incarnation=1)
    assert "never had" in world.witness.problems[0]


def test_nobody_else_says_that_a_member_left() -> None:
    world, (a, b) = world_of(A, B)
    view(world, a, script(b).me, status=Status.LEFT)
    assert "left" in world.witness.problems[0]


def test_a_watchpoint_forgets_what_was_taken_back_unless_told_otherwise() -> None:
    world, (a, b) = world_of(A, B)
    for sticky, reached in ((False, 0), (True, 1)):
        point = Watchpoint(B, world.now, lambda r: r.status is Status.SUSPECT, sticky)
        world.witness.watch(point)
        suspect = view(world, a, script(b).me, status=Status.SUSPECT)
        view(world, a, suspect, status=Status.STALLED)
        assert len(point.reached) == reached
