"""The source's end of some groups, in a process that `conformance` kills.

Run as `python -m tests.loader.transport.peer_process CARRIER DOES`. Prints one line with the port
and secret of every rendezvous, then opens each group in a thread of its own and `sends` without
end, `stays` without a word, or `hangs` while it opens.
"""

from __future__ import annotations

import sys
import threading
from datetime import timedelta

from tests.loader.transport.carriers import CARRIERS, Carrier
from torch._C._distributed_c10d import Store

from netloader.transport import Backend, Group, Pending, Rendezvous

GROUPS = 4
TIMEOUT_S = 300.0


class HangingBackend:
    """Says that the replica has come, and opens nothing."""

    name = "hanging"
    connections = 0

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        print("opening", flush=True)
        threading.Event().wait()
        raise AssertionError


def send(carrier: Carrier, group: Group) -> None:
    data = carrier.filled(8 << 20, 1)
    pending: list[Pending] = []
    for tag in range(1 << 20):
        pending.append(group.send(data, tag))
        if len(pending) > 2:
            pending.pop(0).wait(TIMEOUT_S)


def serve(carrier: Carrier, rendezvous: Rendezvous, does: str) -> None:
    backend: Backend = HangingBackend() if does == "hangs" else carrier.make()
    group = rendezvous.open(backend)
    if does == "sends":
        send(carrier, group)
    threading.Event().wait()


def main() -> None:
    name, does = sys.argv[1:]
    carrier = next(one for one in CARRIERS if one.name == name)
    meetings = [Rendezvous("127.0.0.1", TIMEOUT_S) for _ in range(GROUPS)]
    print("meetings", *(f"{one.port}:{one.secret}" for one in meetings), flush=True)
    for one in meetings:
        threading.Thread(target=serve, args=(carrier, one, does), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
