"""Who is told what happens in a pull."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from netloader.discovery.candidate import Process
from netloader.replica.acceptance import Promise
from netloader.replica.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Intake:
    """How far a pull is."""

    held: int = 0
    """Bytes of weights in place."""
    brought: Mapping[Process, int] = field(default_factory=dict)
    """The sources being pulled from now, and the bytes that each process has brought since the pull
    began, in earlier sessions as well."""
    over: bool = False
    """Whether a run has ended: nothing comes until the next one."""


@dataclass(frozen=True, slots=True)
class PullObserver:
    """Callbacks that are told what happens in a pull. Each is called by one thread at a time."""

    progress: Callable[[int], object] = lambda nbytes: None
    """Told the bytes of each chunk once it is verified and in place, by the streams' threads."""
    accused: Callable[[Process], object] = lambda process: None
    """Told about a process whose bytes were not what it had promised."""
    looked: Callable[[Intake], object] = lambda intake: None
    """Told how far the pull is: every `look_s`, also while nothing comes, and once at the end of a
    run. Called by the thread that runs the pull."""
    ended: Callable[[Outcome, int], object] = lambda how, unfinished: None
    """Told how pulling from one source has ended, and how many chunks another one must bring."""

    # The pull stands still during the following five, so that nobody is handed a chunk that the
    # pull has given up meanwhile. They must not call back.
    promised: Callable[[Promise], object] = lambda promise: None
    """Told what all chunks will be, by the first source, and by the next one after `voided`."""
    verified: Callable[[int], object] = lambda chunk: None
    """Told the id of each chunk that is verified and in place."""
    asked: Callable[[int], object] = lambda chunk: None
    """Told the id of each chunk that was asked of a source on another host."""
    given_up: Callable[[Collection[int]], object] = lambda chunks: None
    """Told the ids of such chunks that do not come from there."""
    voided: Callable[[], object] = lambda: None
    """Told that the promise was broken: once this returns, all chunks may be overwritten."""
