"""N workers that start in the same moment, while nobody has the weights.

Every worker is on a host of its own (a network namespace), whose link carries `--rate` in each
direction, and storage is a server that all share, with a link of `--storage-rate`. `ideal_s` is
bytes / rate of a worker's link, and `payload_s` what a copy takes at best. Policies take turns:

    storage   all read storage, as vLLM does
    swarm     one reads storage, and the others serve each other what it serves
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from netbench.child import Child, Json, starting
from netbench.fanout import PAYLOAD, limit_all, makespan_of, members_on
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
    ideal_s = 8 * task.nbytes / bits_per_second(rate)
    load = os.getloadavg()[0]
    runs: dict[str, list[list[Json]]] = defaultdict(list)
    number = replicas + 1
    with Hosts(number) as hosts:
        limit_all(hosts, replicas, rate)
        hosts.limit(number, storage_rate)
        spec = task.spec(host=hosts.address(number))
        with (
            Child("storage_process", spec, prefix=hosts.inside(number)) as storage,
            starting([storage]) as (ready,),
        ):
            whole = storage.ask("sha256")
            for _ in range(repeat):
                for policy in policies:
                    with members_on(hosts, task, range(1, replicas + 1)) as members:
                        for member in members:
                            member.tell("start", policy=policy, storage=ready["address"])
                        runs[policy].append([member.hear() for member in members])
    return {
        "benchmark": "coldstart",
        **task.report(),
        "replicas": replicas,
        "rate": rate,
        "storage_rate": storage_rate,
        "ideal_s": ideal_s,
        "payload_s": ideal_s / PAYLOAD,
        "repeat": repeat,
        "load_before": load,
        "bytes_ok": all(
            one["sha256"] == whole for some in runs.values() for run in some for one in run
        ),
        "policies": {policy: _figures(some, ideal_s, task.nbytes) for policy, some in runs.items()},
    }


def _figures(runs: Sequence[Sequence[Json]], ideal_s: float, nbytes: int) -> Json:
    makespans = [makespan_of(run) for run in runs]
    typical = median(makespans)
    run = runs[makespans.index(min(makespans, key=lambda one: abs(one - typical)))]
    read = sum(one["storage_bytes"] for one in run)
    return {
        "makespan_s": typical,
        "ideal_s": ideal_s,
        "ratio": typical / ideal_s,
        "source_bytes": 0,
        "storage_bytes": read,
        "storage_copies": read / nbytes,
        "per_replica_s": sorted(one["ended"] - one["started"] for one in run),
        "makespans_s": makespans,
    }
