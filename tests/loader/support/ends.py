"""The two ends of a pull, with what tests seldom care about filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.forked import ForkedProcess, start_loader

from netloader.discovery.candidate import Candidate
from netloader.errors import NoSourceLeft, TransferError
from netloader.identity.identity import Evidence, Identity, Names
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import Outcome
from netloader.replica.pull import Failure, Pull
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings, WindowSettings
from netloader.source.listener import Listener
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.source.settings import SourceSettings
from netloader.transport import Backend
from netloader.transport.gloo import GlooBackend
from netloader.transport.memory import MemoryBackend
from netloader.transport.tcp import TcpBackend
from netloader.weights import digests
from netloader.weights.capture import Weights
from netmesh import SocketSecurity

MEMORY = MemoryBackend()
"""Carries the bytes where a test does not choose: its groups have no thread and no socket. What the
others do is the subject of `transport/conformance`."""

BACKENDS: tuple[Backend, ...] = (MEMORY, TcpBackend(), GlooBackend())
"""What either end has, best first. An end in another process has the last two."""

GENERATION = 7

OPEN = SocketSecurity((), "netmesh.test.netloader")
"""No key: everybody who reaches the port is let in."""

SILENT_S = 30.0
"""How long an end may be silent in these tests: no time that a test waits for."""

SMALL_WINDOW = 8
"""Chunks in flight from one source in these tests: it never has all of a toy model in flight, as it
has not of a real one."""


def keys(*cluster_keys: bytes) -> SocketSecurity:
    """Of the control channel."""
    return SocketSecurity.from_keys(cluster_keys, "mesh", "netloader")


def place(**changes: int) -> dict[str, str | int]:
    """What a built model says of itself: alone in the parallel layout, but for `changes`."""
    alone = {"tp_size": 1, "tp_rank": 0, "pp_size": 1, "pp_rank": 0, "ep_size": 1, "ep_rank": 0}
    return {**alone, "code.vllm": "0.32.0", **changes}


def identity(**changes: Any) -> Identity:
    values: dict[str, Any] = {
        "names": Names("toy", "org/toy", "/models/toy"),
        "architecture": "Toy",
        "dtype": "float32",
        "quantization": "",
        "config": {"rope_theta": "10000.0"},
        "built": place(tp_size=2, tp_rank=1),
        "content": {Evidence.SAMPLE: "a" * 32},
    }
    return Identity(**values | changes)


def offer_of(
    weights: Weights,
    *,
    who: Identity | None = None,
    backend: Backend | None = None,
    backends: tuple[Backend, ...] = (),
    **extra: Any,
) -> Offer:
    return Offer(
        who or identity(),
        weights,
        digests.of_weights(weights, weights.manifest.chunks()),
        extra.pop("attributes", {}),
        backends or (BACKENDS if backend is None else (backend,)),
    )


def listening(
    security: SocketSecurity = OPEN, host: str = "127.0.0.1", port: int | None = None
) -> Listener:
    return Listener(host, port, security, SourceSettings().handshake_timeout_s)


_BY_NAME = ("throttle", "observer", "upstream")


def start_source(
    timeout_s: float = SILENT_S,
    *,
    security: SocketSecurity = OPEN,
    listener: Listener | None = None,
    generation: Callable[[], int] = lambda: GENERATION,
    **options: Any,
) -> Source:
    """Options are what `Source` takes by name, or fields of `SourceSettings`."""
    given = {name: options.pop(name) for name in _BY_NAME if name in options}
    settings = SourceSettings(timeout_s=timeout_s, **options)
    return Source(listener or listening(security), generation, settings, **given)


@contextmanager
def serving(offer: Offer | None, timeout_s: float = SILENT_S, **options: Any) -> Iterator[Source]:
    """A source on loopback that hands out `offer`."""
    source = start_source(timeout_s, **options)
    try:
        if offer is not None:
            source.serve(offer)
        yield source
    finally:
        source.close()


def candidate(source: Source, generation: int | None = GENERATION) -> Candidate:
    return Candidate(source.endpoint, "test", generation)


def pull_into(
    weights: Weights,
    *,
    who: Identity | None = None,
    backend: Backend | None = None,
    backends: tuple[Backend, ...] = (),
    security: SocketSecurity | Callable[[], SocketSecurity] = OPEN,
    observer: PullObserver | None = None,
    reaches: Callable[[str], bool] = lambda where: True,
    serves_at: str = "",
    **settings: Any,
) -> Pull:
    """By default nobody waits long for a source, and not at all for another one."""
    few = {"timeout_s": SILENT_S, "source_timeout_s": 0.0}
    window = WindowSettings(max_chunks=SMALL_WINDOW)
    return Pull(
        weights,
        Request(
            who or identity(),
            backends or (BACKENDS if backend is None else (backend,)),
            (lambda: security) if isinstance(security, SocketSecurity) else security,
            "replica",
            serves_at=serves_at,
            reaches=reaches,
        ),
        PullSettings(**{**few, "window": window, **settings}),
        observer,
    )


class StreamEnded(TransferError):
    """What ended the last stream of a pull that failed."""

    def __init__(self, failure: Failure) -> None:
        self.how = failure.how
        super().__init__(failure.source.endpoint, failure.how.reason)


def pull_from(pull: Pull, *sources: Candidate) -> None:
    """Run a pull with these candidates. Raises `StreamEnded` when it fails."""
    try:
        pull.run(lambda: sources)
    except NoSourceLeft:
        raise StreamEnded(pull.failures[-1]) from None


@contextmanager
def ended_by(
    kind: type[Outcome], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[StreamEnded]]:
    """Expect that `pull_from` fails in this way."""
    with pytest.raises(StreamEnded, match=match) as caught:
        yield caught
    assert isinstance(caught.value.how, kind), caught.value


@contextmanager
def source_process(
    seed: int, sends: int, mebibytes: int = 0, chunks: int = 0
) -> Iterator[tuple[Candidate, ForkedProcess]]:
    """A source in a process of its own, which ends by SIGKILL when it starts its n-th send. It has
    so many chunks; all without a number."""
    arguments = map(str, (seed, sends, mebibytes, chunks))
    with start_loader("tests.loader.source_process", *arguments) as process:
        try:
            endpoint = process.stdout.readline().strip()
            yield Candidate(endpoint, "test", GENERATION, ("tcp", "gloo")), process
        finally:
            process.kill()
