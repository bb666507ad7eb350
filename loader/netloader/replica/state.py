"""What a pull has and what it was promised, shared by the streams that bring it.

Streams run in threads of their own, one a source; everything they share is here, behind one lock:
the schedule, the digests that the sources promise, the staging memory, the parts of tensors whose
bytes nobody has verified.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from netloader.errors import OtherPromise, TransferError
from netloader.model import attributes
from netloader.plain import Plain
from netloader.replica.schedule import Schedule
from netloader.replica.settings import PullSettings
from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk, Piece


@dataclass(frozen=True, slots=True)
class Promise:
    """What a source says it holds, before it has sent a byte of it."""

    digests: tuple[bytes, ...]
    """By chunk id."""
    attributes: Mapping[str, Plain]
    """What its `load_weights` had set besides tensors."""
    content: Mapping[str, str] = field(default_factory=dict)
    """Evidence of the checkpoint's content."""
    computed: Mapping[str, str] = field(default_factory=dict)
    """Digests of persistent buffers that no checkpoint filled."""


@dataclass
class _Kept:
    """The promise that the pull goes by, and who stands for it."""

    promise: Promise
    endpoints: set[str] = field(default_factory=set)


class Ledger:
    """The shared state of one pull. Thread safe."""

    def __init__(self, weights: Weights, settings: PullSettings) -> None:
        self.weights = weights
        self.chunks = weights.manifest.chunks()
        staged = {chunk.id for chunk in self.chunks if weights.contiguous(chunk) is None}
        self._schedule = Schedule(
            [chunk.nbytes for chunk in self.chunks],
            weights.manifest.chunk_bytes,
            staged,
            settings,
        )
        self._lock = threading.Lock()
        self.changed = threading.Event()
        """Set when something happened that matters to the pull as a whole."""
        self._device = next((data.device for data in weights.tensors), torch.device("cpu"))
        self._over = False
        self._kept: _Kept | None = None
        self._unverified: set[int] = set()
        self._staging: list[torch.Tensor] = []

    @property
    def promise(self) -> Promise | None:
        """What the sources promise; None until one has been heard."""
        return self._kept.promise if self._kept is not None else None

    @property
    def complete(self) -> bool:
        """Whether every chunk is verified and in place."""
        return self._kept is not None and self._schedule.complete

    @property
    def over(self) -> bool:
        """Whether the streams should end: nothing more may be received."""
        return self._over or self.complete

    @property
    def arrived_bytes(self) -> int:
        """Bytes of weights verified so far."""
        with self._lock:
            return sum(self.chunks[chunk].payload for chunk in self._schedule.done)

    def unverified(self) -> tuple[Piece, ...]:
        """Parts of tensors that may hold bytes which nobody has verified."""
        return tuple(
            piece for number in sorted(self._unverified) for piece in self.chunks[number].pieces
        )

    def enter(self, source: str, endpoint: str, promise: Promise, available: Iterable[int]) -> None:
        """A source is ready to send. `source` is what it is called from now on: another name each
        time that one comes.

        Raises `OtherPromise` when it promises other weights than those before it, and
        `TransferError` when the pull is over.
        """
        with self._lock:
            if self._over:
                raise TransferError(endpoint, "came when the pull was over")
            if self._kept is None:
                self._kept = _Kept(promise)
            kept = self._kept.promise
            if promise.digests != kept.digests:
                raise OtherPromise(endpoint, "promises other digests than an earlier source")
            # No digest covers these: what the sources agree on is all there is to go by.
            different = attributes.difference(kept.attributes, promise.attributes)
            if different is not None:
                raise OtherPromise(
                    endpoint, f"has other attributes than an earlier source ({different})"
                )
            self._kept.endpoints.add(endpoint)
            self._schedule.join(source, available, time.monotonic())

    def offer(self, source: str, chunks: Iterable[int]) -> None:
        """A source has more chunks than it had."""
        with self._lock:
            self._schedule.offer(source, chunks)

    def starved(self, source: str) -> bool:
        """Whether chunks are missing that nobody brings, and `source` has none of them."""
        with self._lock:
            return self._schedule.starved(source)

    def take(self, source: str) -> tuple[Chunk, torch.Tensor, torch.Tensor | None] | None:
        """The next chunk to ask `source` for, where to receive it, and the staging memory that is
        part of, if it is. None: nothing now."""
        with self._lock:
            if self._over:
                return None
            number = self._schedule.take(source, time.monotonic())
            if number is None:
                return None
            chunk = self.chunks[number]
            data = self.weights.contiguous(chunk)
            if data is not None:
                self._unverified.add(number)
                return chunk, data, None
            buffer = (
                self._staging.pop()
                if self._staging
                else torch.empty(
                    self.weights.manifest.chunk_bytes, dtype=torch.uint8, device=self._device
                )
            )
            return chunk, buffer[: chunk.nbytes], buffer

    def arrived(self, source: str, chunk: Chunk, buffer: torch.Tensor | None) -> None:
        """A chunk is verified and in place; its staging memory, if any, is free again."""
        with self._lock:
            self._unverified.discard(chunk.id)
            if buffer is not None:
                self._staging.append(buffer)
            self._schedule.arrived(source, chunk.id, time.monotonic())
            if self._schedule.complete:
                self.changed.set()

    def leave(self, source: str) -> None:
        """Nothing more comes from `source`, and nothing of it is written to any more."""
        with self._lock:
            self._schedule.leave(source)
            self.changed.set()

    def lied(self, endpoint: str) -> bool:
        """This source sent other bytes than it promised. Call before `leave`.

        When nobody else stands for that promise it is worth nothing, and neither is what was
        verified by it: the pull starts over with the next source. Returns whether that is so.
        """
        with self._lock:
            kept = self._kept
            if kept is None or endpoint not in kept.endpoints:
                return False
            kept.endpoints.remove(endpoint)
            if kept.endpoints:
                return False
            self._kept = None
            self._unverified |= self._schedule.done
            self._schedule.disown(self._schedule.done)
            return True

    def let_go(self) -> str | None:
        """A source that keeps the others waiting (`Schedule.let_go`)."""
        with self._lock:
            return None if self._over else self._schedule.let_go(time.monotonic())

    def begin(self) -> None:
        """Let streams enter, after an `end` as well: what has arrived stays."""
        self._over = False

    def end(self) -> None:
        """Let nobody begin anything any more."""
        with self._lock:
            self._over = True
            self._staging.clear()
