"""A replica that posts for less than is sent to it, in a process of its own: Gloo terminates it.

python -m tests.loader.source.short_receive HOST PORT SECRET
"""

from __future__ import annotations

import sys

import torch
from tests.fastest import HANG_S

from netloader.transport import join
from netloader.transport.gloo import GlooBackend


def main(host: str, port: str, secret: str) -> None:
    group = join(host, int(port), secret, GlooBackend(), HANG_S)
    pending = group.recv(torch.zeros(10, dtype=torch.uint8), 0)
    print("ready", flush=True)
    pending.wait(HANG_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
