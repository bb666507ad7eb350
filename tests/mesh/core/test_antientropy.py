from random import Random

from netmesh.core.antientropy import Admission, Gate
from netmesh.core.events import Publish
from netmesh.core.node import Node
from netmesh.core.records import Generation, MemberId, Status, new_record
from netmesh.core.settings import ProtocolSettings

from .town import Town


def test_slots_are_held_for_a_second_after_their_last_use() -> None:
    admission = Admission(2)
    a, b, c = (MemberId(f"10.0.0.{i}:1") for i in range(3))
    assert admission.admit(a, 0.0) and admission.admit(b, 0.0)
    assert not admission.admit(c, 0.5)
    assert admission.admit(a, 0.9)
    assert admission.admit(c, 1.1)
    assert not admission.admit(b, 1.2)


def test_a_changed_advert_reaches_everybody_without_a_full_sync() -> None:
    town = Town(advert={"model": "x" * 600})
    ids = town.grow(20, 20)
    town.run(5.0)
    town.world.measure(on=True)
    town.give(ids[7], Publish({"model": "x" * 600, "ready": True}))
    version = town.engine(ids[7]).record(ids[7])
    assert version is not None

    def known() -> bool:
        return all(town.engine(v).record(ids[7]) == version for v in ids)

    assert town.until(known, 3.0)
    assert town.world.meter.bytes / len(ids) < 20 * 700, "more than a table was sent"


def test_publishing_the_same_advert_again_says_nothing() -> None:
    town = Town()
    ids = town.grow(2)
    revision = town.engine(ids[0]).revision
    town.give(ids[0], Publish(dict(town.advert)))
    assert town.engine(ids[0]).revision == revision


def test_a_quiet_mesh_sends_half_a_kilobyte_a_second() -> None:
    town = Town(checked=False)
    ids = town.grow(30, 20)
    town.run(10.0)
    town.world.measure(on=True)
    town.run(20.0)
    assert town.world.meter.bytes / len(ids) / 20 < 512


def test_a_partition_heals_and_resurrects_nobody() -> None:
    town = Town(checked=False)
    ids = town.grow(24, 20)
    half = set(ids[::2])
    town.cut(half)
    assert town.until(lambda: set(town.sizes()) == {12}, 60.0)
    gone = ids[5]
    town.crash(gone)
    town.run(20.0)
    town.mend()
    assert town.until(town.converged, 30.0)
    assert town.statuses(gone) == {Status.DEAD}


def test_tables_above_the_digest_limit_are_compared_by_buckets() -> None:
    town = Town(checked=False)
    ids = town.grow(80, 20)
    late = ids[3]
    town.cut({late})
    for member in ids[10:20]:
        town.give(member, Publish({"changed": 1}))
    town.run(3.0)
    town.mend()
    assert town.until(town.converged, 15.0)


def test_two_members_that_lack_the_same_do_not_reassure_each_other() -> None:
    node = Node(ProtocolSettings(), new_record(MemberId("a:1"), Generation(1), {}), Random(1))
    gate = Gate(node)
    opened = []
    for step in range(40):
        node.now = 100.0 + step / 4
        root = node.table.root if step % 2 else 12345
        opened.append(gate.open(root, 1, eager=False))
    assert any(opened)


def test_a_rumour_on_its_way_is_no_reason_to_compare() -> None:
    node = Node(ProtocolSettings(), new_record(MemberId("a:1"), Generation(1), {}), Random(1))
    gate = Gate(node)
    opened = []
    for step in range(400):
        # A change every ten seconds that takes a second and a half to arrive.
        node.now = 100.0 + step / 4
        under_way = step % 40 < 6
        opened.append(gate.open(12345 if under_way else node.table.root, 1, eager=False))
    assert not any(opened)


def test_after_a_healed_partition_real_crashes_are_still_believed() -> None:
    town = Town(checked=False)
    ids = town.grow(48, 20)
    half = set(ids[::2])
    town.cut(half)
    assert town.until(lambda: set(town.sizes()) == {24}, 60.0)
    town.mend()
    assert town.until(town.converged, 30.0)
    town.crash(ids[5])
    assert town.until(lambda: town.statuses(ids[5]) == {Status.DEAD}, 1.5)
