"""What becomes of a load when one source dies in the middle and another is left.

The sources are processes on loopback. Each trial loads once undisturbed, and once while a random
source is killed with SIGKILL. The moment is drawn from the time that an undisturbed load takes.
Then the source is started again. Plain Gloo and upstream, undisturbed and from one source, run in
turns with these. Upstream's answer to a dead source is not timed: its load fails, and the model
comes from storage.

`refetched_chunks` counts chunks that were verified a second time. `surplus_bytes` counts bytes
beyond the weights, in messages that arrived whole. `digests_ok` compares the SHA-256 of every
tensor with the source's, after every disturbed load into zeroed memory. `extra_s` is the median
time of disturbed loads minus that of undisturbed ones.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from typing import Final

from torch import nn

from netbench import upstream
from netbench.child import START_TIMEOUT_S, Child, Json
from netbench.figures import gbps, median
from netbench.models import clear
from netbench.raw_end import RawReceiver
from netbench.replica import TimedPull, pull
from netbench.task import Task
from netloader.errors import NetloaderError
from netloader.weights.capture import Weights, capture

_HOST: Final = "127.0.0.1"
_LANES: Final = 1

MIN_SOURCES: Final = 2
"""One source dies, so another must be left."""


def measure(task: Task, *, sources: int, trials: int, seed: int | None = None) -> Json:
    """`seed` draws the same victims and moments again. Raises `ChildError`, `UpstreamError`."""
    seed = secrets.randbits(32) if seed is None else seed
    lot = random.Random(seed)
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = defaultdict(list)
    rows: list[Json] = []
    weights = task.lay_out(task.model())
    model = task.model()
    clear(capture(model))
    with _SourceProcesses(task, sources) as alive:
        raw = RawReceiver(task.nbytes)
        clear(weights)
        pull(weights, alive.endpoints)  # A first load, which does not count.
        for _ in range(trials):
            # A killed source takes its link with it, so each trial has a link of its own.
            seconds["raw"].append(alive.raw(raw))
            clear(weights)
            seconds["undisturbed"].append(pull(weights, alive.endpoints).seconds)
            seconds["upstream"].append(alive.upstream(model))
            clear(weights)
            victim = lot.randrange(sources)
            moment = lot.uniform(0, median(seconds["undisturbed"]))
            row = _disturbed(weights, alive, victim, moment)
            row["digests_ok"] = weights.sha256() == alive.truth
            rows.append(row)
            alive.restart(victim)
    typical = {name: median(values) for name, values in seconds.items()}
    completed = [row["seconds"] for row in rows if row["completed"]]
    return {
        "benchmark": "kill",
        **task.report(),
        "sources": sources,
        "trials": trials,
        "seed": seed,
        "load_before": load,
        "completed": len(completed),
        "killed_midway": sum(row["killed_midway"] for row in rows),
        "refetched_chunks": sum(row["refetched_chunks"] for row in rows),
        "surplus_bytes": sum(row["surplus_bytes"] for row in rows),
        "digests_ok": all(row["digests_ok"] for row in rows),
        "undisturbed_s": typical["undisturbed"],
        "extra_s": median(completed) - typical["undisturbed"] if completed else None,
        "raw_gbps": gbps(task.nbytes, typical["raw"]),
        "netloader_gbps": gbps(task.nbytes, typical["undisturbed"]),
        "upstream_gbps": gbps(task.nbytes, typical["upstream"]),
        "repetitions_s": dict(seconds),
        "all_trials": rows,
    }


def _disturbed(weights: Weights, alive: _SourceProcesses, victim: int, moment: float) -> Json:
    """One load during which a source is killed, `moment` seconds after it began."""
    verified = 0
    at_kill: list[int] = []

    def progress(nbytes: int) -> None:
        nonlocal verified
        verified += nbytes

    def kill() -> None:
        at_kill.append(verified)
        alive.kill(victim)

    timer = threading.Timer(moment, kill)
    started = time.perf_counter()
    timer.start()
    pulled: TimedPull | None = None
    problem = ""
    try:
        pulled = pull(weights, alive.endpoints, progress=progress)
    except NetloaderError as error:
        problem = str(error)
    seconds = time.perf_counter() - started
    timer.join()
    return {
        "victim": victim,
        "killed_after_s": moment,
        "killed_midway": at_kill[0] < weights.manifest.nbytes and moment < seconds,
        "verified_bytes_then": at_kill[0],
        "completed": pulled is not None,
        "problem": problem,
        "seconds": pulled.seconds if pulled is not None else seconds,
        "refetched_chunks": pulled.verified - pulled.chunks if pulled is not None else 0,
        "surplus_bytes": pulled.surplus_bytes if pulled is not None else 0,
        "failures": list(pulled.failures) if pulled is not None else [],
    }


class _SourceProcesses:
    """Source processes, one of which is killed and replaced now and then."""

    def __init__(self, task: Task, count: int) -> None:
        self._task = task
        self._stack = ExitStack()
        self._children = [self._start() for _ in range(count)]
        self._ready = [child.hear(START_TIMEOUT_S) for child in self._children]
        self.truth = self._children[0].ask("sha256")

    @property
    def endpoints(self) -> list[str]:
        return [ready["endpoint"] for ready in self._ready]

    def raw(self, raw: RawReceiver) -> float:
        """Seconds of a plain transfer from the first source, over a new link."""
        source = self._children[0]
        raw.open(_LANES, _HOST, source.ask("raw_open", lanes=_LANES)["port"], _HOST)
        source.hear()
        seconds = raw.warm(_LANES, partial(source.tell, "raw_send", lanes=_LANES))
        source.hear()
        return seconds

    def upstream(self, model: nn.Module) -> float:
        """Seconds of upstream's load from the first source."""
        started = time.perf_counter()
        upstream.load(self._ready[0]["upstream"], model)
        return time.perf_counter() - started

    def kill(self, number: int) -> None:
        self._children[number].kill()

    def restart(self, number: int) -> None:
        self._children[number].close()
        self._children[number] = self._start()
        self._ready[number] = self._children[number].hear(START_TIMEOUT_S)

    def _start(self) -> Child:
        return self._stack.enter_context(Child("source_process", self._task.spec(host=_HOST)))

    def __enter__(self) -> _SourceProcesses:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()
