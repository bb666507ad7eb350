from dataclasses import replace

from netmesh.core.records import Status
from netmesh.core.settings import ProtocolSettings

from .town import Town


def test_the_dead_are_shown_for_ten_minutes_and_remembered_for_longer() -> None:
    town = Town(checked=False)
    ids = town.grow(3)
    town.crash(ids[2])
    town.run(500.0)
    assert ids[2] in {m.id for m in town.engine(ids[0]).members()}
    revision = town.engine(ids[0]).revision
    town.run(150.0)
    assert ids[2] not in {m.id for m in town.engine(ids[0]).members()}
    assert town.engine(ids[0]).revision > revision
    assert town.status(ids[0], ids[2]) is Status.DEAD


def test_the_dead_are_forgotten_in_the_end() -> None:
    town = Town(settings=replace(ProtocolSettings(), tombstone_s=60.0), checked=False)
    ids = town.grow(3)
    town.crash(ids[2])
    town.run(100.0)
    assert town.status(ids[0], ids[2]) is None


def test_tombstones_are_bounded() -> None:
    town = Town(settings=replace(ProtocolSettings(), tombstone_limit=3))
    ids = town.grow(10)
    for member in ids[4:]:
        town.crash(member)
        town.run(3.0)
    statuses = [town.status(ids[0], m) for m in ids[4:]]
    assert statuses.count(Status.DEAD) == 3 and statuses.count(None) == 3


def test_a_member_that_was_buried_alive_hears_of_it_and_comes_back() -> None:
    town = Town(checked=False)
    ids = town.grow(6)
    town.cut({ids[1]})
    assert town.until(lambda: town.statuses(ids[1]) >= {Status.DEAD}, 60.0)
    town.run(60.0)
    town.mend()
    assert town.until(town.converged, 30.0)


def test_all_members_together_look_for_a_dead_one_ever_more_seldom() -> None:
    settings = ProtocolSettings()
    assert settings.announce_pause_s(0.0) == 60.0
    assert settings.announce_pause_s(24 * 3600.0) == 3600.0
    looks, age = 0, 0.0
    while age < 24 * 3600.0:
        age += settings.announce_pause_s(age)
        looks += 1
    assert looks < 50, "in a day"


def test_the_longer_somebody_is_dead_the_more_seldom_all_connect_to_it() -> None:
    town = Town(settings=replace(ProtocolSettings(), announce_interval_s=1.0), checked=False)
    ids = town.grow(3)
    town.crash(ids[2])
    town.run(60.0)
    town.world.measure(on=True)
    town.run(540.0)
    # 4 ln(600 / 60) = 9 are expected, and 540 without back-off.
    assert 0 < town.world.connects <= 40


def test_a_member_is_not_pinged_again_where_nobody_accepts_connections() -> None:
    town = Town(checked=False)
    ids = town.grow(4)
    town.crash(ids[3])
    town.run(60.0)
    town.world.measure(on=True)
    town.run(300.0)
    # Each look is one connect; a ping would be another.
    assert 0 < town.world.connects <= 10
