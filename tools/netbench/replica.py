"""A replica's pull, timed from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from netbench.common import GENERATION, IDENTITY, OPEN, SETTINGS
from netbench.watch import ChunkWatch, WatchedBackend
from netloader.discovery.candidate import Candidate
from netloader.replica.observer import PullObserver
from netloader.replica.pull import Pull
from netloader.replica.request import Request
from netloader.transport import Backend
from netloader.transport.tcp import TcpBackend
from netloader.weights.capture import Weights


@dataclass(frozen=True, slots=True)
class TimedPull:
    """Measurements of one pull."""

    seconds: float
    """From existing tensors to filled ones, including sessions."""
    started: float
    """By `time.perf_counter`."""
    chunks: int
    """In the manifest."""
    verified: int
    """Chunks that the pull reported as verified, repeats included."""
    surplus_bytes: int
    """Bytes received beyond the size of each chunk."""
    sources: dict[str, int]
    """Bytes by endpoint."""
    failures: tuple[str, ...]


def pull(
    weights: Weights,
    endpoints: Sequence[str],
    *,
    backend: Backend | None = None,
    verify: bool = True,
    source_timeout_s: float = 0.0,
    progress: Callable[[int], object] = lambda nbytes: None,
) -> TimedPull:
    """Fill `weights` from all of these sources at once, over Gloo or another `backend`. Raises
    `TransferError`."""
    verified = 0

    def count(nbytes: int) -> None:
        nonlocal verified
        verified += 1
        progress(nbytes)

    watch = ChunkWatch()
    candidates = [Candidate(endpoint, "netbench", GENERATION) for endpoint in endpoints]
    started = time.perf_counter()
    one = Pull(
        weights,
        Request(
            IDENTITY,
            (WatchedBackend(backend or TcpBackend(), watch),),
            lambda: OPEN,
            "netbench",
        ),
        replace(
            SETTINGS,
            max_sources=len(endpoints),
            source_timeout_s=source_timeout_s,
            verify=verify,
        ),
        PullObserver(progress=count),
    )
    one.run(lambda: candidates)
    seconds = time.perf_counter() - started
    chunks = weights.manifest.chunks()
    return TimedPull(
        seconds,
        started,
        len(chunks),
        verified,
        sum(max(0, watch.received[chunk.id] - chunk.nbytes) for chunk in chunks),
        {delivery.endpoint: delivery.nbytes for delivery in one.deliveries},
        tuple(str(failure) for failure in one.failures),
    )
