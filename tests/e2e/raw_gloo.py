"""The raw limit beside a pull: what plain Gloo moves between two processes of this machine.

netbench's raw transfer, on one group and on two, the better of both. Cold: into memory that was
never touched, as a real load; warm: the median of further rounds into the same memory.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

from netbench.child import Child, starting
from netbench.figures import gbps
from netbench.raw_end import RawReceiver
from netbench.task import Task

_HOST = "127.0.0.1"
_WARM_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class RawGloo:
    """Gigabytes per second."""

    cold: float
    warm: float


def measure(nbytes: int) -> RawGloo:
    """Move about `nbytes` from a fresh process to this one, once cold and some times warm."""
    task = Task("llama", nbytes)
    raw = RawReceiver(task.nbytes)
    cold: list[float] = []
    warm: list[float] = []
    with Child("source_process", task.spec(host=_HOST)) as source, starting([source]):
        for lanes in (1, 2):
            raw.open(lanes, _HOST, source.ask("raw_open", lanes=lanes)["port"], _HOST)
            source.hear()
            send = partial(source.tell, "raw_send", lanes=lanes)
            seconds = [raw.fresh(lanes, send)]
            source.hear()
            for _ in range(1 + _WARM_ROUNDS):
                seconds.append(raw.warm(lanes, send))
                source.hear()
            cold.append(seconds[0])
            warm.append(statistics.median(seconds[2:]))
    return RawGloo(gbps(task.nbytes, min(cold)), gbps(task.nbytes, min(warm)))


if __name__ == "__main__":
    print(measure(1 << 28))
