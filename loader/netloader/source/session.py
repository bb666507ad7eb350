"""One replica being served: the source's end of a session's process group.

A session has a thread of its own, because sends block. The thread ends, and the group with it, in
four cases: the replica says it is done; a send fails or makes no progress for the timeout; nothing
is asked for during the timeout; or the source ends the session. Nothing that a replica does or
omits keeps the thread longer, and no error leaves it.

A session can be held while its weights change. It then holds no reference to them, so that their
memory can go back, and later goes on with others of the same bytes.

If a connection breaks halfway through a message, Gloo leaves the waiting thread blocked until its
timeout, whether the replica died or the group was aborted. So the thread of a session that is over
may live until then, and the source does not count it among those served. No weights are read in the
meantime (`quiet`).

Any thread may call a session's methods. Only the session's thread sends, and only it writes the
counters of `usage`. Fields that both sides write are behind `_lock` or in the request queue, which
has a lock of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from netloader.errors import TransportError
from netloader.protocol import messages
from netloader.source.offer import Offer
from netloader.source.policy.eviction import Usage
from netloader.source.request_queue import RequestQueue
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle
from netloader.system import affinity
from netloader.system.threads import TransferThread, use_device
from netloader.transport import Backend, Group, Pending, Rendezvous
from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk

_log = logging.getLogger(__name__)

MAX_QUOTE = 500
"""How many characters of a replica's words a log line may quote."""


@dataclass(frozen=True)
class SessionOutcome:
    """How a session ended. The first outcome counts: a connection that breaks once the replica has
    all it wanted does no harm."""

    how: Literal["done", "aborted", "evicted", "broken"]
    """The replica had what it wanted; the source or the replica ended the session; the session made
    room for others; or its group or our own code failed."""
    reason: str = ""


_DONE = SessionOutcome("done")


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What a replica and its source have agreed on."""

    id: str
    """Names the session in every message."""
    replica: str
    """Name of the replica, for the log."""
    backend: Backend
    """Carries the bytes."""
    near: bool = False
    """Whether the replica says that it is on this host."""


class Session:
    """Serves chunks to one replica until it is done."""

    def __init__(
        self,
        terms: SessionTerms,
        offer: Offer,
        rendezvous: Rendezvous,
        settings: SourceSettings,
        on_end: Callable[[Session, SessionOutcome], None],
        *,
        throttle: Throttle | None = None,
    ) -> None:
        """`on_end` is called once, from the session's thread."""
        self.id = terms.id
        self.replica = terms.replica
        self.transport = terms.backend.name
        """Name of what carries the bytes."""
        self.offer: Offer | None = offer
        """What is sent; None while the session is held, and once it is over."""
        self.what = offer.identity.names.shown
        """The model whose weights are sent, for the log."""
        self.promised = offer.promised
        """What its replica expects."""
        self.chunks = len(offer.chunks)
        """How many there are in all."""
        self.available = offer.available
        """The chunks that its replica may ask for; None where these were all from the start."""
        self.told = 0
        """How many of `available` its replica knows of. Belongs to the source's thread."""
        self.told_at = 0.0
        """When its replica was told of some, by `time.monotonic`. Belongs to the source's
        thread."""
        self.near = terms.near
        """Whether its replica is on this host, and hears what this worker is getting."""
        self.told_plans = 0
        """How many plans of `available` such a replica knows of. Belongs to the source's
        thread."""
        self.held = False
        """Whether the session waits for `resume`. Belongs to the source's thread."""
        self.sent_bytes = 0
        """Bytes handed to the replica's connection."""
        self.message_bytes = (
            messages.MAX_BULK_MESSAGE_BYTES if throttle is None else throttle.message_bytes
        )
        """Bytes of the messages that chunks are cut into; the replica has to be told."""
        self._backend = terms.backend
        self._rendezvous = rendezvous
        self._settings = settings
        self._on_end = on_end
        self._throttle = throttle
        self._device = offer.weights.device
        self._requests = RequestQueue(self.chunks, settings.max_repeats)
        self._held_s = 0.0
        self._began = time.monotonic()
        self._decided_at: float | None = None
        self._lock = threading.Lock()  # Guards the three fields below, and `_decided_at`.
        self._group: Group | None = None
        self._outcome: SessionOutcome | None = None
        self._sent: set[int] = set()
        self._over = threading.Event()
        self._reading = threading.Lock()  # Held while this thread itself reads weights.
        self._thread = TransferThread(
            self._run,
            f"netloader-session-{terms.id[:6]}",
            stop=lambda: self.abort("this process ends"),
        )

    def start(self) -> None:
        """Wait for the replica and serve it, in the session's thread."""
        self._thread.start()

    def want(self, chunks: Sequence[int]) -> str | None:
        """Queue chunks for sending. Returns what is wrong with the request, if anything."""
        available = self.available
        if available is not None:
            lacking = next((chunk for chunk in chunks if chunk not in available), None)
            if lacking is not None:
                return f"asked for chunk {lacking}, which is not there yet"
        return self._requests.add(chunks)

    def hold(self) -> None:
        """Begin to send no further chunk until `resume`. Chunks under way are finished."""
        self.held = True
        self._requests.hold()

    def wait_held(self, timeout_s: float) -> bool:
        """Wait, after `hold` or the end, until no weights are read, and let go of them. Returns
        False when that took too long, or the session has ended with weights under way."""
        if not self._requests.wait_resting(timeout_s):
            return False
        self.offer = None
        return True

    def resume(self, offer: Offer) -> None:
        """Go on after `hold`, with all of the weights, as promised; they may lie elsewhere."""
        self.offer = offer
        if self.available is not None:
            self.available.complete(self.chunks)
        self.held = False
        self._requests.release()

    def has_sent(self, chunk: int) -> bool:
        """Whether this replica can have received the chunk."""
        with self._lock:
            return chunk in self._sent

    @property
    def sent(self) -> frozenset[int]:
        """The chunks that this replica can have received."""
        with self._lock:
            return frozenset(self._sent)

    @property
    def seconds(self) -> float:
        """Since the replica was accepted, until how the session ends was decided."""
        return (self._decided_at or time.monotonic()) - self._began

    def usage(self) -> Usage:
        """What the session has done with its place until now."""
        return Usage(time.monotonic(), self.sent_bytes, self._requests.idle_s, self._held_s)

    def finish(self) -> None:
        """Let the session end well: its replica wants nothing more. Queued chunks are not sent.

        The session waits for sends under way, but not for long.
        """
        self._decide(_DONE)
        self._stop()

    def abort(self, reason: str) -> None:
        """End the session now."""
        self._break_off(SessionOutcome("aborted", reason))

    def evict(self, reason: str) -> None:
        """End the session now, because others need its place."""
        self._break_off(SessionOutcome("evicted", reason))

    def quiet(self, timeout_s: float) -> bool:
        """Wait, after `abort`, until no weights are read any more. Returns False when that took too
        long.

        The group is closed and reads nothing; only a chunk that is being packed may still be read.
        """
        if not self._reading.acquire(timeout=timeout_s):
            return False
        self._reading.release()
        return True

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended. Returns False when that took too long."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _decide(self, outcome: SessionOutcome) -> SessionOutcome:
        """Set how the session ends, unless that is already set. Returns the outcome that counts."""
        with self._lock:
            if self._outcome is None:
                self._outcome = outcome
                self._decided_at = time.monotonic()
            return self._outcome

    def _break_off(self, outcome: SessionOutcome) -> None:
        self._decide(outcome)
        with self._lock:
            group = self._group
        self._over.set()
        if group is not None:
            group.abort()
        self._stop()

    def _stop(self) -> None:
        """Wake the thread, unless it waits in a send; nothing further is sent."""
        self._over.set()
        self._rendezvous.close()
        self._requests.close()
        self.offer = None

    def _run(self) -> None:
        outcome = SessionOutcome("broken", "its thread was ended")
        try:
            affinity.step_aside(background=True)
            use_device(self._device)
            group = affinity.elsewhere(lambda: self._rendezvous.open(self._backend))
            with self._lock:
                self._group = group
            self._serve(group)
        except TransportError as error:
            outcome = SessionOutcome("broken", str(error))
        except torch.OutOfMemoryError as error:
            why = f"the source's device is out of memory: {str(error).partition(chr(10))[0]:.300}"
            outcome = SessionOutcome("broken", why)
        except Exception as error:  # noqa: BLE001
            # The serving process must survive whatever a session trips over.
            _log.exception("session %s with %.*r failed", self.id, MAX_QUOTE, self.replica)
            outcome = SessionOutcome("broken", f"{type(error).__name__}: {error}")
        finally:
            outcome = self._decide(outcome)
            if self._group is not None:
                self._group.abort()
            self._stop()
            self._on_end(self, outcome)

    def _serve(self, group: Group) -> None:
        """Send what is asked for until the session is over."""
        settings = self._settings
        _step_beside_the_model(self._device.type)
        sends = _Sends(settings, self._count)
        while (number := self._next(sends)) is not None:
            self._hand_out(number, group, sends)
        with self._lock:
            done = self._outcome == _DONE
        if done:
            sends.finish(min(settings.last_sends_s, settings.timeout_s))

    def _next(self, sends: _Sends) -> int | None:
        """The next chunk to send; None when the session is over, whatever is still queued."""
        while True:
            try:
                return self._requests.take(0.0 if sends.under_way else self._settings.timeout_s)
            except TimeoutError as error:
                if not sends.under_way:
                    raise TransportError(str(error)) from None
                sends.settle()

    def _hand_out(self, number: int, group: Group, sends: _Sends) -> None:
        """Begin to send one chunk. Afterwards only `sends` refers to weights."""
        offer = self.offer
        if offer is None:
            raise TransportError("the session is over")
        weights, chunk = offer.weights, offer.chunks[number]
        data, buffer = weights.contiguous(chunk), None
        if data is None:
            buffer = sends.buffer(weights)
            with self._reading:
                self._check()
                data = weights.pack(chunk, buffer)
        self._check()
        with self._lock:
            self._sent.add(number)
        self._send(group, sends, chunk, data, buffer)

    def _send(
        self,
        group: Group,
        sends: _Sends,
        chunk: Chunk,
        data: torch.Tensor,
        buffer: torch.Tensor | None,
    ) -> None:
        """Send one chunk in messages, each of which waits for its turn."""
        for start in range(0, chunk.nbytes, self.message_bytes):
            message = data[start : start + self.message_bytes]
            sends.make_room()
            if self._throttle is not None:
                self._held_s += self._throttle.wait(message.numel(), self._over)
                self._check()
            last = start + self.message_bytes >= chunk.nbytes
            pending = group.send(message, chunk.id)
            # Staging memory is free again when the last message of the chunk has left.
            sends.add(pending, message.numel(), buffer if last else None)

    def _count(self, nbytes: int) -> None:
        self.sent_bytes += nbytes

    def _check(self) -> None:
        if self._over.is_set():
            raise TransportError("the session is over")


def _step_beside_the_model(device_type: str) -> None:
    """Give the calling thread a stream of its own, so that packing waits for no inference, and is
    recorded in no graph."""
    module = None if device_type == "cpu" else torch.get_device_module(device_type)
    if module is not None and hasattr(module, "Stream"):
        module.set_stream(module.Stream())


class _Sends:
    """Sends under way, and the staging memory they hold. Belongs to the session's thread."""

    def __init__(self, settings: SourceSettings, on_sent: Callable[[int], None]) -> None:
        self._settings = settings
        self._on_sent = on_sent
        self._pending: deque[tuple[Pending, int, torch.Tensor | None]] = deque()
        self._free: list[torch.Tensor] = []
        self._taken = 0

    @property
    def under_way(self) -> bool:
        return bool(self._pending)

    def buffer(self, weights: Weights) -> torch.Tensor:
        """Staging memory for a chunk of `weights`, uint8. Waits until there is some."""
        while self._taken >= self._settings.staged_chunks:
            self.settle()
        self._taken += 1
        return self._free.pop() if self._free else weights.staging()

    def make_room(self) -> None:
        """Wait until one more send may be under way."""
        while len(self._pending) >= self._settings.window:
            self.settle()

    def add(self, pending: Pending, nbytes: int, buffer: torch.Tensor | None) -> None:
        """Note a send that has begun; when it has ended, `buffer` is free."""
        self._pending.append((pending, nbytes, buffer))

    def settle(self) -> None:
        """Wait for the oldest send. Raises `TransportError`."""
        self._settle(self._settings.timeout_s)

    def finish(self, timeout_s: float) -> None:
        """Wait for all sends. Raises `TransportError`."""
        deadline = time.monotonic() + timeout_s
        while self._pending:
            self._settle(max(0.0, deadline - time.monotonic()))

    def _settle(self, timeout_s: float) -> None:
        pending, nbytes, buffer = self._pending.popleft()
        pending.wait(timeout_s)
        self._on_sent(nbytes)
        if buffer is not None:
            self._free.append(buffer)
            self._taken -= 1
