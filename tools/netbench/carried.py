"""What a transport costs beside Gloo: one source and one replica, two processes, loopback.

Each repetition runs plain Gloo on one group and on two, then Netloader's whole load twice: over
Gloo and over the transport, in turns first. `staged` copies host memory to host memory on either
side, as it would to a device; `hccl` moves memory of an NPU, and Gloo beside it is staged. For the
staged ones plain Gloo also runs with such copies: their raw limit, which a digest is not part of.

`processor_s_per_gb` is the processor time of both processes, which tells more than a rate where
others use the cores too. `ratio_gloo` is the median of the transport's rate by the median of
Gloo's, and `ratios_gloo` has the ratio of each repetition.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final

from netbench.backends import DEVICES, STAGED, backends_of
from netbench.child import Child, Json, starting
from netbench.figures import gbps, median
from netbench.models import clear
from netbench.raw_end import RawReceiver
from netbench.replica import pull
from netbench.task import Task

_HOST: Final = "127.0.0.1"


def measure(task: Task, transport: str, *, repeat: int) -> Json:
    """Raises `ChildError`, `TransferError`, and `TransportError` where the machine lacks it."""
    load = os.getloadavg()[0]
    raw, plain, other = RawReceiver(task.nbytes), *backends_of(transport)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    processor: defaultdict[str, list[float]] = defaultdict(list)
    bytes_ok = []
    with (
        Child("source_process", task.spec(host=_HOST, transport=transport)) as source,
        starting([source]) as (ready,),
    ):
        for lanes in (1, 2):
            raw.open(lanes, _HOST, source.ask("raw_open", lanes=lanes)["port"], _HOST)
            source.hear()
        weights = task.lay_out(task.model())
        truth = source.ask("sha256")
        for number in range(-1, repeat):  # The first round touches the memory, and does not count.
            for name, lanes in (("raw_one", 1), ("raw_two", 2)):
                with _counted(source, processor[name]):
                    send = partial(source.tell, "raw_send", lanes=lanes)
                    seconds[name].append(raw.warm(lanes, send))
                    source.hear()
                if transport in STAGED:
                    name = f"{name}_copied"
                    with _counted(source, processor[name]):
                        send = partial(source.tell, "raw_send", lanes=lanes, copied=True)
                        seconds[name].append(raw.copied(lanes, send))
                        source.hear()
            order = [("gloo", plain), (transport, other)]
            for name, backend in order if number % 2 else reversed(order):
                clear(weights)
                with _counted(source, processor[name]):
                    pulled = pull(weights, [ready["endpoint"]], backend=backend)
                seconds[name].append(pulled.seconds)
                bytes_ok.append(weights.sha256() == truth)
    counted = {name: values[1:] for name, values in seconds.items()}
    rates = {name: [gbps(task.nbytes, one) for one in values] for name, values in counted.items()}
    typical = {name: median(values) for name, values in rates.items()}
    return {
        "benchmark": "pair",
        "backend": transport,
        "device": DEVICES[transport],
        **task.report(),
        "repeat": repeat,
        "load_before": load,
        "raw_gbps": max(typical["raw_one"], typical["raw_two"]),
        **_limit(typical),
        "gloo_gbps": typical["gloo"],
        f"{transport}_gbps": typical[transport],
        "ratio_gloo": typical[transport] / typical["gloo"],
        "bytes_ok": all(bytes_ok),
        "ratios_gloo": [
            one / gloo for one, gloo in zip(rates[transport], rates["gloo"], strict=True)
        ],
        "processor_s_per_gb": {
            name: median([one / task.nbytes * 1e9 for one in values[1:]])
            for name, values in processor.items()
        },
        "repetitions_gbps": rates,
    }


@contextmanager
def _counted(source: Child, seconds: list[float]) -> Iterator[None]:
    """Note what processor time both processes take: on a busy machine, the steadier figure."""
    before = time.process_time() + float(source.ask("processor")["seconds"])
    yield
    after = time.process_time() + float(source.ask("processor")["seconds"])
    seconds.append(after - before)


def _limit(rates: Mapping[str, float]) -> Json:
    """Plain Gloo with copies, and its share of plain Gloo, where that was measured."""
    if "raw_one_copied" not in rates:
        return {}
    copied = max(rates["raw_one_copied"], rates["raw_two_copied"])
    return {
        "raw_copied_gbps": copied,
        "ratio_raw_copied": copied / max(rates["raw_one"], rates["raw_two"]),
    }
