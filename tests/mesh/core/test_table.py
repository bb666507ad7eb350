import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmesh.core.records import Generation, MemberId, Record, Status, new_record, pack_advert
from netmesh.core.table import Table


def record(index: int, status: Status = Status.ALIVE, version: int = 1) -> Record:
    member = MemberId(f"10.0.0.{index // 4}:{17946 + index % 4}")
    return Record(member, Generation(1), 0, status, version, pack_advert({}))


def table(count: int) -> Table:
    made = Table(record(0))
    for index in range(1, count):
        made.put(record(index), 1.0)
    return made


steps = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(Status), st.integers(1, 3)))


@given(steps)
def test_derived_values_follow_every_change(changes: list[tuple[int, Status, int]]) -> None:
    made = table(1)
    for now, (index, status, version) in enumerate(changes):
        made.put(record(index, status, version), float(now))
        made.check()


def test_the_root_depends_on_content_not_on_the_order_of_arrival() -> None:
    a, b = table(1), table(1)
    for index in range(1, 50):
        a.put(record(index), 1.0)
    for index in reversed(range(1, 50)):
        b.put(record(index), 1.0)
    assert (a.root, a.hashes, a.ring) == (b.root, b.hashes, b.ring)


def test_tombstones_do_not_count_into_the_root() -> None:
    a, b = table(3), table(2)
    a.put(record(2, Status.DEAD), 2.0)
    assert a.root == b.root
    assert a.size == b.size


@pytest.mark.parametrize("status", [Status.STALLED, Status.SUSPECT])
def test_verdicts_on_live_members_count_into_the_root(status: Status) -> None:
    made = table(3)
    before = made.root
    made.put(record(2, status), 2.0)
    assert made.root != before


def test_successors_and_predecessors_mirror_each_other() -> None:
    made = table(30)
    for member in made.ring:
        watched = made.successors(member, 4)
        assert len(set(watched)) == 4 and member not in watched
        assert all(member in made.predecessors(other, 4) for other in watched)


def test_in_a_small_mesh_everybody_watches_everybody_once() -> None:
    made = table(3)
    assert sorted(made.successors(made.me, 4)) == sorted(m for m in made.ring if m != made.me)
    assert table(1).successors(made.me, 4) == []


def test_successors_of_somebody_who_is_not_on_the_ring() -> None:
    made = table(10)
    gone = made.ring[3]
    expected = made.successors(gone, 4)
    made.put(Record(gone, Generation(1), 0, Status.DEAD, 1, pack_advert({})), 2.0)
    assert made.successors(gone, 4) == expected


@pytest.mark.parametrize("count", [1, 2, 5, 9, 200])
def test_samples_are_distinct_live_and_as_many_as_possible(count: int) -> None:
    made, rng = table(count), random.Random(3)
    for _ in range(50):
        chosen = made.sample(rng, 3, frozenset((made.me,)))
        assert len(set(chosen)) == len(chosen) == min(3, count - 1)
        assert made.me not in chosen


def test_members_are_found_by_host() -> None:
    made = table(8)
    assert len(made.on_host("10.0.0.1")) == 4
    for index in range(4, 8):
        made.put(record(index, Status.DEAD), 2.0)
    assert made.on_host("10.0.0.1") == ()
    made.check()


def test_the_dead_are_shown_until_hidden_and_only_forgotten_on_demand() -> None:
    made = table(3)
    dead = record(2, Status.DEAD)
    made.put(dead, 5.0)
    assert dead in made.shown(0.0)
    assert dead not in made.shown(6.0)
    revision = made.revision
    made.hide(6.0)
    assert made.revision > revision
    assert made.get(dead.id) is dead
    made.forget(dead.id)
    assert made.get(dead.id) is None
    made.check()


def test_a_revived_member_is_shown_once() -> None:
    made = table(3)
    made.put(record(2, Status.DEAD), 5.0)
    made.put(record(2, version=2), 6.0)
    made.put(record(2, Status.DEAD, 3), 7.0)
    assert [r.id for r in made.shown(0.0)].count(record(2).id) == 1


def test_the_first_record_is_mine() -> None:
    me = new_record(MemberId("a:1"), Generation(7), {})
    assert Table(me).mine is me
