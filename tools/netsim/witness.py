"""Compares the members' beliefs with the truth.

The witness sees every change of every view, in the order in which they happen. It knows which
processes really live, so it can tell a false death from a right one. It also checks the rules that
no run of any scenario may break.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from netmesh.core.records import Generation, MemberId, Record, Status
from netsim.process import Process

Life = tuple[MemberId, Generation]
PROBLEM_LIMIT = 20


class Clock(Protocol):
    """What the witness needs of the world."""

    now: float


@dataclass(slots=True, eq=False)
class Watchpoint:
    """Notes when each observer came to believe something about a member."""

    subject: MemberId
    since: float
    holds: Callable[[Record], bool]
    sticky: bool = False
    """The first time counts, even when the observer changes its mind again."""
    reached: dict[int, float] = field(default_factory=dict)
    """Virtual time by index of the observing process."""

    def see(self, observer: Process, record: Record, now: float) -> None:
        """Note that the observer believes this now."""
        if self.holds(record):
            self.reached.setdefault(observer.index, now)
        elif not self.sticky:
            self.reached.pop(observer.index, None)


class Witness:
    """One for each world."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lives: dict[Life, Process] = {}
        self._verdicts: dict[tuple[MemberId, Generation, int], bool] = {}
        self._watchpoints: dict[MemberId, list[Watchpoint]] = {}
        self.excused: Callable[[Process, Process], bool] = lambda observer, subject: False
        """True when (observer, subject) cannot know better, for example across a cut network."""
        self.on_view: Callable[[Process], None] | None = None
        """Called after every change of a view, with its owner."""
        self.false_deaths = 0
        """Views in which a process became dead although it lives and can be reached."""
        self.false_subjects: set[Life] = set()
        self.false_log: list[str] = []
        self.deaths = 0
        """Views in which anybody became dead."""
        self.statuses = [0] * len(Status)
        """How often a view changed to each status."""
        self.problems: list[str] = []
        """Broken rules; empty in every correct run."""

    def born(self, process: Process) -> None:
        """A process started."""
        self._lives[(process.id, process.generation)] = process

    def watch(self, point: Watchpoint) -> Watchpoint:
        """Begin to note which observers believe this."""
        self._watchpoints.setdefault(point.subject, []).append(point)
        return point

    def unwatch(self, point: Watchpoint) -> None:
        """Stop noting."""
        self._watchpoints[point.subject].remove(point)

    def changed(self, observer: Process, old: Record | None, new: Record) -> None:
        """A view changed."""
        status = new.status
        if old is None or old.status is not status or old.generation != new.generation:
            self.statuses[status] += 1
            if status is Status.DEAD:
                self._buried(observer, new)
        if old is not None and old.generation == new.generation:
            if new.incarnation < old.incarnation or new.version < old.version:
                self.problem(f"{observer.id}: {new.id} fell from {old.order} to {new.order}")
        elif old is not None and new.generation < old.generation:
            self.problem(f"{observer.id}: {new.id} fell back to an earlier process")
        if status is not Status.ALIVE or new.incarnation:
            self._own_words(observer, new)
        points = self._watchpoints.get(new.id)
        if points:
            for point in points:
                point.see(observer, new, self._clock.now)
        if self.on_view is not None:
            self.on_view(observer)

    def problem(self, text: str) -> None:
        """Note a broken rule."""
        if len(self.problems) < PROBLEM_LIMIT:
            self.problems.append(f"at {self._clock.now:.3f}: {text}")

    def _buried(self, observer: Process, record: Record) -> None:
        """Judge a verdict where it is first given; members that repeat it inherit the judgement."""
        self.deaths += 1
        life = (record.id, record.generation)
        key = (*life, record.incarnation)
        false = self._verdicts.get(key)
        subject = self._lives.get(life)
        if subject is None or not subject.alive:
            return
        if false is None:
            false = not self.excused(observer, subject)
            self._verdicts[key] = false
            if false and len(self.false_log) < PROBLEM_LIMIT:
                self.false_log.append(f"at {self._clock.now:.3f}: {observer.id} buries {record.id}")
        if false:
            self.false_deaths += 1
            self.false_subjects.add(life)

    def _own_words(self, observer: Process, record: Record) -> None:
        """Check that only a member itself raises its incarnation, or says that it left."""
        subject = self._lives.get((record.id, record.generation))
        if subject is None:
            # A process that finds its address claimed by another takes a new generation.
            there = [p for (member, _), p in self._lives.items() if member == record.id]
            said = [one for p in there if (one := p.machine.record(p.id)) is not None]
            if all(one.generation < record.generation for one in said):
                self.problem(f"{observer.id} believes in {record.id}, which never ran")
            return
        own = subject.machine.record(subject.id)
        if own is not None and own.generation == record.generation:
            if record.incarnation > own.incarnation:
                self.problem(f"{observer.id} has {record.id} at an incarnation it never had")
            if record.status is Status.LEFT and subject.alive:
                self.problem(f"{observer.id} believes that {record.id} left")
