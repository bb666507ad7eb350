"""A process with both ends of a Gloo group, and no descriptor left. Says how it goes on.

Prints the ports that are open, then `full`; then waits for a line, and prints the sum of what it
has received.
"""

from __future__ import annotations

import os
import resource
import sys

import torch
from tests.fastest import HANG_S
from tests.loader.ports import listening_ports, open_descriptors
from tests.loader.transport.carriers import open_pair

from netloader.transport.gloo import GlooBackend


def main() -> None:
    pair = open_pair(GlooBackend())
    print(*listening_ports(os.getpid()), flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors(os.getpid()) + 8,) * 2)
    taken: list[int] = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        print("full", flush=True)
    sys.stdin.readline()
    target = torch.zeros(1000, dtype=torch.uint8)
    arriving = pair.replica.recv(target, 1)
    pair.source.send(torch.ones(1000, dtype=torch.uint8), 1).wait(HANG_S)
    arriving.wait(HANG_S)
    print(int(target.sum()), flush=True)
    # The group's threads may want descriptors at the end.
    os._exit(0)


if __name__ == "__main__":
    main()
