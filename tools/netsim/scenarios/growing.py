"""Members that come and go: join, churn, and a mesh where nothing happens."""

from __future__ import annotations

from collections.abc import Callable

from netmesh.core.records import MemberId, Record
from netsim.process import Process
from netsim.scenarios.stage import PlayStage
from netsim.witness import Watchpoint

SPREAD_S = 1.0
"""A scheduler starts the processes of a job within about a second."""


def join(stage: PlayStage) -> None:
    """All members start cold and know one seed. Sample: from the first start until a member sees
    all. The seed starts among the others, at a random moment."""
    world, options = stage.world, stage.options
    began = world.now
    seen: dict[int, float] = {}

    def on_view(process: Process) -> None:
        if process.machine.size == options.members:
            seen.setdefault(process.index, world.now)

    world.witness.on_view = on_view
    world.measure(on=True)
    for index in range(options.members):
        world.after(stage.rng.random() * SPREAD_S, _start, stage, index)
    world.until(lambda: len(seen) == options.members, 600.0)
    stage.samples = [at - began for at in seen.values()]
    stage.require(
        len(world.all) == len(seen) == options.members,
        f"{len(seen)} of {len(world.all)} see all {options.members}",
    )
    stage.agree()
    world.faults["start"] = len(world.all)


def _start(stage: PlayStage, index: int) -> None:
    stage.world.start(stage.id(index), (stage.id(0),), stage.advert(index))


def churn(stage: PlayStage) -> None:
    """Every second one member crashes, leaves, restarts or is new, for `duration_s` (120). Sample:
    until another member knows of the change."""
    stage.populate()
    world, rng, options = stage.world, stage.rng, stage.options
    points: list[tuple[Watchpoint, Process]] = []
    spare = options.members
    restarts = 0
    for turn in range(int(stage.duration(120.0))):
        free = [m for m, p in world.processes.items() if p.fate.ended and m not in world.dark]
        match turn % 4:
            case 0:
                victim = stage.pick(1)[0]
                points.append((stage.expect(victim, _gone(victim)), victim))
                world.crash(victim)
            case 1 | 3 if free:
                member: MemberId = rng.choice(free)
                restarts += 1
                points.append(_come(stage, member, 10_000 + turn))
            case 2:
                victim = stage.pick(1)[0]
                points.append((stage.expect(victim, _gone(victim)), victim))
                world.leave(victim)
            case _:
                points.append(_come(stage, stage.id(spare), spare))
                spare += 1
        world.run(1.0)
    _collect_churn(stage, points)
    stage.agree()
    world.faults["restart"] = restarts
    for kind in ("crash", "leave", "restart"):
        stage.require(world.faults[kind] > 0, f"no {kind} happened")


def _gone(victim: Process) -> Callable[[Record], bool]:
    generation = victim.generation
    return lambda record: record.generation > generation or not record.status.live


def _come(stage: PlayStage, member: MemberId, index: int) -> tuple[Watchpoint, Process]:
    process = stage.world.start(member, (stage.id(0),), stage.advert(index))
    generation = process.generation
    return stage.expect(process, lambda r: r.generation >= generation), process


def _collect_churn(stage: PlayStage, points: list[tuple[Watchpoint, Process]]) -> None:
    """Collect the samples of observers that ran all the time since the change."""
    world = stage.world
    world.run(10.0)
    missing = 0
    for point, _ in points:
        world.witness.unwatch(point)
        for observer in world.running():
            if observer.started > point.since - 10.0 and observer.started > 100.0:
                continue
            at = point.reached.get(observer.index)
            if at is not None:
                stage.samples.append(at - point.since)
            elif observer.id != point.subject:
                missing += 1
    stage.details["views_missing_after_10_s"] = missing


def wave(stage: PlayStage) -> None:
    """As many members as there are start within a second, while an eighth of the old ones is
    killed. Sample: from the first start until a member sees all that run."""
    stage.populate()
    world, options = stage.world, stage.options
    began = world.now
    victims = stage.pick(stage.faults(max(1, options.members // 8)))
    expected = 2 * options.members - len(victims)
    for victim in victims:
        world.after(stage.rng.random() * SPREAD_S, world.crash, victim)
    for index in range(options.members, 2 * options.members):
        world.after(stage.rng.random() * SPREAD_S, _start, stage, index)
    seen: dict[int, float] = {}

    def on_view(process: Process) -> None:
        if len(world.running()) == expected and process.machine.size == expected:
            seen.setdefault(process.index, world.now)

    world.run(SPREAD_S)
    world.witness.on_view = on_view
    if world.until(world.converged, 120.0):
        for process in world.running():
            seen.setdefault(process.index, world.now)
    stage.samples = [at - began for at in seen.values()]
    stage.agree()
    stage.require(len(world.running()) == expected, f"{len(world.running())} run, not {expected}")
    stage.require(world.faults["crash"] == len(victims) > 0, "no crash happened")


def quiet(stage: PlayStage) -> None:
    """Nothing happens for `duration_s` (60), which shows the cost of membership. With `faults`, so
    many adverts change, spread over the time. Sample: until another member has the new advert."""
    stage.populate()
    world = stage.world
    seconds = stage.duration(60.0)
    changes = stage.options.faults or 0
    points = []
    for number in range(changes):
        points.append(publish(stage, stage.pick(1)[0], number + 1))
        world.run(seconds / changes)
    if not changes:
        world.run(seconds)
    stage.samples = stage.collect(points, world.running, 60.0, "a new advert")
    stage.require(world.converged(), "members disagree although nothing happened")
    world.faults["publish"] = changes


def publish(stage: PlayStage, process: Process, edition: int) -> Watchpoint:
    """Change the advert of that member."""
    before = process.machine.record(process.id)
    assert before is not None
    version = before.version + 1
    point = stage.expect(process, lambda record: record.version >= version)
    stage.world.publish(process, stage.advert(process.index, edition))
    return point
