"""A model with every kind of tensor, sources and replicas on loopback, and faults to put there."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq
from tests.fastest import HANG_S
from tests.forked import ForkedProcess, start_loader
from torch import nn
from torch._C._distributed_c10d import Store

from netloader.discovery.candidate import Candidate
from netloader.errors import NoSourceLeft, TransferError
from netloader.identity.identity import Evidence, Identity, Names, known
from netloader.protocol import messages
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import Outcome
from netloader.replica.pull import Failure, Pull
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings, WindowSettings
from netloader.source.listener import Listener
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.source.settings import SourceSettings
from netloader.transport import Backend, Group, Pending, TransportError
from netloader.transport.gloo import GlooBackend
from netloader.weights import digests
from netloader.weights.capture import Weights, capture
from netloader.weights.manifest import CHUNK_BYTES
from netmesh import SocketSecurity

CHUNK = 64 * 1024
"""Small enough that a toy model has many chunks of both kinds."""

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


def until(done: Callable[[], object], timeout_s: float = HANG_S) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


@contextmanager
def in_background(act: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do something in a thread of its own, which has ended when this ends."""
    thread = threading.Thread(target=act)
    thread.start()
    yield thread
    thread.join(HANG_S)
    assert not thread.is_alive()


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


class Toy(nn.Module):
    """Tied, permuted, tiny, empty, integer, boolean: what real models have, in half a megabyte."""

    bias: torch.Tensor
    flag: torch.Tensor

    def __init__(self, seed: int | None = None, rows: int = 2000) -> None:
        """Random bytes by `seed`; zeros without one."""
        super().__init__()
        self.embed = nn.Embedding(rows, 64)
        self.head = nn.Linear(64, rows, bias=False)
        self.head.weight = self.embed.weight
        self.permuted = nn.Parameter(torch.empty(300, 128).t())
        self.slanted = nn.Parameter(torch.empty(5, 7, 3).permute(2, 0, 1))
        self.small = nn.ParameterList(
            nn.Parameter(torch.empty(100 + 37 * number, dtype=torch.bfloat16))
            for number in range(60)
        )
        self.packed = nn.Parameter(torch.empty(77, 33, dtype=torch.int8), requires_grad=False)
        self.empty = nn.Parameter(torch.empty(0, 7))
        self.register_buffer("bias", torch.empty(33, dtype=torch.int64))
        self.register_buffer("flag", torch.empty((), dtype=torch.bool), persistent=False)
        generator = torch.Generator().manual_seed(seed or 0)
        for data in capture(self).tensors:
            if seed is None:
                data.zero_()
            else:
                data.random_(0, 2, generator=generator) if data.numel() == 1 else data.random_(
                    0, 256, generator=generator
                )


def toy_weights(seed: int | None = None, *, rows: int = 2000, chunk: int = CHUNK) -> Weights:
    return capture(Toy(seed, rows), chunk_bytes=chunk)


def is_zero(weights: Weights, chunks: list[int]) -> bool:
    return not any(
        bool(weights.view(piece).any())
        for chunk in chunks
        for piece in weights.manifest.chunks()[chunk].pieces
    )


def big_weights(seed: int | None, mebibytes: int) -> Weights:
    """One large tensor in chunks of the real size."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(mebibytes, 1 << 18))
    weights = capture(model, chunk_bytes=min(CHUNK_BYTES, 8 << 20))
    if seed is not None:
        block = torch.empty(1 << 20, dtype=torch.uint8)
        block.random_(0, 256, generator=torch.Generator().manual_seed(seed))
        for number, row in enumerate(weights.tensors[0].view(-1, block.numel())):
            torch.add(block, number, out=row)
    return weights


def equal(one: Weights, other: Weights) -> bool:
    return one.sha256() == other.sha256()


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
        backends or (backend or GlooBackend(),),
    )


def listening(
    security: SocketSecurity = OPEN, host: str = "127.0.0.1", port: int | None = None
) -> Listener:
    return Listener(host, port, security, SourceSettings().handshake_timeout_s)


_OBSERVERS = ("throttle", "on_sessions", "on_changed", "upstream", "telemetry")


def start_source(
    timeout_s: float = SILENT_S,
    *,
    security: SocketSecurity = OPEN,
    listener: Listener | None = None,
    generation: Callable[[], int] = lambda: GENERATION,
    **options: Any,
) -> Source:
    """Options are what `Source` takes by name, or fields of `SourceSettings`."""
    given = {name: options.pop(name) for name in _OBSERVERS if name in options}
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
    **settings: Any,
) -> Pull:
    """By default nobody waits long for a source, and not at all for another one."""
    few = {"timeout_s": SILENT_S, "source_timeout_s": 0.0}
    window = WindowSettings(max_chunks=SMALL_WINDOW)
    return Pull(
        weights,
        Request(
            who or identity(),
            backends or (backend or GlooBackend(),),
            (lambda: security) if isinstance(security, SocketSecurity) else security,
            "replica",
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
            yield Candidate(process.stdout.readline().strip(), "test", GENERATION), process
        finally:
            process.kill()


OnSend = Callable[[int, torch.Tensor], torch.Tensor]
"""Called with a chunk's id and bytes; what it returns is sent instead."""


@dataclass
class TamperedGroup:
    """A real group with a hand on what leaves it."""

    inner: Group
    on_send: OnSend

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return self.inner.send(self.on_send(tag, data), tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return self.inner.recv(data, tag)

    def abort(self, reason: str = "") -> None:
        self.inner.abort(reason)


@dataclass
class TamperedBackend:
    """Any backend, with `on_send` called before every send."""

    on_send: OnSend
    inner: Backend = field(default_factory=GlooBackend)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def connections(self) -> int:
        return self.inner.connections

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        return TamperedGroup(self.inner.open(store, rank, host, timeout), self.on_send)


@dataclass
class SendLog:
    """Remembers which chunks were sent."""

    sent: list[int] = field(default_factory=list)

    def __call__(self, tag: int, data: torch.Tensor) -> torch.Tensor:
        self.sent.append(tag)
        return data


def wrong_byte_in(chunk: int) -> OnSend:
    """Flip one byte of one chunk on its way out."""

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        if tag != chunk:
            return data
        wrong = data.clone()
        wrong[wrong.numel() // 2] ^= 0xFF
        return wrong

    return on_send


def cut_after(sends: int) -> OnSend:
    """Break the group when chunk number `sends`, counted from 0, is to be sent."""
    count = itertools.count()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        if next(count) >= sends:
            raise TransportError("cut")
        return data

    return on_send


class Stuck:
    """A send that does not happen until `release`."""

    def __init__(self, after: int = 0) -> None:
        self.reached = threading.Event()
        self.release = threading.Event()
        self._left = after

    def __call__(self, tag: int, data: torch.Tensor) -> torch.Tensor:
        if self._left == 0:
            self.reached.set()
            self.release.wait(HANG_S)
        self._left -= 1
        return data


class Caller:
    """A replica's control connection with nobody sensible behind it."""

    def __init__(self, source: Source | Listener, security: SocketSecurity = OPEN) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger = 100
        security.apply_client(self._dealer)
        self._dealer.connect(f"tcp://{source.endpoint}")

    def send(self, message: messages.Message) -> None:
        self._dealer.send_multipart(messages.encode(message))

    def send_raw(self, *frames: bytes) -> None:
        self._dealer.send_multipart(list(frames))

    def receive(self, timeout_s: float = HANG_S) -> messages.Message:
        return self.receive_all(timeout_s)[0]

    def receive_all(self, timeout_s: float = HANG_S) -> tuple[messages.Message, bytes]:
        """A message and its attachment."""
        assert self._dealer.poll(int(timeout_s * 1000)), "the source said nothing"
        return messages.decode(self._dealer.recv_multipart())

    def hears_nothing(self, timeout_s: float) -> bool:
        return not self._dealer.poll(int(timeout_s * 1000))

    def ask(self, message: messages.Message) -> messages.Message:
        self.send(message)
        return self.receive()

    def accepted(self, weights: Weights) -> messages.Accept:
        answer = self.ask(hello(weights))
        assert isinstance(answer, messages.Accept), answer
        return answer

    def close(self) -> None:
        self._context.destroy(linger=100)


@contextmanager
def calling(source: Source, security: SocketSecurity = OPEN) -> Iterator[Caller]:
    caller = Caller(source, security)
    try:
        yield caller
    finally:
        caller.close()


def hello(weights: Weights, who: Identity | None = None, **changes: Any) -> messages.Hello:
    who = who or identity()
    fields: dict[str, Any] = {
        "replica": "caller",
        "generation": GENERATION,
        "identity": who.digest,
        "fields": who.fields(),
        "names": who.names.travelling(),
        "content": known(who.content),
        "manifest": weights.manifest.hash,
        "chunk_bytes": weights.manifest.chunk_bytes,
        "backend": "gloo",
    }
    return messages.Hello(**fields | changes)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    """Of the whole process, Gloo's and ZeroMQ's included."""
    return len(list(Path("/proc/self/task").iterdir()))


def settle() -> None:
    """Wait until the threads of sessions that are over have ended, and Gloo's are gone."""
    until(lambda: not any(map(_moves_bytes, threading.enumerate())))
    last = -1
    while last != (now := threads()):
        last = now
        time.sleep(0.02)


def _moves_bytes(thread: threading.Thread) -> bool:
    return thread.name.startswith(("netloader-session-", "netloader-pull-"))


def leaves_nothing(once: Callable[[], object], times: int) -> None:
    """Assert that all but the first of `times` leave no threads and no descriptors."""
    once()
    settle()
    descriptors_before, threads_before = descriptors(), threads()
    for _ in range(times):
        once()
    settle()
    # ZeroMQ's thread closes the last connections.
    until(lambda: descriptors() <= descriptors_before)
    until(lambda: threads() <= threads_before)
