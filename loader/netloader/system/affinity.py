"""Where our threads run, so that they do not fight the model's.

On CPU vLLM starts a worker with OpenMP bound to some cores (`GOMP_CPU_AFFINITY` and the like), and
OpenMP binds the main thread before Python runs. Every thread that is started later inherits this:
without a word from us, sessions and the threads in which Gloo moves bytes would all run on the
first inference core, while the core that vLLM leaves free stays idle.

The worker cannot see any more which cores it was given before that. The first process of the server
notes it in the environment, which workers inherit, forked or spawned (`remember`). A thread that
serves replicas takes what no inference thread of this worker or its siblings is bound to; one that
loads may take all, since nothing is inferred meanwhile.

Where no core is left over, priority decides. Threads that move bytes get a lower one (`elsewhere`).
Python threads do not: one that has to wait for a core while it holds the interpreter would make the
model's main thread wait with it.

On other systems than Linux, or where it is forbidden, threads stay where they are.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from netloader.system.threads import TransferThread

_log = logging.getLogger(__name__)

T = TypeVar("T")

ENVIRONMENT = "NETLOADER_ORIGINAL_CORES"
"""Not a setting: what the first process of a server tells those it starts."""

_BINDERS = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")
"""With one of these a process was bound by OpenMP. Without, a narrower set than the first process's
was meant (numactl, a scheduler), and counts."""

NICE = 10
"""How much lower than the model's the priority of a thread is that moves bytes on a core of the
model's: about a tenth of it while that is busy, all of it while it is idle. Where there are other
cores, or nothing is bound to any, it would only yield to strangers."""

OURS = "netloader-"
"""How the names of our threads begin."""


@dataclass(frozen=True)
class Running:
    """One thread of this worker or of a sibling."""

    cores: frozenset[int]
    ours: bool
    """Placed by this module."""


def away_from(original: frozenset[int], threads: Iterable[Running]) -> frozenset[int]:
    """The cores that no inference thread is bound to; all when none is left.

    A thread that may run on all cores is bound to none.
    """
    return (original - _bound(original, threads)) or original


def crowded(original: frozenset[int], threads: Iterable[Running]) -> bool:
    """Whether inference threads are bound to every core there is."""
    return original <= _bound(original, threads)


def _bound(original: frozenset[int], threads: Iterable[Running]) -> set[int]:
    return {
        core
        for thread in threads
        if not thread.ours and thread.cores < original
        for core in thread.cores
    }


def originally(own: frozenset[int], environ: Mapping[str, str]) -> frozenset[int]:
    """The cores a process was given, before OpenMP bound it to some of them."""
    noted = environ.get(ENVIRONMENT, "")
    if not any(environ.get(name) for name in _BINDERS):
        return own
    try:
        before = frozenset(map(int, noted.split(",")))
    except ValueError:
        _log.debug("%s=%r is no list of cores", ENVIRONMENT, noted)
        return own
    return before if own <= before else own


@dataclass(frozen=True)
class _OriginalCores:
    pid: int
    cores: frozenset[int]


_memory: _OriginalCores | None = None


def remember(environ: MutableMapping[str, str] = os.environ) -> None:
    """Note which cores this process was given. To be called early in each process; idempotent.

    A forked child that does not call it knows what its parent knew.
    """
    global _memory
    if _memory is not None and _memory.pid == os.getpid():
        return
    try:
        own = frozenset(os.sched_getaffinity(0))
    except (AttributeError, OSError) as error:
        _log.debug("cores cannot be asked for here: %s", error)
        return
    _memory = _OriginalCores(os.getpid(), originally(own, environ))
    environ.setdefault(ENVIRONMENT, ",".join(map(str, sorted(own))))


def original() -> frozenset[int]:
    """The cores this process was given; empty where that is not known."""
    if _memory is None:
        remember()
    return _memory.cores if _memory is not None else frozenset()


def step_aside(*, background: bool) -> None:
    """Move the calling thread, one of ours, off the inference cores. Threads that it starts inherit
    this.

    `background`: it serves others while this worker infers, so it goes where no inference thread is
    bound to. Otherwise it loads while nothing is inferred yet, and may use all cores. What is not
    possible here is left as it is.
    """
    given = original()
    if not given:
        return
    try:
        os.sched_setaffinity(0, away_from(given, _running()) if background else given)
    except OSError as error:
        _log.debug("a thread stays where it is: %s", error)


def elsewhere(make: Callable[[], T]) -> T:
    """Call `make` in a thread that has stepped aside and, where it shares the model's cores all the
    same, has a lower priority: for libraries that start threads of their own to move bytes, which
    inherit both. Returns, and raises, what it does.
    """

    made: Future[T] = Future()

    def aside() -> None:
        step_aside(background=True)
        if crowded(original(), _running()):
            _lower_priority()
        try:
            made.set_result(make())
        except BaseException as error:  # noqa: BLE001 - raised by `result` below.
            made.set_exception(error)

    # No pool: the interpreter waits for the threads of pools when it ends, however long they take.
    TransferThread(aside, f"{OURS}aside").start()
    return made.result()


def _lower_priority() -> None:
    try:
        wanted = min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICE)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), wanted)
    except (AttributeError, OSError) as error:
        _log.debug("a thread keeps its priority: %s", error)


def _running() -> Iterator[Running]:
    """The threads of this process, and the main threads of those with the same parent: workers of
    one server share its cores, and each keeps to its own."""
    yield from _threads(os.getpid(), everyone=True)
    for sibling in _children(os.getppid()):
        if sibling != os.getpid():
            yield from _threads(sibling, everyone=False)


def _threads(pid: int, *, everyone: bool) -> Iterator[Running]:
    try:
        normal = os.getpriority(os.PRIO_PROCESS, pid)
        tids = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError as error:
        _log.debug("process %d cannot be looked at: %s", pid, error)
        return
    python = {one.native_id for one in threading.enumerate() if one.name.startswith(OURS)}
    for tid in tids if everyone else [pid]:
        try:
            cores = frozenset(os.sched_getaffinity(tid))
            # Those that ours have started are told by their priority.
            yield Running(cores, tid in python or os.getpriority(os.PRIO_PROCESS, tid) > normal)
        except OSError as error:
            _log.debug("thread %d has ended: %s", tid, error)


def _children(pid: int) -> Iterator[int]:
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())
    except OSError as error:
        _log.debug("the children of process %d cannot be listed: %s", pid, error)
