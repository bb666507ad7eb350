"""N workers that start in the same moment, while nobody has the weights.

Every worker is on a host of its own (a network namespace), whose link carries `--rate` in each
direction, and storage is a server that all share, with a link of `--storage-rate`. `ideal_s` is
what one copy takes on a worker's link. Policies take turns:

    storage   all read storage, as vLLM does
    swarm     one reads storage, and the others serve each other what it serves
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from netbench.child import Child, Json, starting
from netbench.fanout import PAYLOAD, members_on, together
from netbench.figures import median
from netbench.hosts import Hosts, bits_per_second
from netbench.task import Task

POLICIES: Final = ("storage", "swarm")


def measure(
    task: Task,
    *,
    replicas: int,
    rate: str,
    storage_rate: str,
    policies: Sequence[str],
    repeat: int,
) -> Json:
    """Raises `HostsError`, `ChildError`, `RateError`."""
    ideal_s = 8 * task.nbytes / (bits_per_second(rate) * PAYLOAD)
    load = os.getloadavg()[0]
    runs: dict[str, list[list[Json]]] = defaultdict(list)
    bytes_ok = True
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(replicas + 1))
        members = members_on(stack, hosts, task, replicas, rate)
        number = replicas + 1
        hosts.limit(number, storage_rate)
        spec = task.spec(host=hosts.address(number))
        storage = Child("storage_process", spec, prefix=hosts.inside(number))
        stack.enter_context(storage)
        (ready,) = stack.enter_context(starting([storage]))
        whole = storage.ask("sha256")
        for _ in range(repeat):
            for policy in policies:
                for member in members:
                    member.ask("announce", known=False)
                answers = together(members, "start", policy=policy, storage=ready["address"])
                runs[policy].append(answers)
                bytes_ok = bytes_ok and all(one.ask("sha256") == whole for one in members)
    return {
        "benchmark": "coldstart",
        **task.report(),
        "replicas": replicas,
        "rate": rate,
        "storage_rate": storage_rate,
        "ideal_s": ideal_s,
        "repeat": repeat,
        "load_before": load,
        "bytes_ok": bytes_ok,
        "policies": {policy: _figures(some, ideal_s, task.nbytes) for policy, some in runs.items()},
    }


def _figures(runs: Sequence[Sequence[Json]], ideal_s: float, nbytes: int) -> Json:
    spans = [
        sorted(one["ended"] - min(other["started"] for other in run) for one in run) for run in runs
    ]
    makespans = [span[-1] for span in spans]
    typical = median(makespans)
    middle = makespans.index(min(makespans, key=lambda one: abs(one - typical)))
    read = sum(one["storage_bytes"] for one in runs[middle])
    return {
        "makespan_s": typical,
        "ideal_s": ideal_s,
        "ratio": typical / ideal_s,
        "source_bytes": 0,
        "storage_bytes": read,
        "storage_copies": read / nbytes,
        "per_replica_s": spans[middle],
        "makespans_s": makespans,
    }
