"""Several processes that advertise one address."""

from __future__ import annotations

from netmesh.core.records import pack_advert
from netsim.process import Process
from netsim.scenarios.stage import PlayStage


def twins(stage: PlayStage) -> None:
    """More processes (`--faults`, 1) advertise the address of a member that lives, and cannot take
    another, for `duration_s` (300); what is sent there reaches the first. Takes no samples; the
    result is what their fight costs."""
    stage.populate()
    world = stage.world
    first, *others = _fight(stage)
    news = stage.advert(0, edition=1)
    world.publish(world.running()[0], news)
    world.run(40.0)
    stage.require(
        all(
            (record := process.machine.record(stage.id(0))) is not None
            and record.advert == pack_advert(news)
            for process in others
        ),
        "a process that stands back does not see the others",
    )
    views = {
        record.generation
        for process in world.running()
        if process is not first and (record := process.machine.record(first.id)) is not None
    }
    own = first.machine.record(first.id)
    stage.require(
        own is not None and views == {own.generation}, "some view holds one that nobody reaches"
    )
    for process in others:
        world.crash_twin(process)
    stage.agree()


def movers(stage: PlayStage) -> None:
    """As `twins`, but each of the others takes another address when it stands back. Sample: from
    the first claim until it does."""
    stage.populate()
    world = stage.world
    began = world.now
    moved: list[Process] = []

    def move(process: Process) -> None:
        world.crash_twin(process)
        index = stage.options.members + len(moved)
        moved.append(world.start(stage.id(index), (stage.id(0),), stage.advert(index)))
        stage.samples.append(world.now - began)

    world.on_displaced = move
    _fight(stage)
    stage.agree()
    wanted = stage.faults(1)
    stage.require(len(moved) == wanted, f"{len(moved)} processes moved, not {wanted}")


def _fight(stage: PlayStage) -> list[Process]:
    """Let a member and others fight for its address; returns them all, the member first."""
    world = stage.world
    first = stage.pick(1)[0]
    fighting = [first]
    for _ in range(stage.faults(1)):
        fighting.append(world.start(first.id, (stage.id(0),), stage.advert(first.index), twin=True))
        world.faults["twin"] += 1

    def generation(process: Process) -> int:
        record = process.machine.record(process.id)
        return 0 if record is None else record.generation

    outbids = 0
    known = [generation(process) for process in fighting]
    for _ in range(int(stage.duration(300.0))):
        world.run(1.0)
        now = [generation(process) for process in fighting]
        outbids += sum(new != old for new, old in zip(now, known, strict=True))
        known = now
    stage.details["outbids"] = outbids
    stage.details["log_lines"] = sum(len(process.logs) for process in fighting)
    own = first.machine.record(first.id)
    stage.details["refuted"] = 0 if own is None else own.incarnation
    return fighting
