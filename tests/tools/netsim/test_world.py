from netmesh.core.effects import Dial, Reply, Send, Watch
from netmesh.core.events import Contacts, Dialled, DialOutcome, LinkLost, Received, Tick
from netmesh.core.records import MemberId
from netsim.network import Block
from netsim.process import Fate, Process
from netsim.world import World

from .scripted import A, B, C, ping, script, world_of


def do(world: World, process: Process, *effects: object) -> float:
    """Let the process ask for these effects; returns when."""
    script(process).effects = list(effects)  # type: ignore[arg-type]
    world.give(process, Contacts(()))
    script(process).seen.clear()
    return world.now


def dialled(world: World, process: Process, target: MemberId) -> tuple[DialOutcome, float]:
    began = do(world, process, Dial(target, 1.0))
    world.run(2.0)
    ((at, event),) = script(process).seen
    assert isinstance(event, Dialled) and event.id == target
    return event.outcome, round(at - began, 6)


def test_a_message_arrives_after_the_latency_and_is_answered_over_its_connection() -> None:
    world, (a, b, _) = world_of(A, B, C)
    began = do(world, a, Send(B, ping(A)))
    world.run(0.0015)
    ((at, event),) = script(b).seen
    assert isinstance(event, Received) and abs(at - began - 0.001) < 1e-9
    do(world, b, Reply(event.connection, ping(B, 2)))
    world.run(1.0)
    assert [e.message.sequence for e in script(a).events if isinstance(e, Received)] == [2]


def test_dials_tell_refused_connected_and_silent_apart() -> None:
    world, (a, b, c) = world_of(A, B, C)
    assert dialled(world, a, B) == (DialOutcome.CONNECTED, 0.002)
    world.stall(b, 60.0)
    assert dialled(world, a, B)[0] is DialOutcome.CONNECTED
    world.crash(b)
    assert dialled(world, a, B)[0] is DialOutcome.REFUSED
    assert dialled(world, a, MemberId("10.9.9.9:9"))[0] is DialOutcome.REFUSED
    world.crash_host("10.0.0.2")
    assert c.fate is Fate.VANISHED
    assert dialled(world, a, C) == (DialOutcome.SILENT, 1.0)


def test_a_dial_over_a_one_way_block_is_silent() -> None:
    world, (a, c) = world_of(A, C)
    world.block(Block(frozenset((C,)), frozenset((A,))))
    assert dialled(world, a, C)[0] is DialOutcome.SILENT
    assert dialled(world, c, A)[0] is DialOutcome.SILENT
    do(world, a, Send(C, ping(A)))
    do(world, c, Send(A, ping(C)))
    world.run(1.0)
    assert len(script(c).seen) == 1 and not script(a).seen, "only one direction is blocked"


def test_a_host_crash_takes_all_workers_of_the_host_and_nobody_else() -> None:
    world, (a, b, c) = world_of(A, B, C)
    assert set(world.crash_host("10.0.0.1")) == {a, b}
    assert world.running() == [c]
    assert world.faults["host-crash"] == 2


def test_a_broken_link_is_told_at_once_after_a_crash() -> None:
    world, (a, b) = world_of(A, B)
    do(world, a, Watch(frozenset((B,))))
    world.crash(b)
    world.run(0.01)
    assert script(a).events == [LinkLost(B)]
    world.run(60.0)
    assert script(a).events == [LinkLost(B)], "told once until it works again"


def test_a_vanished_host_is_noticed_by_keepalive() -> None:
    world, (a, _) = world_of(A, C)
    began = do(world, a, Watch(frozenset((C,))))
    world.crash_host("10.0.0.2")
    world.run(60.0)
    ((at, event),) = script(a).seen
    assert event == LinkLost(C) and 5.9 < at - began < 6.1


def test_a_path_that_heals_before_keepalive_breaks_no_link() -> None:
    world, (a, _) = world_of(A, C)
    do(world, a, Watch(frozenset((C,))))
    block = Block(frozenset((C,)), frozenset((A,)))
    world.block(block)
    world.run(3.0)
    world.unblock(block)
    world.run(60.0)
    assert not script(a).seen


def test_a_link_to_a_restarted_process_can_break_again() -> None:
    world, (a, b) = world_of(A, B)
    do(world, a, Watch(frozenset((B,))))
    world.crash(b)
    world.run(1.0)
    again = world.start(B, None, {})
    assert again.generation > b.generation
    world.run(10.0)
    world.crash(again)
    world.run(1.0)
    assert script(a).events == [LinkLost(B)] * 2


def test_a_watch_on_a_dead_address_is_told() -> None:
    world, (a, b) = world_of(A, B)
    world.crash(b)
    do(world, a, Watch(frozenset((B,))))
    world.run(1.0)
    assert script(a).events == [LinkLost(B)]


def test_a_stalled_process_gets_its_messages_before_its_overdue_deadline() -> None:
    world, (a, b) = world_of(A, B)
    script(b).due = world.now + 1.0
    do(world, b)
    world.stall(b, 5.0)
    do(world, a, Send(B, ping(A)), Watch(frozenset((B,))))
    world.run(4.9)
    assert not script(b).seen and not script(a).seen, "silent, and its links stay up"
    world.run(0.2)
    first, second = script(b).events[:2]
    assert isinstance(first, Received) and isinstance(second, Tick)


def test_a_blocked_process_keeps_its_deadlines_and_holds_its_messages_back() -> None:
    world, (a, b) = world_of(A, B)
    world.deadlines_run_while_blocked = True
    script(b).due = world.now + 1.0
    script(b).effects = []
    world.give(b, Contacts(()))
    world.stall(b, 5.0, Fate.BLOCKED)
    script(b).effects = [Send(A, ping(B))]
    do(world, a, Send(B, ping(A)))
    script(b).seen.clear()
    world.run(4.0)
    assert [type(e) for e in script(b).events] == [Tick]
    assert not script(a).seen
    world.run(2.0)
    assert any(isinstance(e, Received) for e in script(a).events)
    assert any(isinstance(e, Received) for e in script(b).events)


def test_a_slow_process_handles_one_event_after_the_other() -> None:
    world, (a, b) = world_of(A, B)
    world.slow(b, 0.5)
    began = do(world, a, Send(B, ping(A, 1)), Send(B, ping(A, 2)))
    world.run(5.0)
    first, second = (at - began for at, _ in script(b).seen)
    assert 0.5 < first < 0.51 and abs(second - first - 0.5) < 1e-9
    assert world.faults["slow"] == 1


def test_the_successor_on_an_address_gets_no_answers_of_its_predecessor() -> None:
    world, (a, b) = world_of(A, B)
    do(world, a, Send(B, ping(A)))
    world.run(0.0015)
    ((_, event),) = script(b).seen
    assert isinstance(event, Received)
    world.crash(a)
    successor = world.start(A, None, {})
    do(world, b, Reply(event.connection, ping(B)))
    world.run(1.0)
    assert not script(successor).seen
