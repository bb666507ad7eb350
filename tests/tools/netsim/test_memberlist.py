from random import Random

import pytest

from netmesh.core.claims import head, whole
from netmesh.core.effects import Send
from netmesh.core.events import Connection, Received, Tick
from netmesh.core.messages import Exchange, Gossip, Ping, Relay
from netmesh.core.records import Generation, MemberId, Record, Status, new_record
from netsim.broadcasts import Broadcasts
from netsim.memberlist import Memberlist
from netsim.memberlist_settings import MemberlistSettings
from netsim.memberlist_view import SuspicionTimer

HERE = Connection(b"0")


def record(index: int) -> Record:
    return new_record(MemberId(f"10.0.0.{index}:1"), Generation(index), {"rank": index})


def member(count: int = 8, *, lifeguard: bool = True) -> Memberlist:
    """Number 1 of so many, all of which it knows."""
    settings = MemberlistSettings(lifeguard=lifeguard)
    machine = Memberlist(settings, record(1), Random(1), lambda old, new: None)
    machine.acquaint(None, [record(i) for i in range(1, count + 1)], 0.0)
    return machine


def told(machine: Memberlist, status: Status, about: int, by: int, now: float = 0.0) -> None:
    claim = head(record(about), (record(by).id,))
    claim = type(claim)(
        claim.id, claim.generation, claim.incarnation, status, claim.version, None, claim.accusers
    )
    machine.handle(Received(HERE, Gossip(record(by).id, Generation(by), (claim,))), now)
    machine.check()


def status(machine: Memberlist, about: int) -> Status | None:
    known = machine.record(record(about).id)
    return None if known is None else known.status


def test_defaults_scale_with_the_number_of_members() -> None:
    settings = MemberlistSettings()
    assert settings.suspicion_min_s(10) == 4.0
    assert settings.suspicion_min_s(1000) == pytest.approx(12.0)
    assert settings.retransmits(2000) == 16
    assert settings.push_pull_interval_s(32) == 30.0
    assert settings.push_pull_interval_s(64) == 60.0
    assert settings.push_pull_interval_s(1000) == 180.0


def test_confirmations_shorten_a_suspicion() -> None:
    suspicion = SuspicionTimer(0.0, 4.0, 24.0, 2, {record(1).id})
    assert suspicion.due() == 24.0
    assert suspicion.confirm(record(2).id) and not suspicion.confirm(record(2).id)
    assert 4.0 < suspicion.due() < 24.0
    assert suspicion.confirm(record(3).id)
    assert suspicion.due() == 4.0
    assert not suspicion.confirm(record(4).id)


def test_a_suspect_dies_when_its_time_is_over_and_swim_waits_the_shortest() -> None:
    for lifeguard, before, after in ((True, 23.0, 25.0), (False, 3.5, 4.5)):
        machine = member(lifeguard=lifeguard)
        told(machine, Status.SUSPECT, 3, 2)
        machine.handle(Tick(), before)
        assert status(machine, 3) is Status.SUSPECT
        machine.handle(Tick(), after)
        assert status(machine, 3) is Status.DEAD


def test_who_is_accused_refutes_and_doubts_itself() -> None:
    machine = member()
    told(machine, Status.SUSPECT, 1, 2)
    mine = machine.record(machine.id)
    assert mine is not None and mine.incarnation == 1 and mine.status is Status.ALIVE
    assert machine.awareness == 1


def test_a_death_in_a_full_table_is_only_a_suspicion() -> None:
    machine = member()
    table = tuple(
        type(claim)(*(claim.id, claim.generation, 0, Status.DEAD, 1, claim.advert))
        for claim in (whole(record(3)),)
    )
    machine.handle(Received(HERE, Exchange(record(2).id, Generation(2), True, table)), 0.0)
    assert status(machine, 3) is Status.SUSPECT


def test_an_unanswered_probe_asks_others_then_tries_a_stream_then_suspects() -> None:
    machine = member()
    sent = [e for t in range(30) for e in machine.handle(Tick(), t / 10) if isinstance(e, Send)]
    first = next(e for e in sent if isinstance(e.message, Ping))
    relays = [e for e in sent if isinstance(e.message, Relay)]
    assert len(relays) >= 3 and all(e.to != first.to for e in relays[:3])
    assert sum(isinstance(e.message, Ping) and e.to == first.to for e in sent) >= 2
    known = machine.record(first.to)
    assert known is not None and known.status is Status.SUSPECT


def test_broadcasts_go_out_fewest_copies_first_and_stop() -> None:
    queue = Broadcasts()
    old, new = whole(record(1)), whole(record(2))
    queue.add(old)
    assert queue.take(1400, 2) == (old,)
    queue.add(new)
    assert queue.take(50, 2) == (new,)
    assert set(queue.take(1400, 2)) == {old, new}
    assert queue.take(1400, 2) == () and len(queue) == 0
