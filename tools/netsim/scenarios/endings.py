"""Members that end or stop: crash, host crash, a third at once, stall, leave, the long dead."""

from __future__ import annotations

from netmesh.core.records import Record, Status, host_of
from netsim.scenarios.stage import SETTLED_S, PlayStage, is_bad, is_dead


def crash(stage: PlayStage) -> None:
    """Processes are killed one after another. Sample: until a survivor takes one for dead."""
    stage.populate()
    world = stage.world
    victims = stage.pick(stage.faults(4))
    points = []
    for victim in victims:
        points.append(stage.expect(victim, is_dead))
        world.crash(victim)
        world.run(1.0)
    stage.samples = stage.collect(points, world.running, 120.0, "the crash")
    stage.agree()
    stage.require(world.faults["crash"] == len(victims) > 0, "no crash happened")


def host_crash(stage: PlayStage) -> None:
    """A host loses power with all its workers. Sample: until a survivor takes one for dead."""
    stage.populate()
    world = stage.world
    victim = stage.pick(1)[0]
    gone = [p for p in world.running() if host_of(p.id) == host_of(victim.id)]
    points = [stage.expect(process, is_dead) for process in gone]
    world.crash_host(host_of(victim.id))
    stage.samples = stage.collect(points, world.running, 180.0, "the host's end")
    stage.agree()
    expected = min(stage.options.workers_per_host, stage.options.members)
    fired = world.faults["host-crash"]
    stage.require(0 < fired <= expected, f"{fired} workers went, {expected} are on a host")
    stage.details["workers"] = fired


def third(stage: PlayStage) -> None:
    """A third of all members is killed at one moment. Sample: until a survivor takes one for
    dead."""
    stage.populate()
    world = stage.world
    victims = stage.pick(stage.faults(stage.options.members // 3))
    points = [stage.expect(victim, is_dead) for victim in victims]
    for victim in victims:
        world.crash(victim)
    stage.samples = stage.collect(points, world.running, 120.0, "the crash")
    stage.agree()
    stage.require(world.faults["crash"] == len(victims) > 0, "no crash happened")


def dead(stage: PlayStage) -> None:
    """Some members are dead, and nothing else happens for `duration_s` (120). Takes no samples; the
    result is what looking for the dead costs all others together."""
    stage.populate()
    world = stage.world
    victims = stage.pick(stage.faults(4))
    world.measure(on=False)
    for victim in victims:
        world.crash(victim)
    stage.agree()
    # Gossip goes on telling the dead of their death for half a minute.
    world.run(SETTLED_S)
    world.measure(on=True)
    seconds = stage.duration(120.0)
    world.run(seconds)
    world.measure(on=False)
    stage.details["connects_per_s"] = world.connects / seconds
    stage.details["connects_per_dead_and_minute"] = 60 * world.connects / seconds / len(victims)
    stage.require(world.faults["crash"] == len(victims) > 0, "no crash happened")


def stall(stage: PlayStage) -> None:
    """Processes stop for `duration_s` (60) while their kernels go on. Sample: until another
    member shows one as not selectable. No member may be declared dead."""
    stage.populate()
    world = stage.world
    seconds = stage.duration(60.0)
    victims = stage.pick(stage.faults(4))
    points = [stage.expect(victim, is_bad, sticky=True) for victim in victims]
    for victim in victims:
        world.stall(victim, seconds)
    others = [p for p in world.running() if p not in victims]
    stage.samples = stage.collect(points, lambda: others, seconds, "the stall")
    world.run(max(0.0, points[0].since + seconds - world.now))
    back = [stage.expect(victim, _is_alive, sticky=True) for victim in victims]
    woken = world.now
    stage.agree()
    for point in back:
        world.witness.unwatch(point)
    returned = [at - woken for point in back for at in point.reached.values()]
    stage.details["selectable_again_max_s"] = max(returned, default=0.0)
    statuses = {
        (record.status if (record := p.machine.record(v.id)) else None)
        for p in world.running()
        for v in victims
    }
    stage.require(statuses == {Status.ALIVE}, f"after the stall views show {statuses}")
    stage.require(world.faults["stall"] == len(victims) > 0, "no stall happened")


def leave(stage: PlayStage) -> None:
    """Members say goodbye. Sample: until another member knows that one is gone."""
    stage.populate()
    world = stage.world
    leavers = stage.pick(stage.faults(4))
    points = []
    for leaver in leavers:
        points.append(stage.expect(leaver, is_dead))
        world.leave(leaver)
        world.run(1.0)
    stage.samples = stage.collect(points, world.running, 120.0, "the goodbye")
    stage.agree()
    called_dead = sum(
        (record := p.machine.record(v.id)) is not None and record.status is Status.DEAD
        for p in world.running()
        for v in leavers
    )
    stage.details["called_dead"] = called_dead
    stage.require(world.faults["leave"] == len(leavers) > 0, "nobody left")


def _is_alive(record: Record) -> bool:
    return record.status is Status.ALIVE
