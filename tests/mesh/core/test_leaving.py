from netmesh.core.events import Leave, Publish
from netmesh.core.records import Status

from .world import World


def test_a_goodbye_reaches_everybody_and_accuses_nobody() -> None:
    world = World()
    ids = world.grow(20, 20)
    seen = set()
    world.on_handled = lambda viewer, _: seen.add(world.status(viewer, ids[4]))
    world.give(ids[4], Leave())
    assert world.until(lambda: world.processes[ids[4]].departed, 0.5)
    assert world.until(lambda: world.statuses(ids[4]) == {Status.LEFT}, 2.0)
    assert seen <= {Status.ALIVE, Status.LEFT}
    assert world.until(world.converged, 5.0)


def test_leaving_alone_takes_no_longer() -> None:
    world = World()
    a = world.start("10.0.0.1:1")
    world.give(a, Leave())
    assert world.until(lambda: world.processes[a].departed, 0.5)


def test_after_departing_nothing_happens_any_more() -> None:
    world = World()
    ids = world.grow(2)
    world.give(ids[0], Leave())
    world.run(1.0)
    engine = world.engine(ids[0])
    assert engine.handle(Publish({"x": 1}), world.now) == []
    assert engine.deadline() == float("inf")


def test_who_left_may_come_back_as_a_new_process() -> None:
    world = World()
    ids = world.grow(4)
    world.give(ids[2], Leave())
    world.run(2.0)
    world.start(ids[2], (ids[0],))
    assert world.until(lambda: world.statuses(ids[2]) == {Status.ALIVE}, 3.0)
