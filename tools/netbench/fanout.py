"""One source, and N replicas that start in the same moment.

Every worker is on a host of its own (a network namespace), whose link carries `--rate` in each
direction. `ideal_s` is what one copy takes on such a link; `ratio` is the makespan over it, from
the first start to the last replica that has everything. Policies take turns:

    upstream   the algorithm of vLLM Ascend's Netloader: all pull everything from the one source
    naive      replicas become sources, but only once they have everything
    swarm      replicas serve what they have while they still load
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from netbench.child import Child, ChildError, Json, starting
from netbench.figures import median
from netbench.hosts import Hosts, bits_per_second
from netbench.shapes import ShapeError
from netbench.task import Task
from netmesh import generate_key

POLICIES: Final = ("upstream", "naive", "swarm")

PAYLOAD: Final = 1448 / 1514
"""Share of a link's rate that is payload: the rest of a full Ethernet frame are the headers of
Ethernet, IP and TCP with time stamps. The limit counts whole frames."""


def measure(
    task: Task,
    *,
    replicas: int,
    rate: str,
    policies: Sequence[str],
    repeat: int,
    kills: int = 0,
) -> Json:
    """With `kills`, a replica is killed every quarter of `ideal_s` in a run, and another one starts
    in its place. Raises `HostsError`, `ChildError`, `RateError`."""
    if kills > replicas:
        raise ShapeError(f"--churn {kills}: only {replicas} replicas can be killed")
    ideal_s = 8 * task.nbytes / (bits_per_second(rate) * PAYLOAD)
    load = os.getloadavg()[0]
    runs: dict[str, list[Json]] = defaultdict(list)
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(1 + replicas + kills))
        for _ in range(1 if kills else repeat):
            for policy in policies:
                # Whoever was killed is not there for the next run.
                if kills or not runs:
                    members = members_on(stack, hosts, task, 1 + replicas + kills, rate)
                pause_s = ideal_s / 4 if kills else 0.0
                run = _run(hosts, members[: 1 + replicas], policy, members[1 + replicas :], pause_s)
                runs[policy].append(run)
                for member in members if kills else ():
                    member.close()
    return {
        "benchmark": "fanout",
        **task.report(),
        "replicas": replicas,
        "rate": rate,
        "ideal_s": ideal_s,
        "repeat": repeat,
        "kills": kills,
        "load_before": load,
        "bytes_ok": all(run["bytes_ok"] for some in runs.values() for run in some),
        "policies": {policy: _figures(some, ideal_s, task.nbytes) for policy, some in runs.items()},
    }


def members_on(stack: ExitStack, hosts: Hosts, task: Task, count: int, rate: str) -> list[Child]:
    """Workers on hosts of their own, the source's first. All know one another."""
    key = generate_key()
    seeds = [f"{hosts.address(1)}"]
    members = []
    for number in range(1, count + 1):
        if not hosts.limited(number):
            hosts.limit_both(number, rate)
        spec = task.spec(host=hosts.address(number), key=key, seeds=seeds)
        members.append(Child("member_process", spec, prefix=hosts.inside(number)))
        stack.enter_context(members[-1])
    stack.enter_context(starting(members))
    return members


def _run(
    hosts: Hosts, members: Sequence[Child], policy: str, spares: Sequence[Child], pause_s: float
) -> Json:
    source, *replicas = members
    if policy == "upstream":
        endpoint = source.ask("serve_upstream", host=hosts.address(1))["endpoint"]
        answers = together(replicas, "load_upstream", endpoint=endpoint)
        return {"answers": answers, "source": endpoint, "bytes_ok": True}
    endpoints = [member.ask("announce")["endpoint"] for member in [*members, *spares]]
    whole = source.ask("serve")["sha256"]
    for one in replicas:
        one.tell("pull", policy=policy)
    for victim, spare in zip(replicas, spares, strict=False):  # The rest lives.
        time.sleep(pause_s)
        victim.kill()
        spare.tell("pull", policy=policy)
    left = [*replicas[len(spares) :], *spares]
    answers = [one.hear() for one in left]
    return {
        "answers": answers,
        "source": endpoints[0],
        "bytes_ok": all(one.ask("sha256") == whole for one in left),
    }


def together(members: Sequence[Child], command: str, **arguments: object) -> list[Json]:
    """Give all of them the same command at once, and wait for all answers. Raises `ChildError`."""
    for one in members:
        one.tell(command, **arguments)
    answers = [one.hear() for one in members]
    for answer in answers:
        if "ended" not in answer:
            raise ChildError(f"a member answered {answer}")
    return answers


def _figures(runs: Sequence[Json], ideal_s: float, nbytes: int) -> Json:
    spans = [[one["ended"] - one["started"] for one in run["answers"]] for run in runs]
    makespans = [
        max(one["ended"] for one in run["answers"]) - min(one["started"] for one in run["answers"])
        for run in runs
    ]
    typical = median(makespans)
    middle = makespans.index(min(makespans, key=lambda one: abs(one - typical)))
    run = runs[middle]
    source = sum(one["from"].get(run["source"], 0) for one in run["answers"])
    return {
        "makespan_s": typical,
        "ideal_s": ideal_s,
        "ratio": typical / ideal_s,
        "source_bytes": source or nbytes * len(run["answers"]),
        "source_copies": (source or nbytes * len(run["answers"])) / nbytes,
        "storage_bytes": 0,
        "refetched_chunks": sum(one.get("refetched", 0) for run in runs for one in run["answers"]),
        "per_replica_s": sorted(spans[middle]),
        "makespans_s": makespans,
    }
