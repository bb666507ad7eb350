"""What serving weights costs the users of the model: time between tokens.

Two real servers have one random model on CPU, one without and one with `RATE_LIMIT`. Each round has
a phase of every kind, in random order: each server is idle; a replica pulls from one or the other
over and over; plain Gloo, as the raw limit, moves as many bytes as `RATE_LIMIT` allows. The two
ends of that transfer are strangers to the server, but cost it cycles and memory bandwidth as well.
The second server is idle once more, which counts as idle too; its difference from the first time is
noise. Phases are short and many, because machines get faster and slower within a minute.

The replica runs without a model and at the lowest priority, so that its own work does not count as
the source's. It moves no more than the source allows.

With `uni` the model is bound to all cores but the last, and replica and strangers to that one,
because they stand for other machines. With `mp` vLLM binds the model itself, and the engine's
process spins on the remaining core. So with two cores none is free, and anything that runs slows
down tokens.

Upstream's algorithm serves no model and has no place here.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from netbench import checkpoint
from netbench.child import Child, Json, starting
from netbench.figures import gbps
from netbench.server import VllmServer
from netloader.source.throttle import Throttle

_LOWEST: Final = 19
_SETTLE_S: Final = 3.0

_SESSIONS: Final = 8
"""Sessions that a server may have by default, for model and draft. They determine the size of
messages."""

_PHASES: Final = ("idle_uncapped", "uncapped", "idle_capped", "raw", "capped", "idle_again")

_IDLE: Final = ("idle_capped", "idle_again")
_COMPARED: Final = {
    "uncapped": (("uncapped",), ("idle_uncapped",)),
    "capped": (("capped",), _IDLE),
    "raw": (("raw",), _IDLE),
    "capped_raw": (("capped",), ("raw",)),
    "noise": (("idle_again",), ("idle_capped",)),
}
"""Ratios, and the phases whose gaps each compares."""


def measure(*, nbytes: int, rate_limit: int, executor: str, seconds: float, repeat: int) -> Json:
    """`rate_limit` in bytes per second, `executor` one of `server.EXECUTORS`. Raises `ServerError`,
    `ChildError`."""
    load = os.getloadavg()[0]
    limits: dict[str, Json] = {"uncapped": {}, "capped": {"RATE_LIMIT": rate_limit}}
    *first, last = sorted(os.sched_getaffinity(0))
    apart = executor == "uni" and bool(first)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netbench-")))
        model = checkpoint.write(folder / "model", nbytes)
        servers: dict[str, VllmServer] = {}
        movers: dict[str, Child] = {}
        for name, extra in limits.items():
            mesh = {"MESH_DIRECTORY": str(folder / f"{name}-mesh")}
            # One after the other, because both at once would wait for each other's cores.
            server = VllmServer(model, folder / name, extra | mesh, executor=executor)
            servers[name] = stack.enter_context(server)
            server.wait_ready()
            if apart:
                server.bind(first, _SETTLE_S)
        core = last if apart else None
        for name in limits:
            where = {"directory": str(folder / f"{name}-mesh")}
            movers[name] = Child("puller", where, nice=_LOWEST, core=core)
        pace = {"rate": rate_limit, "message_bytes": Throttle(rate_limit, _SESSIONS).message_bytes}
        movers["raw"] = Child("stranger", pace, nice=_LOWEST, core=core)
        pulled, *_ = stack.enter_context(starting(list(movers.values())))
        for server in servers.values():
            server.token_gaps(_SETTLE_S)
        rounds = _ServingRounds(servers, movers, seconds)
        for number in range(repeat):
            rounds.round(number)
    return {
        "benchmark": "serving",
        "bytes": pulled["bytes"],
        "tensors": pulled["tensors"],
        "rate_limit": rate_limit,
        "executor": executor,
        "bound": apart,
        "seconds": seconds,
        "repeat": repeat,
        "load_before": load,
        **rounds.report(),
    }


class _ServingRounds:
    """Rounds of one phase of each kind."""

    def __init__(
        self, servers: Mapping[str, VllmServer], movers: Mapping[str, Child], seconds: float
    ) -> None:
        self._servers = servers
        self._movers = movers
        self._seconds = seconds
        self._gaps: dict[str, list[list[float]]] = defaultdict(list)
        self._moved: dict[str, list[float]] = defaultdict(list)

    def round(self, number: int) -> None:
        """Every phase once."""
        for name in random.Random(number).sample(_PHASES, len(_PHASES)):
            mover = self._movers.get(name)
            if mover is not None:
                mover.tell("pull", seconds=self._seconds)
            server = self._servers["uncapped" if name.endswith("uncapped") else "capped"]
            self._gaps[name].append(server.token_gaps(self._seconds))
            if mover is not None:
                answer = mover.hear()
                self._moved[name].append(gbps(answer["bytes"], answer["seconds"]))

    def report(self) -> Json:
        phases = {name: _phase(self._of([name])) for name in _PHASES}
        for name, rates in self._moved.items():
            phases[name]["moved_gbps"] = sum(rates) / len(rates)
        return {
            **{f"p99_ratio_{name}": self._ratio(*two, 0.99) for name, two in _COMPARED.items()},
            **{f"p50_ratio_{name}": self._ratio(*two, 0.50) for name, two in _COMPARED.items()},
            "phases": phases,
            "repetitions_p50_ms": self._each(0.50),
            "repetitions_p99_ms": self._each(0.99),
            "repetitions_moved_gbps": dict(self._moved),
        }

    def _of(self, names: Iterable[str]) -> list[float]:
        """All gaps of these phases, ascending."""
        return sorted(gap for name in names for gaps in self._gaps[name] for gap in gaps)

    def _ratio(self, names: Sequence[str], others: Sequence[str], share: float) -> float:
        return percentile(self._of(names), share) / percentile(self._of(others), share)

    def _each(self, share: float) -> Json:
        return {
            name: [1e3 * percentile(sorted(gaps), share) for gaps in rounds]
            for name, rounds in self._gaps.items()
        }


def _phase(ordered: Sequence[float]) -> Json:
    return {
        "tokens": len(ordered),
        "p50_ms": 1e3 * percentile(ordered, 0.5),
        "p99_ms": 1e3 * percentile(ordered, 0.99),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of `ordered` does not exceed. The list must not be empty."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
