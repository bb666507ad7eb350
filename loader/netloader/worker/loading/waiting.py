"""Waiting for a peer that reads storage, instead of reading it as well.

Workers that start together find nobody who has their weights. Those that see each other elect who
reads (`discovery/election.py`), and the others wait until that worker serves. Every wait is
bounded:

    nobody else loads the same                this worker reads, without any wait
    the reader dies                           the next one reads, at once
    the elected worker does not begin         the next one reads, after `grace_s`
    the reader reads nothing in `PEER_BUDGET`,
    or less than `MIN_RATE`                   the next one reads
    the reader has read, and serves nobody    everybody reads
    `WAIT_FOR_SOURCE` seconds have passed     this worker reads, whatever the others do
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from netloader.discovery.candidate import Process
from netloader.discovery.election import Contender, Electorate, MemberStart, Read, Wait, elect
from netloader.identity.identity import Identity, Layout
from netloader.replica.budget import Budget
from netloader.replica.settings import PullSettings
from netloader.system import memory
from netloader.worker.loading.bar import Bar
from netloader.worker.loading.reading import introduce
from netloader.worker.loading.sought import Sought

_log = logging.getLogger(__name__)


_Served = frozenset[tuple[Layout, Process]]
"""Who serves the wanted weights, in which layout."""


@dataclass(frozen=True, slots=True)
class WaitSettings:
    """How workers that start together wait for each other."""

    wait_s: float = 300.0
    """Seconds of waiting in all (`WAIT_FOR_SOURCE`)."""
    loaders: int = 1
    """How many read (`STORAGE_LOADERS`)."""
    settle_s: float = 0.25
    """Seconds for which a worker with company listens before it reads, so that those which come to
    this point in the same moment see each other; and once more after it has said that it reads, so
    that of several which say so only the first stay. Gossip needs less than half of this."""
    grace_s: float = 3.0
    """Seconds in which an elected worker must begin to read, before the next one does: it may have
    another view, or be held up."""
    look_s: float = 0.05
    """Seconds between two looks at the mesh. A look is cheap, and a wait ends this much late."""
    tell_s: float = 10.0
    """Seconds between two log lines about the reader."""


@dataclass(frozen=True, slots=True)
class SourceCame:
    """A peer serves these weights."""

    only_processed: bool
    """Whether only as post-processing left them."""


@dataclass(frozen=True, slots=True)
class ReadStorage:
    """This worker should read storage."""

    reason: str = ""
    """Why, if it has waited for others; empty otherwise."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reason, if there is one."""
        return (self.reason,) if self.reason else ()


class WaitPolicy:
    """The decisions of one wait. Time is passed in, in seconds."""

    def __init__(
        self,
        me: MemberStart | None,
        identity: Identity,
        nbytes: int,
        settings: WaitSettings,
        pull_settings: PullSettings,
        now: float,
        until: float,
    ) -> None:
        """`me` is None for a worker that cannot read storage. `nbytes` is the size of the model;
        `until` is when the wait ends at the latest."""
        self._me = me
        self._identity = identity
        self._nbytes = nbytes
        self._settings = settings
        self._pull_settings = pull_settings
        self._began = now
        self._until = until
        self._elected: dict[MemberStart, float] = {}
        self._readers: dict[MemberStart, Budget] = {}
        self._passed: dict[MemberStart, str] = {}

    def decide(self, electorate: Electorate, now: float) -> ReadStorage | Wait:
        """What to do, given everybody who loads the same now."""
        limits, waited_s = self._settings, now - self._began
        if electorate.unshared:
            return ReadStorage(electorate.unshared)
        if now >= self._until:
            return ReadStorage(f"waited {limits.wait_s:g} s for a source (WAIT_FOR_SOURCE)")
        self._judge(electorate, now)
        choice = elect(self._me, self._identity, electorate, limits.loaders, self._passed)
        if isinstance(choice, Wait):
            for one in choice.whom:
                self._elected.setdefault(one.process, now)
            return choice
        if (electorate.company and waited_s < limits.settle_s) or (
            electorate.unnamed and waited_s < limits.grace_s
        ):
            return Wait(())
        reasons = [f"{process[0]} {why}" for process, why in self._passed.items()]
        gone = [str(one[0]) for one in self._elected if not electorate.has(one)]
        return ReadStorage("; ".join([*reasons, *(f"{name} is gone" for name in gone)]))

    def stands(self, electorate: Electorate) -> bool:
        """Whether this worker, which has said that it reads, is one of those that should."""
        loaders, passed = self._settings.loaders, self._passed
        choice = elect(self._me, self._identity, electorate, loaders, passed, claimed=True)
        return isinstance(choice, Read)

    def _judge(self, electorate: Electorate, now: float) -> None:
        """Pass over whoever does not get on with it."""
        for one in electorate.contenders:
            if one.process in self._passed:
                continue
            if one.reads:
                budget = self._readers.setdefault(one.process, self._budget(now))
                slow = budget.over(one.held, now)
                if slow is not None:
                    self._passed[one.process] = f"reads too slowly: {slow}"
            elif now - self._elected.get(one.process, now) > self._settings.grace_s:
                self._passed[one.process] = "was to read storage, and has not begun"

    def _budget(self, now: float) -> Budget:
        return Budget(self._pull_settings, self._nbytes, now, has_storage=True)


class SourceWait:
    """The waits of one load. Together they take no longer than `wait_s`."""

    def __init__(
        self,
        sought: Sought,
        settings: WaitSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._sought = sought
        config = sought.worker.config
        self._settings = settings or WaitSettings(config.wait_for_source_s, config.storage_loaders)
        self._clock = clock
        self._sleep = sleep
        self._until: float | None = None
        self._worker = sought.worker
        self._awaits: tuple[str, ...] = ()
        self._awaits_since = clock()
        self._told: tuple[str, ...] = ()
        """For whom the mesh has been told that it waits."""
        self._waited: defaultdict[str, float] = defaultdict(float)
        """Seconds by the name of the worker for which it has waited."""

    def wait(self) -> SourceCame | ReadStorage:
        """Wait until a source comes that was not there before, or this worker should read
        storage."""
        if self._in_vain():
            return ReadStorage()
        before = self._sources()
        if self._until is None:
            self._until = self._clock() + self._settings.wait_s
        elif self._clock() >= self._until:
            # Sources came, and brought too little. More of their kind would go on for ever.
            return ReadStorage(f"sources came and failed for {self._settings.wait_s:g} s")
        if not self._survey().company:
            return ReadStorage()
        if self._sought.readable:
            self._say(storage="able", content=introduce(self._sought.content))
        began = self._clock()
        bar = Bar(
            "Waiting for another worker's read",
            self._sought.nbytes,
            shown=self._sought.shows_progress,
            clock=self._clock,
        )
        try:
            came = self._watch(before, self._until, bar)
        finally:
            self._await(())
        self._worker.telemetry.waited(
            "source" if isinstance(came, SourceCame) else "storage", self._clock() - began
        )
        if isinstance(came, SourceCame):
            self._say(storage="")
        elif came.reason:
            _log.info("reading storage after all: %s", came.reason)
        return came

    @property
    def waited(self) -> tuple[tuple[str, float], ...]:
        """For whom this worker has waited while they read storage, and for how many seconds."""
        return tuple(self._waited.items())

    def _watch(self, before: _Served, until: float, bar: Bar) -> SourceCame | ReadStorage:
        sought, membership = self._sought, self._worker.membership
        policy = WaitPolicy(
            (membership.name, membership.generation) if sought.readable else None,
            sought.identity,
            sought.nbytes,
            self._settings,
            self._worker.config.pull_settings,
            self._clock(),
            until,
        )
        told: tuple[float, tuple[str, ...]] | None = None
        while True:
            came = self._sources() - before
            if came:
                return SourceCame(all(layout == "runtime" for layout, _ in came))
            now = self._clock()
            electorate = self._survey()
            move = policy.decide(electorate, now)
            if isinstance(move, ReadStorage):
                if move.reason or not electorate.company or not sought.readable:
                    return move
                self._await(())
                self._say(storage="reading", held=0)
                self._sleep(self._settings.settle_s)
                if policy.stands(self._survey()):
                    return move
                self._say(storage="able")
                continue
            self._await(move.whom)
            if move.whom:
                names = tuple(one.name for one in move.whom)
                bar.at(max(one.held for one in move.whom), ", ".join(names))
                # A bar says it as well.
                late = told is not None and now - told[0] >= self._settings.tell_s
                if told is None or told[1] != names or (late and not bar.shown):
                    told = (now, names)
                    self._tell(move.whom, until - now)
            self._sleep(self._settings.look_s)

    def _in_vain(self) -> bool:
        """Whether there is nothing to wait for, whoever else loads."""
        waits = self._settings.wait_s > 0 and not self._worker.membership.absent
        return not waits or not self._sought.shareable

    def _survey(self) -> Electorate:
        return self._worker.peers.survey(self._sought.identity, self._sought.transports)

    def _sources(self) -> _Served:
        """Who serves these weights, in which layout."""
        return frozenset(
            (identity.layout, (one.endpoint, one.generation or 0))
            for identity in (self._sought.identity, self._sought.processed)
            if identity is not None
            for one in self._worker.peers.find(identity, self._sought.transports)
        )

    def _tell(self, whom: tuple[Contender, ...], left_s: float) -> None:
        nbytes = self._sought.nbytes
        readers = ", ".join(
            f"{one.name} ({100 * one.held // max(1, nbytes)} %)" if one.reads else one.name
            for one in whom
        )
        _log.info(
            "waiting for %s to read %s from storage for all; this worker reads it too in %.0f s at "
            "the latest (WAIT_FOR_SOURCE)",
            readers,
            memory.text(nbytes),
            left_s,
        )

    def _await(self, whom: tuple[Contender, ...]) -> None:
        """Note for whom this worker waits from now on, and say so: at once when that begins and
        when it is over."""
        names, now = tuple(one.name for one in whom), self._clock()
        for name in self._awaits:
            self._waited[name] += now - self._awaits_since
        self._awaits, self._awaits_since = names, now
        if names != self._told:
            at_once = not names or not self._told
            role = self._sought.identity.role
            if self._worker.progress.tell(role, at_once=at_once, awaits=names):
                self._told = names

    def _say(self, **changes: object) -> None:
        self._worker.membership.update(self._sought.identity.role, **changes)
