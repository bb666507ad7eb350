"""The repetitions of `pair`. Each runs every transfer once, into warm memory or into new memory."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

from torch import nn

from netbench import memory, upstream
from netbench.child import Child, Json
from netbench.models import clear, fresh_memory_only
from netbench.raw_end import RawReceiver
from netbench.replica import TimedPull, pull
from netbench.task import Task
from netloader.weights.capture import Weights, capture

_TOUCHED: Final = 0.05
"""Share of new memory that may be touched before anything is received: allocators' own data."""

_IDLE_S: Final = 15.0
"""After this long, a virtual machine's host has most of the freed memory
(docs/evidence/benchmarks.md)."""

Memory = Literal["prepared", "unprepared"]
COLD: Final[tuple[Memory, ...]] = ("prepared", "unprepared")

_OBJECT_BYTES: Final = 16 * 1024
"""Size of a tensor's Python objects, rounded up generously."""


@dataclass
class Seen:
    """Measurements, in order of repetition."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    setup_s: list[float] = field(default_factory=list)
    layout_s: list[float] = field(default_factory=list)
    replica_bytes: list[int] = field(default_factory=list)
    source_bytes: list[int] = field(default_factory=list)
    untouched: list[bool] = field(default_factory=list)
    bytes_ok: list[bool] = field(default_factory=list)


class _TransferRounds:
    """The common part of warm and cold rounds."""

    def __init__(self, task: Task, source: Child, ready: Json, raw: RawReceiver) -> None:
        self.seen = Seen()
        self._task = task
        self._source = source
        self._endpoint: str = ready["endpoint"]
        self._upstream: str = ready["upstream"]
        self._raw = raw
        self._truth = source.ask("sha256")

    def _note(self, name: str, seconds: float) -> None:
        self.seen.seconds[name].append(seconds)

    def _plain(self, name: str, lanes: int, *, fresh: bool) -> None:
        receive = self._raw.fresh if fresh else self._raw.warm
        self._note(name, receive(lanes, partial(self._source.tell, "raw_send", lanes=lanes)))
        self._source.hear()

    def _pull(self, weights: Weights, before: int) -> TimedPull:
        """One verified pull, with its peak of memory; `before` bytes were resident at the start."""
        there = self._source.ask("mark_memory")["bytes"]
        self._source.ask("first_send")  # Left from an earlier transfer.
        pulled = pull(weights, [self._endpoint])
        self.seen.replica_bytes.append(memory.peak() - before)
        self.seen.source_bytes.append(self._source.ask("peak_memory")["bytes"] - there)
        self.seen.setup_s.append(self._source.ask("first_send")["at"] - pulled.started)
        return pulled

    def _load_upstream(self, model: nn.Module) -> float:
        started = time.perf_counter()
        upstream.load(self._upstream, model)
        return time.perf_counter() - started

    def _lay_out(self, model: nn.Module) -> tuple[Weights, float]:
        started = time.perf_counter()
        weights = self._task.lay_out(model)
        return weights, time.perf_counter() - started

    def _check(self, weights: Weights) -> None:
        self.seen.bytes_ok.append(weights.sha256() == self._truth)


class Warm(_TransferRounds):
    """Rounds into the same memory again and again."""

    def __init__(self, task: Task, source: Child, ready: Json, raw: RawReceiver) -> None:
        super().__init__(task, source, ready, raw)
        self._weights, layout_s = self._lay_out(task.model())
        self.seen.layout_s.append(layout_s)
        self._model = task.model()
        theirs = capture(self._model)
        for weights in (self._weights, theirs):
            clear(weights)
        # A first round, which does not count: both touch the memory they use again, and show that
        # they deliver.
        pull(self._weights, [self._endpoint])
        self._check(self._weights)
        self._load_upstream(self._model)
        self._check(theirs)

    def round(self) -> None:
        self._plain("raw_one", 1, fresh=False)
        self._plain("raw_two", 2, fresh=False)
        weights = _as_new(self._weights)
        self._note("netloader", self._pull(weights, memory.mark()).seconds)
        self._note("upstream", self._load_upstream(self._model))
        unverified = pull(_as_new(self._weights), [self._endpoint], verify=False)
        self._note("netloader_unverified", unverified.seconds)


def _as_new(weights: Weights) -> Weights:
    """The same tensors, before a load computes anything (hash, chunk table)."""
    return replace(weights, manifest=replace(weights.manifest))


class Cold(_TransferRounds):
    """Rounds into memory that was never touched. With `prepare`, the machine has enough of it."""

    def __init__(
        self, task: Task, source: Child, ready: Json, raw: RawReceiver, *, prepare: bool
    ) -> None:
        super().__init__(task, source, ready, raw)
        self._prepare = prepare
        fresh_memory_only()

    def round(self) -> None:
        self._plain("raw_one", 1, fresh=False)
        self._plain("raw_two", 2, fresh=False)
        for name, lanes in (("plain", 1), ("plain_two", 2)):
            self._ready_memory()
            self._plain(name, lanes, fresh=True)
        self._ours("netloader", verify=True)
        self._theirs()
        self._ours("netloader_unverified", verify=False)

    def _ours(self, name: str, *, verify: bool) -> None:
        model, before = self._new()
        if not self._prepare:
            self._ready_memory()  # The measured time includes the layout, which touches some.
        weights, layout_s = self._lay_out(model)
        if self._prepare:
            self._ready_memory()
        if verify:
            self.seen.layout_s.append(layout_s)
            pulled = self._pull(weights, before + self._task.nbytes)
        else:
            pulled = pull(weights, [self._endpoint], verify=False)
        self._note(name, layout_s + pulled.seconds)
        self._check(weights)

    def _theirs(self) -> None:
        model, _ = self._new()
        self._ready_memory()
        self._note("upstream", self._load_upstream(model))
        self._check(capture(model))

    def _ready_memory(self) -> None:
        """Prepare right before memory is touched, because the host is quick to take it. This memory
        does not count for the peak."""
        if self._prepare:
            memory.take_back(self._task.nbytes)
        else:
            time.sleep(_IDLE_S)
        memory.mark()

    def _new(self) -> tuple[nn.Module, int]:
        """A model with no byte touched, and the bytes that were resident before it."""
        gc.collect()  # Otherwise the new model could reuse pages of the last transfer.
        before = memory.resident()
        model = self._task.model()
        touched = memory.resident() - before
        objects = _OBJECT_BYTES * len(self._task.rows)
        self.seen.untouched.append(touched < _TOUCHED * self._task.nbytes + objects)
        return model, before
