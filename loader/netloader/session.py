"""One replica being served: the source's end of a session's process group.

A session has a thread of its own, because sends block. The thread ends, and the group with it, when
the replica says it is done, when a send fails or makes no progress for the timeout, when nothing is
asked for during the timeout, or when the source aborts it. Nothing a replica does or omits keeps it
longer, and no error leaves it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from netloader.attributes import Scalar
from netloader.identity import Identity
from netloader.manifest import Chunk
from netloader.transport import Backend, Group, Pending, Rendezvous, TransportError
from netloader.weights import Weights

_log = logging.getLogger(__name__)

WINDOW = 2
"""Sends under way at once: one on the wire while the next is packed. Bounds the staging memory of
a session to WINDOW chunks."""


@dataclass(frozen=True)
class Offer:
    """Weights that a source can hand out."""

    identity: Identity
    weights: Weights
    digests: Sequence[bytes]
    """By chunk id, fixed when the weights were loaded."""
    attributes: Mapping[str, Scalar]
    """What `load_weights` had set besides tensors."""
    backend: Backend

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunk table, by chunk id."""
        return self.weights.manifest.chunks()

    @cached_property
    def manifest_hash(self) -> str:
        """Hash of the weights' manifest: every replica is asked for it."""
        return self.weights.manifest.hash


class Session:
    """Serves chunks to one replica until it is done."""

    def __init__(
        self,
        session_id: str,
        replica: str,
        offer: Offer,
        rendezvous: Rendezvous,
        timeout_s: float,
        on_end: Callable[[Session, str | None], None],
    ) -> None:
        """`on_end` is called once, from the session's thread, with what went wrong or None."""
        self.id = session_id
        self.replica = replica
        self.sent_bytes = 0
        self._offer = offer
        self._rendezvous = rendezvous
        self._timeout_s = timeout_s
        self._on_end = on_end
        # None asks the thread to end. Bounded: a replica may want each chunk a few times, no more.
        self._wants: queue.Queue[int | None] = queue.Queue(maxsize=4 * len(offer.chunks) + 64)
        self._lock = threading.Lock()  # Guards the two below: abort may come while a group opens.
        self._group: Group | None = None
        self._abort_reason: str | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"netloader-session-{session_id[:6]}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def want(self, chunks: Sequence[int]) -> str | None:
        """Queue chunks for sending. Returns what is wrong with the request, if anything."""
        if any(chunk >= len(self._offer.chunks) for chunk in chunks):
            return f"there are only {len(self._offer.chunks)} chunks"
        try:
            for chunk in chunks:
                self._wants.put_nowait(chunk)
        except queue.Full:
            return "too many chunks asked for at once"
        return None

    def finish(self) -> None:
        """Let the session end once what was asked for is sent."""
        try:
            self._wants.put_nowait(None)
        except queue.Full:
            self.abort("the replica is done with requests outstanding")

    def abort(self, reason: str) -> None:
        """End the session now, from any thread. The first reason counts."""
        with self._lock:
            if self._abort_reason is None:
                self._abort_reason = reason
            group = self._group
        if group is not None:
            group.abort()
        self._rendezvous.close()
        try:
            self._wants.put_nowait(None)
        except queue.Full:
            _log.debug("session %s has requests left and drops them", self.id)

    def join(self, timeout_s: float) -> bool:
        """Wait until the session reads no weights any more. False when that took too long."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        reason: str | None = None
        try:
            group = self._rendezvous.open(self._offer.backend)
            with self._lock:
                self._group = group
            self._serve(group)
        except TransportError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001
            # The serving process must outlive whatever a session trips over.
            _log.exception("session %s with %s failed", self.id, self.replica)
            reason = f"{type(error).__name__}: {error}"
        finally:
            if self._group is not None:
                self._group.abort()
            self._rendezvous.close()
            self._on_end(self, self._abort_reason or reason)

    def _serve(self, group: Group) -> None:
        offer = self._offer
        staging: list[torch.Tensor] = []
        under_way: deque[tuple[Pending, torch.Tensor | None]] = deque()

        def settle() -> None:
            pending, buffer = under_way.popleft()
            pending.wait(self._timeout_s)
            if buffer is not None:
                staging.append(buffer)

        while (number := self._next(bool(under_way))) is not None:
            if self._abort_reason is not None:
                raise TransportError("aborted")
            if number == _IDLE:
                settle()
                continue
            while len(under_way) >= WINDOW:
                settle()
            chunk = offer.chunks[number]
            buffer = None
            if chunk.packed:
                size = offer.weights.manifest.chunk_bytes
                buffer = staging.pop() if staging else torch.empty(size, dtype=torch.uint8)
                data = offer.weights.pack(chunk, buffer)
            else:
                data = offer.weights.view(chunk.pieces[0])
            under_way.append((group.send(data, number), buffer))
            self.sent_bytes += chunk.nbytes
        while under_way:
            settle()

    def _next(self, busy: bool) -> int | None:
        """The next chunk to send; `_IDLE` when none is asked for but sends are under way."""
        try:
            return self._wants.get_nowait() if busy else self._wants.get(timeout=self._timeout_s)
        except queue.Empty:
            if busy:
                return _IDLE
            raise TransportError(f"nothing asked for in {self._timeout_s:g} s") from None


_IDLE = -1
