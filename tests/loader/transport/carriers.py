"""The backends that have to pass `conformance`, and pairs of groups that they carry."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from tests.loader.transport.played_nccl import PlayedDevice

from netloader.transport import Backend, Group, Rendezvous, join
from netloader.transport.bounce import Staging
from netloader.transport.gloo import GlooBackend
from netloader.transport.memory import MemoryBackend
from netloader.transport.nccl import NcclBackend
from netloader.transport.staged import StagedBackend
from netloader.transport.tcp import SealedBackend, TcpBackend

T = TypeVar("T")


@dataclass(frozen=True)
class Carrier:
    """One backend, as the tests need it."""

    name: str
    make: Callable[[], Backend]
    """Called once for a pair, or once in each process."""
    crosses_processes: bool
    """Whether its ends may be in two processes, of which one can be killed."""
    device: str = "cpu"
    """Where its tensors lie, for torch."""
    lands_at_wait: bool = False
    """Whether bytes reach a tensor in `wait` only, and all at once."""
    missing: str = ""
    """What this machine lacks for it: its tests are skipped with these words."""

    def zeros(self, nbytes: int) -> torch.Tensor:
        return torch.zeros(nbytes, dtype=torch.uint8, device=self.device)

    def filled(self, nbytes: int, value: int) -> torch.Tensor:
        return torch.full((nbytes,), value, dtype=torch.uint8, device=self.device)

    def pattern(self, nbytes: int, seed: int = 1) -> torch.Tensor:
        """Bytes of which no two parts are alike."""
        words = torch.arange(seed, seed + nbytes // 8 + 1, dtype=torch.int64)
        return words.mul_(0x9E3779B97F4A7C1).view(torch.uint8)[:nbytes].to(self.device)


def stage_everything() -> Backend:
    return StagedBackend(GlooBackend(), stages=lambda data: True)


def stage_everything_over_tcp() -> Backend:
    """In blocks that no message is a multiple of."""
    return TcpBackend(Staging(stages=lambda data: True, block_bytes=256 * 1024))


def seal_everything_by_blocks() -> Backend:
    return SealedBackend(Staging(stages=lambda data: True, block_bytes=256 * 1024))


def make_hccl() -> Backend:
    from netloader.transport.hccl import HcclBackend

    return HcclBackend()


HAS_NPU: Final = importlib.util.find_spec("torch_npu") is not None
"""Whether this is the environment of `make test-ascend`, which runs the tests of HCCL."""

CARRIERS: Final = (
    Carrier("tcp", TcpBackend, crosses_processes=True),
    Carrier("tcp-sealed", SealedBackend, crosses_processes=True),
    Carrier("gloo", GlooBackend, crosses_processes=True),
    Carrier("memory", MemoryBackend, crosses_processes=False),
    # Host memory plays the device: a second buffer, and a real copy.
    Carrier("staged", stage_everything, crosses_processes=True, lands_at_wait=True),
    Carrier("staged tcp", stage_everything_over_tcp, crosses_processes=True),
    Carrier("staged tcp-sealed", seal_everything_by_blocks, crosses_processes=True),
    Carrier("played nccl", lambda: NcclBackend(PlayedDevice()), crosses_processes=False),
    *((Carrier("hccl", make_hccl, crosses_processes=True, device="npu:0"),) if HAS_NPU else ()),
)
"""One line a backend."""


@dataclass(frozen=True)
class GroupPair:
    """Both ends of a group."""

    source: Group
    replica: Group

    def abort(self) -> None:
        self.source.abort()
        self.replica.abort()


def started(work: Callable[[], T]) -> Future[T]:
    """Do something in a thread of its own."""
    future: Future[T] = Future()
    threading.Thread(target=do, args=(work, future), daemon=True).start()
    return future


def do(work: Callable[[], T], future: Future[T]) -> None:
    """Let a future have what some work returns or raises."""
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  # Whoever asks for the result gets it.
        future.set_exception(error)
    finally:
        # Its traceback has this frame: a cycle would keep what the work had opened.
        del future


def meet(source: Backend, replica: Backend, timeout_s: float = 30.0) -> GroupPair:
    """A group whose ends are opened by different backends."""
    rendezvous = Rendezvous("127.0.0.1", timeout_s)
    opening = started(lambda: rendezvous.open(source))
    joined = join("127.0.0.1", rendezvous.port, rendezvous.secret, replica, timeout_s)
    return GroupPair(opening.result(timeout_s), joined)


def open_pair(backend: Backend, timeout_s: float = 30.0) -> GroupPair:
    rendezvous = Rendezvous("127.0.0.1", timeout_s)
    try:
        source = started(lambda: rendezvous.open(backend))
        replica = join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, timeout_s)
        return GroupPair(source.result(timeout_s), replica)
    finally:
        rendezvous.close()
