"""Lifeguard's experiment: slow members make others look dead."""

from __future__ import annotations

from netsim.process import Fate, Process
from netsim.scenarios.stage import PlayStage


def slow(stage: PlayStage) -> None:
    """An eighth of the members stands still together for `spell_s` at a time, and works for
    `pause_s` in between, during `duration_s` (300). Counts deaths of members that were never slow,
    in every view. Takes no samples, because it is not a mistake to call a slow member dead."""
    stage.may_die_falsely = True
    stage.populate()
    world, options = stage.world, stage.options
    seconds = options.spell_s
    victims = stage.pick(stage.faults(max(1, options.members // 8)))
    names = {p.id for p in victims}
    slow_deaths = 0

    def excused(observer: Process, subject: Process) -> bool:
        nonlocal slow_deaths
        slow_deaths += subject.id in names
        return subject.id in names

    world.witness.excused = excused
    if options.slowness != "own":
        world.deadlines_run_while_blocked = options.slowness == "io"
    fate = Fate.BLOCKED if world.deadlines_run_while_blocked else Fate.STALLED
    spells = max(1, int(stage.duration(300.0) / (seconds + options.pause_s)))
    for _ in range(spells):
        for victim in victims:
            world.after(0.1 * stage.rng.random(), world.stall, victim, seconds, fate)
        world.run(seconds + 0.1 + options.pause_s)
    world.run(60.0)
    stage.agree(120.0)
    fired = world.faults["stall"]
    stage.require(fired == spells * len(victims) > 0, f"{fired} of {spells * len(victims)} spells")
    stage.details["slow_members"] = len(victims)
    stage.details["slow_members_called_dead"] = slow_deaths
    stage.details["healthy_members_called_dead"] = len(world.witness.false_subjects)
