from dataclasses import replace
from random import Random

from netmesh.core.claims import Claim
from netmesh.core.engine import Engine
from netmesh.core.events import Connection, Leave, Publish, Received
from netmesh.core.messages import Gossip
from netmesh.core.records import Generation, MemberId, Status, new_record, pack_advert
from netmesh.core.settings import ProtocolSettings

from .town import Town


def test_a_goodbye_reaches_everybody_and_accuses_nobody() -> None:
    town = Town()
    ids = town.grow(20, 20)
    seen = set()
    town.handled = lambda viewer: seen.add(town.status(viewer, ids[4]))
    town.give(ids[4], Leave())
    assert town.until(lambda: town.departed(ids[4]), 0.5)
    assert town.until(lambda: town.statuses(ids[4]) == {Status.LEFT}, 2.0)
    assert seen <= {Status.ALIVE, Status.LEFT}
    assert town.until(town.converged, 5.0)


def test_a_member_that_leaves_keeps_its_own_record_however_many_die_meanwhile() -> None:
    me = new_record(MemberId("10.0.0.1:1"), Generation(9), {})
    made = Engine(replace(ProtocolSettings(), tombstone_limit=2), me, Random(1))
    ids = [MemberId(f"10.0.1.{index}:1") for index in range(5)]
    advert = pack_advert({})
    told = tuple(Claim(i, Generation(5), 0, Status.ALIVE, 1, advert) for i in ids)
    died = tuple(Claim(i, Generation(5), 0, Status.DEAD, 1) for i in ids)
    wire = Connection(b"c")
    made.handle(Received(wire, Gossip(ids[0], Generation(5), told)), 5.0)
    made.handle(Leave(), 6.0)
    made.handle(Received(wire, Gossip(ids[0], Generation(5), died)), 6.05)
    made.check()
    mine = made.record(me.id)
    assert mine is not None and mine.status is Status.LEFT


def test_leaving_alone_takes_no_longer() -> None:
    town = Town()
    a = town.start("10.0.0.1:1")
    town.give(a, Leave())
    assert town.until(lambda: town.departed(a), 0.5)


def test_after_departing_nothing_happens_any_more() -> None:
    town = Town()
    ids = town.grow(2)
    town.give(ids[0], Leave())
    town.run(1.0)
    engine = town.engine(ids[0])
    assert engine.handle(Publish({"x": 1}), town.now) == []
    assert engine.deadline() == float("inf")


def test_who_left_may_come_back_as_a_new_process() -> None:
    town = Town()
    ids = town.grow(4)
    town.give(ids[2], Leave())
    town.run(2.0)
    town.start(ids[2], (ids[0],))
    assert town.until(lambda: town.statuses(ids[2]) == {Status.ALIVE}, 3.0)
