"""A file server of a cluster in a process of its own.

python -m netbench.storage_process '{"task": [...], "host": ...}'
"""

from __future__ import annotations

import json
import sys

from netbench.child import obey, say
from netbench.models import fill
from netbench.storage import StorageServer
from netbench.task import SEED, Task


def main() -> None:
    spec = json.loads(sys.argv[1])
    task = Task.of_spec(spec)
    weights = task.lay_out(task.model())
    fill(weights, SEED)
    say({"address": StorageServer(spec["host"], weights).address})
    obey({"sha256": weights.sha256})


if __name__ == "__main__":
    main()
