"""Places our threads on cores, so that they do not compete with the model's.

On CPU vLLM starts a worker with OpenMP bound to some cores (`GOMP_CPU_AFFINITY` and the like), and
OpenMP binds the main thread before Python runs. Every thread started later inherits this. Without
this module, sessions and Gloo's threads would all run on the first inference core, while the core
that vLLM leaves free stays idle.

By then the worker can no longer see which cores it was given first. The server's first process
notes them in the environment, which workers inherit, forked or spawned (`remember`). A thread that
serves replicas takes the cores that no inference thread of this worker or its siblings is bound to.
A thread that loads may take all cores, since nothing is inferred meanwhile.

If no core is left over, priority decides. Threads that move bytes get a lower one (`elsewhere`).
Python threads do not: if one waits for a core while holding the interpreter, the model's main
thread waits too.

On systems other than Linux, or where this is forbidden, threads stay where they are.
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
"""Not a setting: a server's first process uses it to inform those it starts."""

_BINDERS = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")
"""If one of these is set, OpenMP bound the process. Otherwise a set narrower than the first
process's was intended (numactl, a scheduler), and counts."""

NICE = 10
"""How much lower a thread's priority is when it moves bytes on one of the model's cores. It gets
about a tenth of a busy core, and all of an idle one. Where there are other cores, or nothing is
bound to any, a lower priority would only yield to other processes."""

OURS = "netloader-"
"""Prefix of our threads' names."""


@dataclass(frozen=True)
class Running:
    """One thread of this worker or of a sibling."""

    cores: frozenset[int]
    ours: bool
    """Whether this module placed it."""


def away_from(original: frozenset[int], threads: Iterable[Running]) -> frozenset[int]:
    """The cores that no inference thread is bound to, or all cores if none is left.

    A thread that may run on all cores is bound to none of them.
    """
    return (original - _bound(original, threads)) or original


def crowded(original: frozenset[int], threads: Iterable[Running]) -> bool:
    """Whether inference threads are bound to all cores."""
    return original <= _bound(original, threads)


def _bound(original: frozenset[int], threads: Iterable[Running]) -> set[int]:
    return {
        core
        for thread in threads
        if not thread.ours and thread.cores < original
        for core in thread.cores
    }


def originally(own: frozenset[int], environ: Mapping[str, str]) -> frozenset[int]:
    """The cores that a process was given before OpenMP bound it to some of them."""
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
    """Note which cores this process was given. Call early in each process; idempotent.

    A forked child that does not call this knows what its parent knew.
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
    """The cores that this process was given; empty if unknown."""
    if _memory is None:
        remember()
    return _memory.cores if _memory is not None else frozenset()


def step_aside(*, background: bool) -> None:
    """Move the calling thread, one of ours, off the inference cores. Threads that it starts inherit
    this.

    `background`: the thread serves others while this worker infers, so it moves to cores that no
    inference thread is bound to. Otherwise the thread loads before any inference and may use all
    cores. If the move is not possible, the thread stays where it is.
    """
    given = original()
    if not given:
        return
    try:
        os.sched_setaffinity(0, away_from(given, _running()) if background else given)
    except OSError as error:
        _log.debug("a thread stays where it is: %s", error)


def elsewhere(make: Callable[[], T]) -> T:
    """Call `make` in a thread that has stepped aside, and return or raise what `make` does.

    If that thread still shares the model's cores, its priority is lowered. For libraries that start
    their own threads to move bytes: those threads inherit cores and priority.
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

    # Not a pool: at exit the interpreter waits for pool threads, however long they take.
    TransferThread(aside, f"{OURS}aside").start()
    return made.result()


def _lower_priority() -> None:
    try:
        wanted = min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICE)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), wanted)
    except (AttributeError, OSError) as error:
        _log.debug("a thread keeps its priority: %s", error)


def _running() -> Iterator[Running]:
    """The threads of this process, and the main threads of its siblings: workers of one server
    share its cores, and each keeps to its own."""
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
            # Threads started by ours are recognised by their priority.
            yield Running(cores, tid in python or os.getpriority(os.PRIO_PROCESS, tid) > normal)
        except OSError as error:
            _log.debug("thread %d has ended: %s", tid, error)


def _children(pid: int) -> Iterator[int]:
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())
    except OSError as error:
        _log.debug("the children of process %d cannot be listed: %s", pid, error)
