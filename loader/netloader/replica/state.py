"""The state of a pull, shared by the streams that bring its chunks.

Streams run in threads of their own, one for each source. Everything that they share is here, behind
one lock: the schedule, the promise that the sources agree on, the staging memory, and which parts
of tensors hold bytes that nobody has verified.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from netloader.discovery.candidate import Process
from netloader.errors import DigestMismatch
from netloader.replica.acceptance import Agreement, Promise
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import Contradicted, Corrupt, Dropped
from netloader.replica.schedule import Schedule
from netloader.replica.settings import PullSettings
from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk, Piece


@dataclass(frozen=True, slots=True)
class Assignment:
    """A chunk for a stream to ask for, and where to receive it."""

    chunk: Chunk
    data: torch.Tensor
    """Shape [chunk.nbytes], uint8: part of a tensor of the model, or of `staging`."""
    staging: torch.Tensor | None
    """Staging memory to give back; None where the chunk is received in place."""


_NOBODY: Final = PullObserver()


class PullState:
    """The shared state of one pull. Thread safe."""

    def __init__(
        self,
        weights: Weights,
        settings: PullSettings,
        observer: PullObserver = _NOBODY,
        name: str = "",
    ) -> None:
        """`name` is where this replica serves while it loads; empty: nowhere."""
        self.weights = weights
        self.chunks = weights.manifest.chunks()
        self._observer = observer
        self.changed = threading.Event()
        """Wakes the thread that runs the pull: everything has arrived, or a stream has ended."""
        self._lock = threading.Lock()  # Guards everything below.
        self._schedule = Schedule(
            [chunk.nbytes for chunk in self.chunks],
            weights.manifest.chunk_bytes,
            {chunk.id for chunk in self.chunks if weights.contiguous(chunk) is None},
            settings,
            name,
        )
        self._to_tell: dict[str, list[int]] = {}
        self._near: set[str] = set()  # Sources on this host.
        self._asked_far: set[int] = set()  # Chunks in flight from sources on other hosts.
        self._agreement = Agreement()
        self._closed = False
        self._payloads = [chunk.payload for chunk in self.chunks]
        self._arrived_bytes = 0
        self._unverified: set[int] = set()
        self._staging: list[torch.Tensor] = []
        self._device = next((data.device for data in weights.tensors), torch.device("cpu"))

    @property
    def promise(self) -> Promise | None:
        """What the sources promise; None until one has promised, and when no source stands by it
        any more."""
        with self._lock:
            return self._agreement.promise

    @property
    def complete(self) -> bool:
        """Whether every chunk is verified and in place."""
        with self._lock:
            return self._complete

    @property
    def over(self) -> bool:
        """Whether the streams should end, because nothing more may be received."""
        with self._lock:
            return self._closed or self._complete

    @property
    def arrived_bytes(self) -> int:
        """Bytes of weights verified so far."""
        with self._lock:
            return self._arrived_bytes

    def unverified(self) -> tuple[Piece, ...]:
        """Parts of tensors that may hold unverified bytes."""
        with self._lock:
            return tuple(
                piece for number in sorted(self._unverified) for piece in self.chunks[number].pieces
            )

    def enter(
        self,
        source: str,
        endpoint: str,
        promise: Promise,
        available: Iterable[int],
        *,
        near: bool = False,
        deals: bool = False,
    ) -> Contradicted | Dropped | None:
        """Let in a source that is ready to send. It is called `source` from now on, by a new name
        each time it comes. Returns the reason if the source is not let in. `near`: the source is on
        this host. `deals`: it wants to hear which chunks come from others (`news_for`)."""
        with self._lock:
            if self._closed:
                return Dropped("came when the pull was over")
            first = self._agreement.promise is None
            contradiction = self._agreement.join(endpoint, promise)
            if contradiction is not None:
                return Contradicted(contradiction)
            if first:
                self._observer.promised(promise)
            now = time.monotonic()
            self._schedule.join(source, available, now, near=endpoint if near else "")
            if near:
                self._near.add(source)
            if deals:
                self._to_tell[source] = []
            return None

    @property
    def done(self) -> frozenset[int]:
        """Chunks that are verified and in place."""
        with self._lock:
            return self._schedule.done

    def have(
        self,
        source: str,
        chunks: Sequence[int],
        gone: Sequence[int] = (),
        coming: Sequence[int] = (),
    ) -> None:
        """Note that a source offers more chunks than before, or some no longer, and what it is
        getting."""
        count = len(self.chunks)
        with self._lock:
            offered = [number for number in chunks if number < count]
            self._schedule.have(source, offered)
            self._schedule.gone(source, [number for number in gone if number < count])
            if source in self._near:
                self._schedule.coming(
                    source, [number for number in coming if number < count], time.monotonic()
                )
            news = self._to_tell.get(source)
            if news is not None:
                news += self._schedule.done.intersection(offered)

    def news_for(self, source: str) -> list[int]:
        """Chunks that a source that deals offers and that others have brought, since the last
        call."""
        with self._lock:
            news = self._to_tell.get(source)
            if not news:
                return []
            self._to_tell[source] = []
            return news

    def interested(self, source: str) -> bool:
        """False when chunks are wanted and `source` has none of them."""
        with self._lock:
            return self._schedule.interested(source)

    def pick(self, source: str) -> Assignment | None:
        """The next chunk to ask `source` for; None when there is nothing now."""
        with self._lock:
            if self._closed:
                return None
            number = self._schedule.pick(source, time.monotonic())
            if number is None:
                return None
            if source not in self._near:
                self._asked_far.add(number)
                self._observer.asked(number)
            chunk = self.chunks[number]
            in_place = self.weights.contiguous(chunk)
            if in_place is not None:
                self._unverified.add(number)
                return Assignment(chunk, in_place, None)
            staging = self._staging.pop() if self._staging else self._new_staging()
            return Assignment(chunk, staging[: chunk.nbytes], staging)

    def arrived(self, source: str, assignment: Assignment) -> None:
        """Note that a chunk is verified and in place; its staging memory, if any, is free again."""
        with self._lock:
            self._unverified.discard(assignment.chunk.id)
            if assignment.staging is not None:
                self._staging.append(assignment.staging)
            number = assignment.chunk.id
            self._asked_far.discard(number)
            self._schedule.arrived(source, number, time.monotonic())
            self._arrived_bytes += self._payloads[number]
            for other, news in self._to_tell.items():
                if other != source and self._schedule.offers(other, number):
                    news.append(number)
            self._observer.verified(number)
            if self._schedule.complete:
                self.changed.set()

    def leave(self, source: str) -> int:
        """Remove `source`: nothing more comes from it, and its unfinished chunks are no longer
        written to. Returns how many these are; 0 if it has left before."""
        with self._lock:
            self._to_tell.pop(source, None)
            self._near.discard(source)
            unfinished = self._schedule.leave(source)
            lost = self._asked_far.intersection(unfinished)
            if lost:
                self._asked_far -= lost
                self._observer.given_up(lost)
            return len(unfinished)

    def corrupt(self, process: Process, error: DigestMismatch) -> Corrupt:
        """Note that this process sent other bytes than it had promised. Call this before `leave`.

        When no other source stands by that promise, the promise is void, and so is everything
        verified by it: the pull starts over with the next source.
        """
        endpoint, _ = process
        with self._lock:
            void = self._agreement.break_off(endpoint)
            if void:
                self._observer.voided()
                self._unverified |= self._schedule.done
                self._schedule.invalidate()
                self._arrived_bytes = 0
        return Corrupt(error.reason, error.chunk, process, void)

    def snubbed(self) -> str | None:
        """A source to drop, because it keeps the others waiting (`Schedule.snubbed`)."""
        with self._lock:
            return None if self._closed else self._schedule.snubbed(time.monotonic())

    def open(self) -> None:
        """Let streams enter, also after a `close`: chunks that have arrived stay."""
        with self._lock:
            self._closed = False

    def close(self) -> None:
        """Let no stream begin anything more."""
        with self._lock:
            self._closed = True
            self._staging.clear()

    @property
    def _complete(self) -> bool:
        # A model without chunks is complete once a source has promised the rest.
        return self._agreement.promise is not None and self._schedule.complete

    def _new_staging(self) -> torch.Tensor:
        return torch.empty(
            self.weights.manifest.chunk_bytes, dtype=torch.uint8, device=self._device
        )
