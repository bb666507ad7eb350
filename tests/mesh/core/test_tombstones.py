from dataclasses import replace

from netmesh.core.records import Status
from netmesh.core.settings import ProtocolSettings

from .world import World


def test_the_dead_are_shown_for_ten_minutes_and_remembered_for_longer() -> None:
    world = World(checked=False)
    ids = world.grow(3)
    world.crash(ids[2])
    world.run(500.0)
    assert ids[2] in {m.id for m in world.engine(ids[0]).members()}
    revision = world.engine(ids[0]).revision
    world.run(150.0)
    assert ids[2] not in {m.id for m in world.engine(ids[0]).members()}
    assert world.engine(ids[0]).revision > revision
    assert world.status(ids[0], ids[2]) is Status.DEAD


def test_the_dead_are_forgotten_in_the_end() -> None:
    world = World(settings=replace(ProtocolSettings(), tombstone_s=60.0), checked=False)
    ids = world.grow(3)
    world.crash(ids[2])
    world.run(100.0)
    assert world.status(ids[0], ids[2]) is None


def test_tombstones_are_bounded() -> None:
    world = World(settings=replace(ProtocolSettings(), tombstone_limit=3))
    ids = world.grow(10)
    for member in ids[4:]:
        world.crash(member)
        world.run(3.0)
    statuses = [world.status(ids[0], m) for m in ids[4:]]
    assert statuses.count(Status.DEAD) == 3 and statuses.count(None) == 3


def test_a_member_that_was_buried_alive_hears_of_it_and_comes_back() -> None:
    world = World(checked=False)
    ids = world.grow(6)
    world.blocked = lambda a, b: ids[1] in (a, b)
    assert world.until(lambda: world.statuses(ids[1]) >= {Status.DEAD}, 60.0)
    world.run(60.0)
    world.blocked = lambda a, b: False
    assert world.until(world.converged, 30.0)
