import random

from netmesh.core.prober import Probe, Probes, RoundRobin
from netmesh.core.records import Generation, MemberId, Record, Status, pack_advert
from netmesh.core.table import Table


def record(index: int, status: Status = Status.ALIVE) -> Record:
    return Record(MemberId(f"10.0.0.{index}:17946"), Generation(1), 0, status, 1, pack_advert({}))


def robin(count: int) -> tuple[Table, RoundRobin]:
    table = Table(record(0))
    for index in range(1, count):
        table.put(record(index), 0.0)
    return table, RoundRobin(table, random.Random(1))


def test_a_round_visits_everybody_else_once() -> None:
    table, order = robin(20)
    visited = [order.next() for _ in range(19)]
    assert sorted(v for v in visited if v) == sorted(m for m in table.ring if m != table.me)


def test_alone_there_is_nobody_to_probe() -> None:
    assert robin(1)[1].next() is None


def test_the_dead_are_skipped() -> None:
    table, order = robin(5)
    order.next()
    for index in range(1, 4):
        table.put(record(index, Status.DEAD), 1.0)
    assert {order.next() for _ in range(6)} == {record(4).id}


def test_a_new_member_is_visited_in_this_round() -> None:
    table, order = robin(10)
    order.next()
    table.put(record(50), 1.0)
    order.joined(record(50).id)
    assert record(50).id in [order.next() for _ in range(9)]


def test_members_that_come_and_go_do_not_make_the_round_grow() -> None:
    table, order = robin(5)
    for _ in range(10_000):
        order.joined(record(1).id)
    longest = 4 * table.size + 65
    assert {order.next() for _ in range(longest + 4)} == set(table.ring) - {table.me}


def test_a_closed_probe_is_found_no_more() -> None:
    probes = Probes()
    probe = Probe(record(1).id, Generation(1), 7, 0.0)
    probes.open(probe)
    assert probes.of(probe.target) is probes.numbered(7) is probe
    probes.close(probe)
    probes.close(probe)
    assert probes.of(probe.target) is None and probes.numbered(7) is None
