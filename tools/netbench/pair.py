"""How near a load comes to what Gloo can do: one source and one replica, two processes, loopback.

Each repetition runs, one after the other: plain Gloo on one group and on two; Netloader's whole
load; upstream's whole load; Netloader's once more without verification. Warm loads go into memory
that is in use. Cold loads go into untouched memory, new for each transfer, beside a plain receive
into `torch.empty`. If prepared, as much memory is touched and freed right before, so that a virtual
machine has it. If unprepared, each transfer follows a pause in which the host takes memory back.

A whole load begins with the model's empty tensors and ends when all are filled. Ours includes chunk
table, hello, rendezvous, process group, transfer, verification and goodbye, and when cold also the
layout of small tensors. Upstream's includes join, store, group, transfer and barrier.

`setup_ms` is the time until the source starts to send the first chunk.
`digest_overhead` is the share of a load's time that verification takes.
`extra_*_mib` is the peak of resident memory during our loads, beyond what was resident before and,
when cold, beyond the weights themselves.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from netbench.child import Child, Json, starting
from netbench.figures import gbps, median, mib
from netbench.raw_end import RawReceiver
from netbench.rounds import Cold, Memory, Seen, Warm
from netbench.task import Task

_HOST: Final = "127.0.0.1"


def measure(task: Task, *, cold: Memory | None, repeat: int) -> Json:
    """`cold` says whether new memory is prepared; None means warm, into the same memory each time.

    Raises `ChildError`, `TransferError`, `UpstreamError`.
    """
    load = os.getloadavg()[0]
    raw = RawReceiver(task.nbytes)
    with (
        Child("source_process", task.spec(host=_HOST)) as source,
        starting([source]) as (ready,),
    ):
        for lanes in (1, 2):
            raw.open(lanes, _HOST, source.ask("raw_open", lanes=lanes)["port"], _HOST)
            source.hear()
            raw.warm(lanes, partial(source.tell, "raw_send", lanes=lanes))
            source.hear()
        rounds = (
            Warm(task, source, ready, raw)
            if cold is None
            else Cold(task, source, ready, raw, prepare=cold == "prepared")
        )
        for _ in range(repeat):
            rounds.round()
    head = {
        "benchmark": "pair",
        "memory": "warm" if cold is None else "cold",
        "prepared": cold != "unprepared",
        **task.report(),
        "repeat": repeat,
        "load_before": load,
    }
    return head | _report(task.nbytes, rounds.seen)


def _report(nbytes: int, seen: Seen) -> Json:
    rates = {
        name: [gbps(nbytes, seconds) for seconds in all_seconds]
        for name, all_seconds in seen.seconds.items()
    }
    typical = {name: median(values) for name, values in rates.items()}
    ours, raw = typical["netloader"], max(typical["raw_one"], typical["raw_two"])
    unverified_s, verified_s = seen.seconds["netloader_unverified"], seen.seconds["netloader"]
    report: Json = {
        "raw_gbps": raw,
        "netloader_gbps": ours,
        "upstream_gbps": typical["upstream"],
        "ratio_raw": ours / raw,
        "ratio_upstream": ours / typical["upstream"],
        "digest_overhead": 1 - median(unverified_s) / median(verified_s),
        "setup_ms": 1e3 * median(seen.setup_s),
        "layout_ms": 1e3 * median(seen.layout_s),
        "extra_replica_mib": mib(max(seen.replica_bytes)),
        "extra_source_mib": mib(max(seen.source_bytes)),
        "bytes_ok": all(seen.bytes_ok),
    }
    if "plain" in typical:
        report |= {
            "plain_gbps": typical["plain"],
            "plain_two_gbps": typical["plain_two"],
            "ratio_plain": ours / typical["plain"],
            "ratio_plain_two": ours / typical["plain_two"],
            "untouched": all(seen.untouched),
        }
    setups = [1e3 * seconds for seconds in seen.setup_s]
    return report | {"repetitions_gbps": rates, "repetitions_setup_ms": setups}
