"""One source, one replica, two processes, loopback: how near a load comes to what Gloo can do.

Each repetition runs, one after the other: plain Gloo on one group and on two; Netloader's whole
load; upstream's whole load; Netloader's once more without verification. Warm: into memory that is
in use. Cold: into memory that nobody has touched, new for each transfer, beside a plain receive
into `torch.empty`.

A whole load begins with the model's empty tensors and ends when all are filled: on our side the
chunk table, hello, rendezvous, process group, transfer, verification and goodbye, when cold also
the layout of small tensors; on upstream's the join, store, group, transfer and barrier.

`setup_ms` is the time until the first receive is posted: all that happens before bytes can flow.
`digest_overhead` is the share of a load's time that goes away without verification.
`extra_*_mib` is the peak of resident memory during our loads, above what was resident before and,
when cold, above the weights themselves.
"""

from __future__ import annotations

import gc
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from torch import nn

from netbench import memory, upstream
from netbench.child import Child, Json, starting
from netbench.common import lay_out
from netbench.figures import gbps, median, mib
from netbench.models import clear, empty_model, fresh_memory_only
from netbench.raw_end import RawEnd
from netbench.replica import Pulled, pull
from netbench.shapes import Row, rows_of
from netloader.weights import Weights, capture

_HOST: Final = "127.0.0.1"
_SEED: Final = 1
_TOUCHED: Final = 0.05
"""Share of new memory that may be there before anything was received: allocators' own notes."""


@dataclass
class _Figures:
    """What was seen, in order of repetition."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    setup_s: list[float] = field(default_factory=list)
    layout_s: list[float] = field(default_factory=list)
    replica_bytes: list[int] = field(default_factory=list)
    source_bytes: list[int] = field(default_factory=list)
    untouched: list[bool] = field(default_factory=list)
    bytes_ok: list[bool] = field(default_factory=list)


class Pair:
    """The replica's side of the benchmark: this process."""

    def __init__(self, shape: str, nbytes: int | None, *, cold: bool) -> None:
        self._rows: tuple[Row, ...] = rows_of(shape, nbytes)
        self._shape = shape
        self._cold = cold
        self._nbytes = sum(row.nbytes for row in self._rows)
        self._figures = _Figures()
        self._raw = RawEnd(self._nbytes)
        self._spec = {"shape": shape, "bytes": nbytes, "host": _HOST, "seed": _SEED}

    def run(self, repeat: int) -> Json:
        """All repetitions. Raises `ChildError`, `TransferError`, `UpstreamError`."""
        load = os.getloadavg()[0]
        with Child("source_process", self._spec) as source, starting([source]) as (ready,):
            for lanes in (1, 2):
                port = source.ask("raw_open", lanes=lanes)["port"]
                self._raw.open(lanes, _HOST, port, _HOST)
                source.hear()
                self._raw.warm(lanes, partial(source.tell, "raw_send", lanes=lanes))
                source.hear()
            truth = source.ask("sha256")
            rounds = _Cold if self._cold else _Warm
            one = rounds(self._rows, source, ready, self._raw, self._figures, truth)
            for _ in range(repeat):
                one.round()
        return self._report(repeat, load)

    def _report(self, repeat: int, load: float) -> Json:
        seen = self._figures
        rates = {
            name: [gbps(self._nbytes, seconds) for seconds in all_seconds]
            for name, all_seconds in seen.seconds.items()
        }
        typical = {name: median(values) for name, values in rates.items()}
        ours, raw = typical["netloader"], max(typical["raw_one"], typical["raw_two"])
        report: Json = {
            "benchmark": "pair",
            "memory": "cold" if self._cold else "warm",
            "shape": self._shape,
            "tensors": len(self._rows),
            "bytes": self._nbytes,
            "repeat": repeat,
            "load_before": load,
            "raw_gbps": raw,
            "netloader_gbps": ours,
            "upstream_gbps": typical["upstream"],
            "ratio_raw": ours / raw,
            "ratio_upstream": ours / typical["upstream"],
            "digest_overhead": 1
            - median(seen.seconds["netloader_unverified"]) / median(seen.seconds["netloader"]),
            "setup_ms": 1e3 * median(seen.setup_s),
            "layout_ms": 1e3 * median(seen.layout_s),
            "extra_replica_mib": mib(max(seen.replica_bytes)),
            "extra_source_mib": mib(max(seen.source_bytes)),
            "bytes_ok": all(seen.bytes_ok),
        }
        if self._cold:
            report |= {
                "plain_gbps": typical["plain"],
                "plain_two_gbps": typical["plain_two"],
                "ratio_plain": ours / typical["plain"],
                "ratio_plain_two": ours / typical["plain_two"],
                "untouched": all(seen.untouched),
            }
        return report | {"repetitions_gbps": rates, "setups_ms": [1e3 * s for s in seen.setup_s]}


class _Rounds:
    """What both kinds of rounds share."""

    def __init__(
        self,
        rows: tuple[Row, ...],
        source: Child,
        ready: Json,
        raw: RawEnd,
        figures: _Figures,
        truth: Json,
    ) -> None:
        self._rows = rows
        self._source = source
        self._endpoint: str = ready["endpoint"]
        self._upstream: str = ready["upstream"]
        self._raw = raw
        self._figures = figures
        self._truth = truth
        self._nbytes = sum(row.nbytes for row in rows)

    def _note(self, name: str, seconds: float) -> None:
        self._figures.seconds[name].append(seconds)

    def _plain(self, name: str, lanes: int, *, fresh: bool) -> None:
        receive = self._raw.fresh if fresh else self._raw.warm
        self._note(name, receive(lanes, partial(self._source.tell, "raw_send", lanes=lanes)))
        self._source.hear()

    def _pull(self, weights: Weights, here: int) -> Pulled:
        """One verified pull, with an eye on both sides' memory. `here`: this side's before it."""
        there = self._source.ask("mark_memory")["bytes"]
        pulled = pull(weights, [self._endpoint])
        self._figures.replica_bytes.append(memory.peak() - here)
        self._figures.source_bytes.append(self._source.ask("peak_memory")["bytes"] - there)
        self._figures.setup_s.append(pulled.setup_s)
        return pulled

    def _check(self, weights: Weights) -> None:
        self._figures.bytes_ok.append(weights.sha256() == self._truth)


class _Warm(_Rounds):
    """Into the same memory again and again."""

    def __init__(
        self,
        rows: tuple[Row, ...],
        source: Child,
        ready: Json,
        raw: RawEnd,
        figures: _Figures,
        truth: Json,
    ) -> None:
        super().__init__(rows, source, ready, raw, figures, truth)
        model = empty_model(rows)
        started = time.perf_counter()
        self._weights = lay_out(model)
        figures.layout_s.append(time.perf_counter() - started)
        self._theirs = empty_model(rows)
        for weights in (self._weights, capture(self._theirs)):
            clear(weights)
        # Once before it counts: both sides touch what they will use again, and deliver the truth.
        pull(self._weights, [self._endpoint])
        upstream.load(self._upstream, self._theirs)
        self._check(self._weights)
        self._check(capture(self._theirs))

    def round(self) -> None:
        self._plain("raw_one", 1, fresh=False)
        self._plain("raw_two", 2, fresh=False)
        self._note("netloader", self._pull(self._weights, memory.mark()).seconds)
        started = time.perf_counter()
        upstream.load(self._upstream, self._theirs)
        self._note("upstream", time.perf_counter() - started)
        self._note(
            "netloader_unverified", pull(self._weights, [self._endpoint], verify=False).seconds
        )


class _Cold(_Rounds):
    """Into memory that was never touched."""

    def round(self) -> None:
        fresh_memory_only()
        self._plain("raw_one", 1, fresh=False)
        self._plain("raw_two", 2, fresh=False)
        self._plain("plain", 1, fresh=True)
        self._plain("plain_two", 2, fresh=True)
        self._ours("netloader", verify=True)
        self._theirs()
        self._ours("netloader_unverified", verify=False)

    def _ours(self, name: str, *, verify: bool) -> None:
        gc.collect()  # What the last transfer left must not count as this one's.
        before = memory.mark() + self._nbytes
        model = self._new()
        started = time.perf_counter()
        weights = lay_out(model)
        layout_s = time.perf_counter() - started
        if verify:
            pulled = self._pull(weights, before)
            self._figures.layout_s.append(layout_s)
        else:
            pulled = pull(weights, [self._endpoint], verify=False)
        self._note(name, layout_s + pulled.seconds)
        self._check(weights)

    def _theirs(self) -> None:
        model = self._new()
        started = time.perf_counter()
        upstream.load(self._upstream, model)
        self._note("upstream", time.perf_counter() - started)
        self._check(capture(model))

    def _new(self) -> nn.Module:
        """A model of which no byte is there yet."""
        gc.collect()  # What the last transfer left must not lend its pages.
        before = memory.resident()
        model = empty_model(self._rows)
        self._figures.untouched.append(
            memory.resident() - before < max(_TOUCHED * self._nbytes, memory.MIB)
        )
        return model
