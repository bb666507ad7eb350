"""What any transfer at some rate costs others on this machine: plain Gloo on loopback, from this
process to itself, one message at a time.

    python -m netbench.stranger '{"rate": bytes per second, "message_bytes": N}'
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch

from netbench import raw
from netbench.child import Json, obey, say

_HOST: Final = "127.0.0.1"

_MEMORY_BYTES: Final = 100_000_000
"""Size of the buffer at either end: far more than a cache holds."""


def main() -> None:
    torch.set_num_threads(1)
    spec = json.loads(sys.argv[1])
    rate: int = spec["rate"]
    count = max(1, _MEMORY_BYTES // spec["message_bytes"])
    here, there = (torch.ones(count, spec["message_bytes"], dtype=torch.uint8) for _ in range(2))
    store = raw.listen(_HOST)
    with ThreadPoolExecutor(1) as other:
        joining = other.submit(
            lambda: raw.RawLink(raw.meet(_HOST, store.port), raw.RECEIVER, _HOST, 1)
        )
        sender = raw.RawLink(store, raw.SENDER, _HOST, 1)
        receiver = joining.result()

        def move(seconds: float) -> Json:
            """Transfer at the rate for about this long."""
            started = time.perf_counter()
            messages = nbytes = 0
            while (passed := time.perf_counter() - started) < seconds:
                time.sleep(max(0.0, nbytes / rate - passed))
                place = messages % count
                arrived = other.submit(receiver.receive, there[place], lambda: None)
                sender.send(here[place])
                arrived.result()
                messages += 1
                nbytes += spec["message_bytes"]
            return {"bytes": nbytes, "seconds": time.perf_counter() - started}

        say({})
        obey({"pull": move})


if __name__ == "__main__":
    main()
