"""What a recording tells of a real mesh, played again: `python -m netsim replay FILE`.

A recording says when one member learned that others came, died, left or stood still. It does not
say why, nor what the network did. So processes start, crash, leave and stall in the virtual mesh at
those times, over a network without faults, and the report says how fast the news spread there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mesh_inspect.recording.errors import RecordingError
from mesh_inspect.recording.lines import RecordedMember, RecordedStep
from mesh_inspect.recording.reader import Recording
from netmesh.core.records import MemberId, Record
from netsim.machine import NetmeshSpecies
from netsim.options import RunOptions
from netsim.process import Process
from netsim.report import RunReport, percentile
from netsim.scenarios.stage import PlayStage
from netsim.trace import Trace
from netsim.witness import Watchpoint

COMMAND: Final = "replay"

Deed = Literal["start", "crash", "leave", "stall", "wake"]

_LIVE: Final = frozenset({"alive", "stalled", "suspect"})

GAP_S: Final = 30.0
"""Longer spans in which nothing happens are cut to this: by then all news has long spread, and a
virtual minute of 2,000 members takes real ones."""

HORIZON_S: Final = 120.0
"""For so long after the last event, the news of it is waited for."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that a member did, or that befell it."""

    at: float
    """Seconds since the recording's first look."""
    deed: Deed
    id: MemberId


class Plot:
    """Takes the steps of a recording in, and has what happened in them."""

    def __init__(self) -> None:
        self.population: list[MemberId] = []
        """Who was there at the beginning."""
        self.occurrences: list[Occurrence] = []
        self._known: dict[str, RecordedMember] = {}
        self._began: float | None = None

    def add(self, step: RecordedStep) -> None:
        """The next step."""
        if step.silence is not None:
            return
        gone = set(step.gone)
        if step.whole:
            gone |= self._known.keys() - {member.id for member in step.members}
        if self._began is None:
            self._began = step.at
            for member in step.members:
                self._known[member.id] = member
                if member.status in _LIVE:
                    self.population.append(MemberId(member.id))
            return
        for member in step.members:
            self._compare(step.at - self._began, self._known.get(member.id), member)
            self._known[member.id] = member
        for id in sorted(gone):
            if self._known.pop(id).status in _LIVE:
                # A member that the one that was asked has never heard of any more.
                self._note(step.at - self._began, "crash", id)

    def _compare(self, at: float, old: RecordedMember | None, new: RecordedMember) -> None:
        was = old is not None and old.status in _LIVE
        live = new.status in _LIVE
        if old is not None and old.generation != new.generation:
            if was:
                self._note(at, "crash", new.id)
            was = False
        if live and not was:
            self._note(at, "start", new.id)
        elif was and not live:
            self._note(at, "leave" if new.status == "left" else "crash", new.id)
        stood = was and old is not None and old.status == "stalled"
        stands = live and new.status == "stalled"
        if stands != stood and live:
            self._note(at, "stall" if stands else "wake", new.id)

    def _note(self, at: float, deed: Deed, id: str) -> None:
        self.occurrences.append(Occurrence(at, deed, MemberId(id)))


@dataclass(frozen=True, slots=True)
class _Spread:
    """Something that others have to learn."""

    deed: Deed
    point: Watchpoint
    observers: frozenset[int]
    """Indexes of those that were there."""


class Rerun:
    """One recording in the virtual mesh."""

    def __init__(self, plot: Plot, options: RunOptions, gap_s: float) -> None:
        self._plot = plot
        self._stage = PlayStage(options, NetmeshSpecies(), Trace())
        self._gap_s = gap_s
        self._news: list[_Spread] = []
        self._skipped = 0

    def run(self) -> RunReport:
        """Play it."""
        stage, world = self._stage, self._stage.world
        for index, id in enumerate(self._plot.population):
            world.start(id, None, stage.advert(index))
        world.acquaint()
        for process in world.running():
            world.contact(process, self._plot.population[:1])
        world.run(stage.options.settle_s)
        world.measure(on=True)
        last = 0.0
        for one in self._plot.occurrences:
            world.run(min(one.at - last, self._gap_s))
            last = one.at
            self._do(one)
        world.until(self._all_know, HORIZON_S)
        self._sample()
        stage.agree()
        return stage.report()

    def _do(self, one: Occurrence) -> None:
        world = self._stage.world
        process = world.processes.get(one.id)
        there = process is not None and process.alive
        match one.deed:
            case "start" if not there:
                self._start(one.id)
            case "crash" if process is not None and there and self._has_others():
                self._watch("crash", process, _is_over(process))
                world.crash(process)
            case "leave" if process is not None and there and self._has_others():
                self._watch("leave", process, _is_over(process))
                world.leave(process)
            case "stall" if process is not None and there:
                # Until it wakes, which comes later in the recording if it comes.
                world.stall(process, self._until_awake(one))
            case "wake":
                pass
            case _:
                self._skipped += 1

    def _start(self, id: MemberId) -> None:
        world = self._stage.world
        running = world.running()
        process = world.start(id, [running[0].id], self._stage.advert(len(world.all)))
        self._watch("start", process, lambda record: record.generation >= process.generation)
        world.faults["start"] += 1

    def _has_others(self) -> bool:
        return len(self._stage.world.running()) > 2

    def _until_awake(self, stall: Occurrence) -> float:
        """Seconds of virtual time until the member wakes, or ends, or the recording does."""
        passed, last = 0.0, stall.at
        after = iter(self._plot.occurrences)
        for one in after:
            if one is stall:
                break
        for one in after:
            passed += min(one.at - last, self._gap_s)
            last = one.at
            if one.id == stall.id:
                return passed
        return passed

    def _watch(self, deed: Deed, process: Process, holds: Callable[[Record], bool]) -> None:
        point = self._stage.expect(process, holds, sticky=True)
        observers = frozenset(p.index for p in self._stage.world.running() if p is not process)
        self._news.append(_Spread(deed, point, observers))

    def _all_know(self) -> bool:
        there = {process.index for process in self._stage.world.running()}
        return all((news.observers & there) <= news.point.reached.keys() for news in self._news)

    def _sample(self) -> None:
        stage = self._stage
        there = {process.index for process in stage.world.running()}
        delays: dict[Deed, list[float]] = {}
        missing = 0
        for news in self._news:
            stage.world.witness.unwatch(news.point)
            for observer in news.observers & there:
                learned = news.point.reached.get(observer)
                if learned is None:
                    missing += 1
                else:
                    delays.setdefault(news.deed, []).append(learned - news.point.since)
        stage.require(not missing, f"{missing} views never showed what had happened")
        for deed, those in sorted(delays.items()):
            stage.samples += those
            stage.details[f"{deed}_known_p99_s"] = percentile(those, 0.99)
            stage.details[f"{deed}_known_max_s"] = percentile(those, 1.0)
        stage.details["occurrences"] = len(self._plot.occurrences)
        stage.details["occurrences_not_played"] = self._skipped


def _is_over(process: Process) -> Callable[[Record], bool]:
    generation = process.generation
    return lambda record: record.generation > generation or not record.status.live


def rerun(path: Path, *, seed: int = 1, gap_s: float = GAP_S) -> RunReport:
    """Play a recording. Raises `RecordingError`, OSError, and ValueError for one with fewer than
    four members in the beginning, or in which nothing happens."""
    plot = Plot()
    Recording(path, plot.add)
    if len(plot.population) < 4:
        raise ValueError(
            f"{path} begins with {len(plot.population)} live members: at least 4 are needed"
        )
    if not plot.occurrences:
        raise ValueError(f"{path} has nothing to play: nobody in it came, went or stood still")
    options = RunOptions(COMMAND, len(plot.population), seed)
    return Rerun(plot, options, gap_s).run()


def main(argv: Sequence[str]) -> int:
    """Exit status 0 if the run kept all rules, 1 if not, 2 for a file that cannot be played. A
    wrong argument raises SystemExit with 2."""
    parser = argparse.ArgumentParser(
        prog=f"python -m netsim {COMMAND}",
        description="Play the joins, deaths, leaves and stalls of a recording of a real mesh "
        "(`mesh-inspect record FILE`) in virtual time, and say how fast the news of each spread.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--gap",
        dest="gap_s",
        type=float,
        default=GAP_S,
        metavar="S",
        help="seconds to which longer spans without an event are cut (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args(argv)
    try:
        report = rerun(arguments.file, seed=arguments.seed, gap_s=arguments.gap_s)
    except (RecordingError, ValueError, OSError) as error:
        print(f"netsim: {error}", file=sys.stderr)
        return 2
    print(report.line() if arguments.json else report.readable())
    return 1 if report.problems else 0
