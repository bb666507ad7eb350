"""A replica in a process of its own, on a host of its own.

python -m netbench.replica_process '{"task": [...]}'
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from netbench import upstream
from netbench.child import Json, obey, say
from netbench.models import clear
from netbench.raw_end import RawReceiver
from netbench.replica import pull
from netbench.task import Task
from netloader.weights.capture import capture


def main() -> None:
    task = Task.of_spec(json.loads(sys.argv[1]))
    weights = task.lay_out(task.model())
    theirs = task.model()
    raw = RawReceiver(task.nbytes)
    for touched in (weights, capture(theirs)):
        clear(touched)

    def ours(endpoints: list[str], verify: bool = True) -> Json:
        clear(weights)
        return asdict(pull(weights, endpoints, verify=verify))

    def load_upstream(endpoint: str) -> Json:
        started = time.perf_counter()
        upstream.load(endpoint, theirs)
        return {"seconds": time.perf_counter() - started}

    def receive(lanes: int) -> Json:
        """Receive, and answer "ready" when the source may send."""
        return {"seconds": raw.warm(lanes, lambda: say({"ready": True}))}

    say({})
    obey(
        {
            "raw_open": raw.open,
            "raw_receive": receive,
            "pull": ours,
            "upstream": load_upstream,
            "sha256": weights.sha256,
        }
    )


if __name__ == "__main__":
    main()
