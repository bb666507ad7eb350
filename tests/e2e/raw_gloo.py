"""The raw limit beside a pull: what plain Gloo moves between two processes of this machine.

64 MiB messages through one stateless group, nothing verified, nothing else done. Cold: into memory
that was never touched, as a real load; warm: the median of further rounds into the same memory.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from netloader.transport import Rendezvous, backend_for, join

_MESSAGE = 64 * 1024 * 1024
_WARM_ROUNDS = 5
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class RawGloo:
    """Gigabytes per second."""

    cold: float
    warm: float


def measure(nbytes: int) -> RawGloo:
    """Move `nbytes` between two fresh processes, once cold and some times warm."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    sender = context.Process(target=_send, args=(there, nbytes), daemon=True)
    sender.start()
    try:
        if not here.poll(_TIMEOUT_S):
            raise TimeoutError("the sending process did not come up")
        port, secret = here.recv()
        backend = backend_for("cpu")
        assert backend is not None
        group = join("127.0.0.1", port, secret, backend, _TIMEOUT_S)
        data = torch.empty(nbytes, dtype=torch.uint8)
        seconds = []
        for _ in range(1 + _WARM_ROUNDS):
            started = time.perf_counter()
            pending = [group.recv(part, tag) for tag, part in enumerate(data.split(_MESSAGE))]
            here.send("go")
            for one in pending:
                one.wait(_TIMEOUT_S)
            seconds.append(time.perf_counter() - started)
        group.abort()
        return RawGloo(nbytes / seconds[0] / 1e9, nbytes / statistics.median(seconds[1:]) / 1e9)
    finally:
        sender.join(5)
        if sender.is_alive():
            sender.kill()


def _send(pipe: Connection, nbytes: int) -> None:
    data = torch.ones(nbytes, dtype=torch.uint8)
    rendezvous = Rendezvous("127.0.0.1", _TIMEOUT_S)
    pipe.send((rendezvous.port, rendezvous.secret))
    backend = backend_for("cpu")
    assert backend is not None
    group = rendezvous.open(backend)
    for _ in range(1 + _WARM_ROUNDS):
        pipe.recv()
        pending = [group.send(part, tag) for tag, part in enumerate(data.split(_MESSAGE))]
        for one in pending:
            one.wait(_TIMEOUT_S)
    group.abort()


if __name__ == "__main__":
    print(measure(1 << 28))
