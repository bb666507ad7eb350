"""One replica being served: the source's end of a session's process group.

A session has a thread of its own, because sends block. The thread ends, and the group with it, when
the replica says it is done, when a send fails or makes no progress for the timeout, when nothing is
asked for during the timeout, or when the source aborts it. Nothing a replica does or omits keeps it
longer, and no error leaves it.

If a connection breaks halfway through a message, Gloo leaves the waiting thread blocked until its
timeout, whether the replica died or the group was aborted. The thread of a session that is over may
live so long: the source does not count it among those served. No weights are read in the meantime
(`quiet`).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from netloader.identity.identity import Identity
from netloader.plain import Plain
from netloader.protocol import messages
from netloader.source.eviction import Usage
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle
from netloader.system import affinity
from netloader.system.threads import TransferThread
from netloader.transport import Backend, Group, Pending, Rendezvous, TransportError
from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk

_log = logging.getLogger(__name__)

_MAX_QUOTE = 500
"""Characters of what a replica says that end up in a log."""


@dataclass(frozen=True)
class Offer:
    """Weights that a source can hand out."""

    identity: Identity
    weights: Weights
    digests: Sequence[bytes]
    """By chunk id, fixed when the weights were loaded."""
    attributes: Mapping[str, Plain]
    """What `load_weights` had set besides tensors."""
    backend: Backend
    computed: Mapping[str, str] = field(default_factory=dict)
    """Digests of persistent buffers that no checkpoint filled (`buffers.py`)."""

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunk table, by chunk id."""
        return self.weights.manifest.chunks()

    @cached_property
    def manifest_hash(self) -> str:
        """Hash of the weights' manifest: every replica is asked for it."""
        return self.weights.manifest.hash

    @cached_property
    def encoded_manifest(self) -> bytes:
        """What a replica with another manifest is sent. Made when the first one asks."""
        return self.weights.manifest.encode()


class Session:
    """Serves chunks to one replica until it is done."""

    def __init__(
        self,
        session_id: str,
        replica: str,
        offer: Offer,
        rendezvous: Rendezvous,
        settings: SourceSettings,
        on_end: Callable[[Session, str | None], None],
        *,
        throttle: Throttle | None = None,
    ) -> None:
        """`on_end` is called once, from the session's thread, with what went wrong or None."""
        self.id = session_id
        self.replica = replica
        self.offer = offer
        self.sent_bytes = 0
        """Handed to the replica's connection."""
        self.message_bytes = (
            messages.MAX_BULK_MESSAGE_BYTES if throttle is None else throttle.message_bytes
        )
        """What chunks are cut into: the replica has to be told."""
        self._rendezvous = rendezvous
        self._settings = settings
        self._on_end = on_end
        self._throttle = throttle
        # None wakes the thread: the session is over.
        self._wants: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._may_want = settings.max_repeats * len(offer.chunks) + 64
        self._sent: set[int] = set()
        self._idle_s = 0.0
        self._idle_since: float | None = time.monotonic()
        self._held_s = 0.0
        self._lock = threading.Lock()  # Guards the three below: abort may come while a group opens.
        self._group: Group | None = None
        self._abort_reason: str | None = None
        self._finished = False
        self._over = threading.Event()
        self._reading = threading.Lock()  # Held while this thread itself reads weights.
        self._thread = TransferThread(
            self._run,
            f"netloader-session-{session_id[:6]}",
            stop=lambda: self.abort("this process ends"),
        )

    def start(self) -> None:
        self._thread.start()

    def want(self, chunks: Sequence[int]) -> str | None:
        """Queue chunks for sending. Returns what is wrong with the request, if anything."""
        if any(chunk >= len(self.offer.chunks) for chunk in chunks):
            return f"there are only {len(self.offer.chunks)} chunks"
        if len(chunks) > self._may_want:
            return f"asked for each chunk more than {self._settings.max_repeats} times"
        self._may_want -= len(chunks)
        for chunk in chunks:
            self._wants.put(chunk)
        return None

    def has_sent(self, chunk: int) -> bool:
        """Whether this replica can have received the chunk."""
        return chunk in self._sent

    def usage(self) -> Usage:
        """What the session has done with its place until now."""
        now = time.monotonic()
        since = self._idle_since
        idle_s = self._idle_s + (now - since if since is not None else 0.0)
        return Usage(now, self.sent_bytes, idle_s, self._held_s)

    def finish(self) -> None:
        """Let the session end well: its replica wants nothing more. What is queued is not sent."""
        with self._lock:
            self._finished = self._abort_reason is None
        self._over.set()
        self._rendezvous.close()
        self._wants.put(None)

    def abort(self, reason: str) -> None:
        """End the session now, from any thread. The first reason counts."""
        with self._lock:
            if self._abort_reason is None:
                self._abort_reason = reason
            group = self._group
        self._over.set()
        if group is not None:
            group.abort()
        self._rendezvous.close()
        self._wants.put(None)

    def quiet(self, timeout_s: float) -> bool:
        """Wait, after `abort`, until no weights are read any more. False when that took too long.

        The group is closed and reads nothing; what is left is a chunk that is being packed.
        """
        if not self._reading.acquire(timeout=timeout_s):
            return False
        self._reading.release()
        return True

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended. False when that took too long."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        reason: str | None = None
        try:
            affinity.step_aside(background=True)
            group = affinity.elsewhere(lambda: self._rendezvous.open(self.offer.backend))
            with self._lock:
                self._group = group
            self._serve(group)
        except TransportError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001
            # The serving process must outlive whatever a session trips over.
            _log.exception("session %s with %.*r failed", self.id, _MAX_QUOTE, self.replica)
            reason = f"{type(error).__name__}: {error}"
        finally:
            if self._group is not None:
                self._group.abort()
            self._rendezvous.close()
            # Nothing is wrong with a session that breaks when its replica has all it wanted.
            self._on_end(self, None if self._finished else self._abort_reason or reason)

    def _serve(self, group: Group) -> None:
        weights = self.offer.weights
        staging: list[torch.Tensor] = []
        taken = 0
        under_way: deque[tuple[Pending, int, torch.Tensor | None]] = deque()

        def settle(timeout_s: float = self._settings.timeout_s) -> None:
            nonlocal taken
            pending, nbytes, buffer = under_way.popleft()
            pending.wait(timeout_s)
            self.sent_bytes += nbytes
            if buffer is not None:
                staging.append(buffer)
                taken -= 1

        while (number := self._next(bool(under_way))) is not None:
            if number == _IDLE:
                settle()
                continue
            while len(under_way) >= self._settings.window:
                settle()
            chunk = self.offer.chunks[number]
            buffer = None
            if weights.contiguous(chunk) is None:
                while taken >= self._settings.staged_chunks:
                    settle()
                size = weights.manifest.chunk_bytes
                buffer = staging.pop() if staging else torch.empty(size, dtype=torch.uint8)
                taken += 1
            with self._reading:
                self._check()
                data = self._bytes_of(chunk, buffer)
            self._sent.add(number)
            for start in range(0, chunk.nbytes, self.message_bytes):
                message = data[start : start + self.message_bytes]
                while len(under_way) >= self._settings.window:
                    settle()
                if self._throttle is not None:
                    self._held_s += self._throttle.wait(message.numel(), self._over)
                    self._check()
                # Staging memory is free again when the last message of the chunk has left.
                free = buffer if start + self.message_bytes >= chunk.nbytes else None
                under_way.append((group.send(message, number), message.numel(), free))
        deadline = time.monotonic() + min(self._settings.last_sends_s, self._settings.timeout_s)
        while under_way and self._finished:
            settle(max(0.0, deadline - time.monotonic()))

    def _bytes_of(self, chunk: Chunk, buffer: torch.Tensor | None) -> torch.Tensor:
        """A chunk as it travels: where it lies, or packed into `buffer`."""
        weights = self.offer.weights
        if buffer is not None:
            return weights.pack(chunk, buffer)
        data = weights.contiguous(chunk)
        assert data is not None
        return data

    def _check(self) -> None:
        if self._over.is_set():
            raise TransportError("the session is over")

    def _next(self, busy: bool) -> int | None:
        """The next chunk to send; `_IDLE` when none is asked for but sends are under way.

        None when the session is over, whatever is still queued.
        """
        if self._over.is_set():
            return None
        try:
            if busy:
                return self._wants.get_nowait()
            if self._idle_since is None:
                self._idle_since = time.monotonic()
            number = self._wants.get(timeout=self._settings.timeout_s)
        except queue.Empty:
            if busy:
                return _IDLE
            raise TransportError(f"nothing asked for in {self._settings.timeout_s:g} s") from None
        since, self._idle_since = self._idle_since, None
        self._idle_s += time.monotonic() - since
        return number


_IDLE = -1
