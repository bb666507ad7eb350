"""Paths that fail: loss, one-way flapping, partition."""

from __future__ import annotations

from dataclasses import replace

from netmesh.core.records import MemberId, Status
from netsim.network import Block
from netsim.process import Process
from netsim.scenarios.growing import publish
from netsim.scenarios.stage import PlayStage

PUBLISH_EVERY_S = 30.0
FLAP_S = 20.0


def loss(stage: PlayStage) -> None:
    """Messages are lost (5 %), and some come twice or late, for `duration_s` (600). Sample: until
    another member has an advert that changed meanwhile. No member may be declared dead."""
    world = stage.world
    share = 0.05 if stage.options.loss is None else stage.options.loss
    world.network.link = replace(
        world.network.link, loss=share, duplication=share / 10, reordering=share / 2
    )
    stage.populate()
    end = world.now + stage.duration(600.0)
    edition = 0
    while world.now < end:
        edition += 1
        point = publish(stage, stage.pick(1)[0], edition)
        began = world.now
        stage.samples += stage.collect([point], world.running, PUBLISH_EVERY_S, "a new advert")
        world.run(max(0.0, began + PUBLISH_EVERY_S - world.now))
    stage.agree()
    network = world.network
    stage.require(not share or network.lost > 0, "no message was lost")
    stage.require(not share or network.duplicated > 0, "no message came twice")
    stage.require(not share or network.held > 0, "no message was overtaken")
    stage.details["lost"] = network.lost


def flap(stage: PlayStage) -> None:
    """One direction of some members' links works for 20 s, fails for 20 s, and so on for
    `duration_s` (200). Of every four such members, two are heard by nobody or hear nobody, and may
    be called dead meanwhile. The other two lose one direction to half of the mesh only, and must
    live throughout. Sample: from the end of a failure until another member takes a flapping one
    for alive."""
    stage.populate()
    world = stage.world
    flapping = stage.pick(stage.faults(max(4, stage.options.members // 64)))
    everybody = [p.id for p in world.running()]
    cut_off: set[MemberId] = set()
    blocks: list[Block] = []
    for number, process in enumerate(flapping):
        me = frozenset((process.id,))
        others = [m for m in everybody if m != process.id]
        if number % 4 < 2:
            cut_off.add(process.id)
        else:
            others = stage.rng.sample(others, len(others) // 2)
        there = frozenset(others)
        blocks.append(Block(me, there) if number % 2 else Block(there, me))
    on = False

    def excused(observer: Process, subject: Process) -> bool:
        # Members that are cut off cannot know about others either.
        return on and (subject.id in cut_off or observer.id in cut_off)

    world.witness.excused = excused
    rounds = max(1, int(stage.duration(200.0) / (2 * FLAP_S)))
    for _ in range(rounds):
        on = True
        for block in blocks:
            world.block(block)
        world.run(FLAP_S)
        for block in blocks:
            world.unblock(block)
        began = world.now
        missing = [
            (o, p) for o in world.running() for p in flapping if o is not p and not _sees(o, p)
        ]
        stage.details["not_alive_at_end"] = stage.details.get("not_alive_at_end", 0) + len(missing)
        while missing and world.now < began + FLAP_S:
            world.run(0.1)
            back = [pair for pair in missing if _sees(*pair)]
            stage.samples += [world.now - began] * len(back)
            missing = [pair for pair in missing if pair not in back]
            # For a moment, verdicts of members that were cut off still travel.
            on = world.now < began + 1.0
        stage.require(not missing, f"{len(missing)} views lack members {FLAP_S:g} s after a flap")
        on = False
        world.run(max(0.0, began + FLAP_S - world.now))
    stage.agree()
    stage.require(world.faults["block"] == rounds * len(blocks), "not all blocks were set")
    stage.require(world.network.blocked > 0, "no message was blocked")


def _sees(observer: Process, subject: Process) -> bool:
    record = observer.machine.record(subject.id)
    return record is not None and record.status is Status.ALIVE


def partition(stage: PlayStage) -> None:
    """The mesh is cut into halves for `duration_s` (600), while two members of each half crash.
    Sample: from the healing until a member sees all living members. Crashed members stay dead."""
    stage.populate()
    world = stage.world
    running = world.running()
    stage.rng.shuffle(running)
    half = len(running) // 2
    left = frozenset(p.id for p in running[:half])
    right = frozenset(p.id for p in running[half:])
    blocks = [Block(left, right), Block(right, left)]
    cut = True

    def excused(observer: Process, subject: Process) -> bool:
        return cut and (observer.id in left) != (subject.id in left)

    world.witness.excused = excused
    for block in blocks:
        world.block(block)
    seconds = stage.duration(600.0)
    world.run(seconds / 2)
    mortal = [p for p in running if p.id != stage.id(0)]
    crashed = mortal[:2] + mortal[-2:]
    for process in crashed:
        world.crash(process)
    world.run(seconds / 2)
    separated = sum(p.machine.size <= half for p in world.running())
    stage.details["separated"] = separated
    stage.require(separated == len(world.running()), "the halves never took each other for dead")
    for block in blocks:
        world.unblock(block)
    began = world.now
    seen: dict[int, float] = {}
    alive = len(world.running())

    def on_view(process: Process) -> None:
        if process.machine.size == alive:
            seen[process.index] = world.now
        else:
            seen.pop(process.index, None)

    world.witness.on_view = on_view
    world.until(lambda: len(seen) == alive, 300.0)
    # Suspicions about the other half that were still running at the healing are excused.
    cut = False
    stage.samples = [at - began for at in seen.values()]
    stage.require(len(seen) == alive, f"{len(seen)} of {alive} see all again")
    stage.agree()
    alive_again = sum(
        (record := p.machine.record(c.id)) is not None and record.status.live
        for p in world.running()
        for c in crashed
    )
    stage.require(not alive_again, f"{alive_again} views hold a crashed member for alive")
    stage.require(world.network.blocked > 0, "no message was blocked")
    stage.require(world.faults["crash"] == len(crashed) > 0, "nobody crashed meanwhile")
