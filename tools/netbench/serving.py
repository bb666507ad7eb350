"""What serving weights costs those whom the model serves: time between tokens.

Two real servers of one random model on CPU, one without and one with `RATE_LIMIT`. Phases in turns:
the first idle, the first while a replica pulls from it over and over, the second idle, the second
while a replica pulls, the second idle again: what that differs from the first time is noise. Short
phases and many of them, because machines get faster and slower within a minute.

The replica runs without a model and at the lowest priority, so that what it computes itself does
not count as the source's; it moves no more than the source lets it.

On two cores only `uni` leaves one free (`server.EXECUTORS`): with `mp`, vLLM keeps both busy, and
whatever else runs on the machine costs its tokens time, the replica too.

Plain Gloo and upstream serve no model and have no place here: the raw limit is the idle phase.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from netbench import checkpoint
from netbench.child import Child, Json, starting
from netbench.figures import gbps
from netbench.server import Server

_LOWEST: Final = 19
_SETTLE_S: Final = 3.0


def measure(*, nbytes: int, rate_limit: int, executor: str, seconds: float, repeat: int) -> Json:
    """`rate_limit` in bytes per second, `executor` one of `server.EXECUTORS`. Raises `ServerError`,
    `ChildError`."""
    load = os.getloadavg()[0]
    gaps: dict[str, list[float]] = defaultdict(list)
    pulled: dict[str, list[float]] = defaultdict(list)
    limits: dict[str, Json] = {"uncapped": {}, "capped": {"RATE_LIMIT": rate_limit}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netbench-")))
        model = checkpoint.write(folder / "model", nbytes)
        servers: dict[str, Server] = {}
        for name, extra in limits.items():
            mesh = {"MESH_DIRECTORY": str(folder / f"{name}-mesh")}
            # One after the other: both at once would wait for each other's cores.
            servers[name] = stack.enter_context(
                Server(model, folder / name, extra | mesh, executor=executor)
            )
            servers[name].wait_ready()
        pullers = {
            name: Child("puller", {"directory": str(folder / f"{name}-mesh")}, nice=_LOWEST)
            for name in limits
        }
        ready = stack.enter_context(starting(list(pullers.values())))
        for server in servers.values():
            server.token_gaps(_SETTLE_S)
        for _ in range(repeat):
            for name, server in servers.items():
                gaps[f"idle_{name}"] += server.token_gaps(seconds)
                pullers[name].tell("pull", seconds=seconds)
                gaps[name] += server.token_gaps(seconds)
                answer = pullers[name].hear()
                pulled[name].append(gbps(answer["bytes"], answer["seconds"]))
            gaps["idle_again"] += servers["capped"].token_gaps(seconds)
    phases = {name: _phase(values) for name, values in gaps.items()}
    for name, rates in pulled.items():
        phases[name]["pulled_gbps"] = sum(rates) / len(rates)
    return {
        "benchmark": "serving",
        "bytes": ready[0]["bytes"],
        "tensors": ready[0]["tensors"],
        "rate_limit": rate_limit,
        "executor": executor,
        "seconds": seconds,
        "repeat": repeat,
        "load_before": load,
        "p99_ratio_uncapped": phases["uncapped"]["p99_ms"] / phases["idle_uncapped"]["p99_ms"],
        "p99_ratio_capped": phases["capped"]["p99_ms"] / phases["idle_capped"]["p99_ms"],
        "p99_ratio_noise": phases["idle_again"]["p99_ms"] / phases["idle_capped"]["p99_ms"],
        "p50_ratio_uncapped": phases["uncapped"]["p50_ms"] / phases["idle_uncapped"]["p50_ms"],
        "p50_ratio_capped": phases["capped"]["p50_ms"] / phases["idle_capped"]["p50_ms"],
        "phases": phases,
        "repetitions_pulled_gbps": dict(pulled),
    }


def _phase(gaps: Sequence[float]) -> Json:
    ordered = sorted(gaps)
    return {
        "tokens": len(ordered),
        "p50_ms": 1e3 * percentile(ordered, 0.5),
        "p99_ms": 1e3 * percentile(ordered, 0.99),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of `ordered` does not exceed. Not for an empty list."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
