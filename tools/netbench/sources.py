"""What every further source adds. Each is on a host of its own, whose link is the bottleneck.

Each source may send no faster than `--rate`; the replica may receive without limit. The benchmark
runs with 1, 2, 4, ... sources up to `--sources`, in turns with plain Gloo and upstream through one
of the links. `share` is the part of all k links' capacity that a load from k sources used, relative
to the load from one: T1 / (k * Tk). `added_share` is the same for the links that the previous case
did not have; 1.0 means that each of them added all its capacity. `digest_overhead` is the share of
the load from one source that verification takes.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from netbench.child import Child, Json, starting
from netbench.figures import gbps, median
from netbench.hosts import Hosts, bits_per_second
from netbench.task import Task

_RAW_LANES: Final = 1
"""One connection fills a link that is slower than a core."""


def counts_up_to(sources: int) -> list[int]:
    """1, 2, 4, ... and the number itself."""
    powers = [1 << exponent for exponent in range(sources.bit_length())]
    return sorted({count for count in powers if count <= sources} | {sources})


def measure(task: Task, *, sources: int, rate: str, repeat: int) -> Json:
    """Raises `HostsError`, `ChildError`, `RateError`."""
    bits = bits_per_second(rate)
    load = os.getloadavg()[0]
    counts = counts_up_to(sources)
    seconds: dict[str, list[float]] = defaultdict(list)
    setups: dict[str, list[float]] = defaultdict(list)
    used: dict[str, set[int]] = defaultdict(set)
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(sources + 1))
        mine = sources + 1
        children: list[Child] = []
        for number in range(1, sources + 1):
            hosts.limit(number, rate)
            spec = task.spec(host=hosts.address(number))
            children.append(Child("source_process", spec, prefix=hosts.inside(number)))
            stack.enter_context(children[-1])
        replica = Child("replica_process", task.spec(), prefix=hosts.inside(mine))
        stack.enter_context(replica)
        *ready, _ = stack.enter_context(starting([*children, replica]))
        endpoints = [one["endpoint"] for one in ready]
        _open_raw(children[0], replica, hosts.address(1), hosts.address(mine))
        for _ in range(repeat):
            seconds["raw"].append(_raw(children[0], replica))
            for count in counts:
                for child in children[:count]:
                    child.ask("first_send")  # Left from an earlier transfer.
                answer = replica.ask("pull", endpoints=endpoints[:count])
                seconds[str(count)].append(answer["seconds"])
                first = min(child.ask("first_send")["at"] for child in children[:count])
                setups[str(count)].append(first - answer["started"])
                used[str(count)].add(len(answer["sources"]))
            unverified = replica.ask("pull", endpoints=endpoints[:1], verify=False)
            seconds["unverified"].append(unverified["seconds"])
            seconds["upstream"].append(
                replica.ask("upstream", endpoint=ready[0]["upstream"])["seconds"]
            )
        bytes_ok = replica.ask("sha256") == children[0].ask("sha256")
    total = task.nbytes
    typical = {name: median(values) for name, values in seconds.items()}
    links = {count: typical["1"] / typical[str(count)] for count in counts}
    return {
        "benchmark": "sources",
        **task.report(),
        "rate": rate,
        "ideal_s": 8 * total / bits,
        "repeat": repeat,
        "load_before": load,
        "bytes_ok": bytes_ok,
        "raw_seconds": typical["raw"],
        "raw_gbps": gbps(total, typical["raw"]),
        "upstream_seconds": typical["upstream"],
        "upstream_gbps": gbps(total, typical["upstream"]),
        "ratio_raw": typical["raw"] / typical["1"],
        "digest_overhead": 1 - typical["unverified"] / typical["1"],
        "ratio_upstream": typical["upstream"] / typical[str(sources)],
        "by_sources": {
            str(count): {
                "seconds": typical[str(count)],
                "gbps": gbps(total, typical[str(count)]),
                "share": links[count] / count,
                "added_share": _added(links, count),
                "setup_ms": 1e3 * median(setups[str(count)]),
                "all_delivered": used[str(count)] == {count},
            }
            for count in counts
        },
        "repetitions_s": dict(seconds),
    }


def _added(links: Mapping[int, float], count: int) -> float | None:
    """Share that is used of the links that `count` sources have beyond the previous case. `links`
    says how many links' worth each number of sources moves."""
    before = max((fewer for fewer in links if fewer < count), default=None)
    return None if before is None else (links[count] - links[before]) / (count - before)


def _open_raw(source: Child, replica: Child, theirs: str, mine: str) -> None:
    port = source.ask("raw_open", lanes=_RAW_LANES)["port"]
    replica.tell("raw_open", lanes=_RAW_LANES, host=theirs, port=port, mine=mine)
    source.hear()
    replica.hear()


def _raw(source: Child, replica: Child) -> float:
    replica.ask("raw_receive", lanes=_RAW_LANES)  # It is ready.
    source.ask("raw_send", lanes=_RAW_LANES)
    return float(replica.hear()["seconds"])
