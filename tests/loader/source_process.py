"""A source in a process of its own, which ends by SIGKILL when it starts its n-th send.

    python source_process.py <seed> <sends before death> <size in MiB; 0: a toy model> <chunks that
        it has so far; 0: all>

Prints its endpoint and serves until its standard input closes.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from dataclasses import replace

import torch
from tests.loader.support import (
    TamperedBackend,
    big_weights,
    offer_of,
    serving,
    toy_weights,
)

from netloader.source.availability import Availability
from netloader.transport.gloo import GlooBackend
from netloader.transport.tcp import TcpBackend


def main(seed: int, sends: int, mebibytes: int, chunks: int) -> None:
    count = itertools.count()

    def die_in_time(tag: int, data: torch.Tensor) -> torch.Tensor:
        if next(count) == sends:
            os.kill(os.getpid(), signal.SIGKILL)
        return data

    weights = big_weights(seed, mebibytes) if mebibytes else toy_weights(seed)
    backends = tuple(TamperedBackend(die_in_time, inner) for inner in (TcpBackend(), GlooBackend()))
    offer = offer_of(weights, backends=backends)
    if chunks:
        offer = replace(offer, available=Availability())
        assert offer.available is not None
        offer.available.complete(chunks)
    with serving(offer) as source:
        print(source.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
