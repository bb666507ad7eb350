"""One source, and N replicas that start in the same moment.

Every worker is on a host of its own (a network namespace), whose link carries `--rate` in each
direction. `--placement` puts several replicas on one host. `ideal_s` is bytes / rate, and
`payload_s` what a copy takes at best, with the headers of its packets. `ratio` is the makespan,
from the first start to the last replica that has everything, over `ideal_s`. Policies take turns:

    upstream   the algorithm of vLLM Ascend's Netloader: all pull everything from the one source
    naive      replicas become sources, but only once they have everything
    swarm      replicas serve what they have while they still load
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from netbench.child import Child, Json, starting
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
    placement: Sequence[int] = (),
) -> Json:
    """`placement` counts the replicas of the first hosts. With `kills`, a replica is killed every
    quarter of `ideal_s` in a run, and another one starts in its place. Raises `HostsError`,
    `ChildError`, `RateError`, `ShapeError`."""
    if kills > replicas:
        raise ShapeError(f"--churn {kills}: only {replicas} replicas can be killed")
    if sum(placement) > replicas:
        raise ShapeError(f"--placement names {sum(placement)} of {replicas} replicas")
    ideal_s = 8 * task.nbytes / bits_per_second(rate)
    load = os.getloadavg()[0]
    runs: dict[str, list[Json]] = defaultdict(list)
    places = [1, *_places(replicas + kills, placement)]
    with Hosts(places[-1]) as hosts:
        limit_all(hosts, places[-1], rate)
        for _ in range(repeat):
            for policy in policies:
                with members_on(hosts, task, places) as members:
                    runs[policy].append(_run(hosts, members, policy, kills, ideal_s / 4))
    return {
        "benchmark": "fanout",
        **task.report(),
        "replicas": replicas,
        "placement": list(placement),
        "rate": rate,
        "ideal_s": ideal_s,
        "payload_s": ideal_s / PAYLOAD,
        "repeat": repeat,
        "kills": kills,
        "load_before": load,
        "bytes_ok": all(run["bytes_ok"] for some in runs.values() for run in some),
        "policies": {policy: _figures(some, ideal_s, task.nbytes) for policy, some in runs.items()},
    }


def _places(replicas: int, placement: Sequence[int]) -> list[int]:
    """The host of each replica. The source's is 1."""
    counts = [*placement, *(1 for _ in range(replicas - sum(placement)))]
    return [host for host, count in enumerate(counts, 2) for _ in range(count)]


def limit_all(hosts: Hosts, count: int, rate: str) -> None:
    """Give the first `count` hosts links of this rate."""
    for number in range(1, count + 1):
        hosts.limit_both(number, rate)


@contextmanager
def members_on(hosts: Hosts, task: Task, places: Sequence[int]) -> Iterator[list[Child]]:
    """A worker on each of these hosts. They meet at the first, and are gone afterwards."""
    spec = {"key": generate_key(), "seeds": [hosts.address(1)]}
    with ExitStack() as stack:
        members = [
            stack.enter_context(
                Child(
                    "member_process",
                    task.spec(host=hosts.address(number), **spec),
                    prefix=hosts.inside(number),
                )
            )
            for number in places
        ]
        stack.enter_context(starting(members))
        yield members


def _run(hosts: Hosts, members: Sequence[Child], policy: str, kills: int, pause_s: float) -> Json:
    source, *rest = members
    spares = rest[len(rest) - kills :]
    replicas = rest[: len(rest) - kills]
    if policy == "upstream":
        served = source.ask("serve_upstream", host=hosts.address(1))
        begun, arguments = "load_upstream", {"endpoint": served["endpoint"]}
    else:
        served = source.ask("serve")
        begun, arguments = "pull", {"policy": policy}
    for one in replicas:
        one.tell(begun, **arguments)
    for victim, spare in zip(replicas, spares, strict=False):  # The other replicas live on.
        time.sleep(pause_s)
        victim.kill()
        spare.tell(begun, **arguments)
    left = [*replicas[kills:], *spares]
    answers = [one.hear() for one in left]
    return {
        "answers": answers,
        "source": served["endpoint"],
        "bytes_ok": all(answer["sha256"] == served["sha256"] for answer in answers),
    }


def _figures(runs: Sequence[Json], ideal_s: float, nbytes: int) -> Json:
    makespans = [makespan_of(run["answers"]) for run in runs]
    typical = median(makespans)
    run = runs[makespans.index(min(makespans, key=lambda one: abs(one - typical)))]
    source = sum(one["from"].get(run["source"], 0) for one in run["answers"])
    return {
        "makespan_s": typical,
        "ideal_s": ideal_s,
        "ratio": typical / ideal_s,
        "source_bytes": source,
        "source_copies": source / nbytes,
        "storage_bytes": 0,
        "refetched_chunks": sum(one.get("refetched", 0) for run in runs for one in run["answers"]),
        "per_replica_s": sorted(one["ended"] - one["started"] for one in run["answers"]),
        "makespans_s": makespans,
    }


def makespan_of(answers: Sequence[Json]) -> float:
    """Seconds from the first start to the last end."""
    return float(max(one["ended"] for one in answers) - min(one["started"] for one in answers))
