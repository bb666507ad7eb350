from netmesh.core.events import Leave, Publish
from netmesh.core.records import Status

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
