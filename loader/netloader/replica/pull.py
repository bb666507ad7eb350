"""Bringing a model's weights from as many sources as are good for it.

A `Pull` outlives its sources. It opens streams to the best candidates, replaces those that end,
takes in members that appear while it runs, and lets a source go that keeps the others waiting.
What one delivered stays; the model is never built again. When no source is left it waits for one,
for a bounded time, and then leaves the rest to storage.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from netloader.discovery.candidate import Candidate, Process
from netloader.errors import DigestMismatch, LetGo, NoSourceLeft, Refused, TransferError
from netloader.plain import Plain
from netloader.replica.request import Request
from netloader.replica.retry import Prospects
from netloader.replica.settings import PullSettings
from netloader.replica.state import Ledger
from netloader.replica.stream import Stream
from netloader.weights.capture import Weights
from netloader.weights.manifest import Piece

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one source contributed."""

    endpoint: str
    nbytes: int
    seconds: float
    """From the first word to the source until its last verified chunk."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A source that did not deliver, or not to the end, and why."""

    source: Candidate
    error: TransferError

    def __str__(self) -> str:
        return f"{self.source.found_by}: {self.error}"


@dataclass(frozen=True, slots=True)
class PullObserver:
    """Who is told what happens in a pull. Each is called by one thread at a time."""

    progress: Callable[[int], object] = lambda nbytes: None
    """Told the bytes of each chunk that is verified and in place, by the streams' threads."""
    accused: Callable[[Process], object] = lambda process: None
    """Told of a process whose bytes were not what it had promised."""
    sources: Callable[[int], object] = lambda count: None
    """Told the number of sources being pulled from whenever it changes."""


class Pull:
    """Brings a model's weights from peers into its tensors, chunk by chunk."""

    def __init__(
        self,
        weights: Weights,
        request: Request,
        settings: PullSettings | None = None,
        observer: PullObserver | None = None,
    ) -> None:
        """`weights` are the tensors to fill."""
        self.weights = weights
        self.failures: list[Failure] = []
        """Sources that did not deliver, or not to the end, in the order it happened."""
        self._request = request
        self._settings = settings if settings is not None else PullSettings()
        self._observer = observer if observer is not None else PullObserver()
        self._told_sources = 0
        self._progress_lock = threading.Lock()
        self._ledger = Ledger(weights, self._settings)
        self._streams: list[Stream] = []
        self._ended: list[Stream] = []
        self._brought: dict[str, Delivery] = {}
        self._prospects = Prospects()
        self._had_one = False  # Whether a source ever had something, were it only a busy line.

    @property
    def complete(self) -> bool:
        """Whether every chunk is verified and in place."""
        return self._ledger.complete

    @property
    def nbytes(self) -> int:
        """Bytes of weights in place so far."""
        return self._ledger.arrived_bytes

    @property
    def digests(self) -> tuple[bytes, ...]:
        """By chunk id, as the sources promised them; empty until one has."""
        promise = self._ledger.promise
        return promise.digests if promise is not None else ()

    @property
    def attributes(self) -> Mapping[str, Plain]:
        """What the sources' `load_weights` had set besides tensors."""
        promise = self._ledger.promise
        return promise.attributes if promise is not None else {}

    @property
    def content(self) -> Mapping[str, str]:
        """Evidence of the content of what has come, as the sources say it."""
        promise = self._ledger.promise
        return promise.content if promise is not None else {}

    @property
    def computed(self) -> Mapping[str, str]:
        """Persistent buffers that no checkpoint filled, as the sources computed them."""
        promise = self._ledger.promise
        return promise.computed if promise is not None else {}

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """What each source contributed, in the order in which sources ended."""
        return tuple(self._brought.values())

    def unverified(self) -> tuple[Piece, ...]:
        """Parts of tensors that may hold bytes which nobody has verified."""
        return self._ledger.unverified()

    def run(self, find: Callable[[], Sequence[Candidate]], *, wait_for_one: bool = False) -> None:
        """Fetch what is missing. `find` gives the candidates as they are now, best first.

        Raises `NoSourceLeft` when, for `source_timeout_s` after the last source ended, there was
        none to go on with; at once when there never was one, unless `wait_for_one`. When it returns
        or raises, nothing writes to the tensors any more.
        """
        source_timeout_s, max_sources = self._settings.source_timeout_s, self._settings.max_sources
        alone_since = time.monotonic()
        self._ledger.begin()
        try:
            while not self.complete:
                self._ledger.changed.clear()
                self._settle()
                now = time.monotonic()
                alone = not any(stream.accepted for stream in self._streams)
                if not alone:
                    alone_since = now
                waited = alone and now - alone_since >= source_timeout_s
                if len(self._streams) < max_sources:
                    # Busy sources could otherwise be greeted in turns for ever.
                    self._open(find(), again=not waited)
                hopeful = self._had_one or wait_for_one
                if not self._streams and (waited or not hopeful):
                    raise NoSourceLeft(hopeful, source_timeout_s, self.failures)
                self._ledger.changed.wait(self._settings.look_s)
                self._let_go()
                self._tell()
        finally:
            self._stop()

    def _open(self, candidates: Sequence[Candidate], *, again: bool) -> None:
        """Fill the free places with the best that may be tried now; with `again` not only for the
        first time."""
        busy = {stream.source.endpoint for stream in self._streams}
        for candidate in self._prospects.usable(candidates, busy, time.monotonic(), again=again):
            if len(self._streams) >= self._settings.max_sources:
                return
            stream = Stream(
                candidate,
                self._request,
                self._settings,
                self._ledger,
                self._progress,
                self._on_end,
            )
            self._streams.append(stream)
            stream.start()

    def _let_go(self) -> None:
        """Drop a source whose chunks others would bring sooner."""
        name = self._ledger.let_go()
        for stream in [stream for stream in self._streams if stream.name == name]:
            reason = "others deliver its last chunks sooner"
            stream.abandon(reason)
            # Its thread may hang for a while: for this pull it has ended.
            self._end(stream, LetGo(stream.source.endpoint, reason))

    def _tell(self) -> None:
        count = sum(stream.accepted for stream in self._streams)
        if count != self._told_sources:
            self._told_sources = count
            self._observer.sources(count)

    def _progress(self, nbytes: int) -> None:
        """Called by a stream's thread."""
        with self._progress_lock:
            self._observer.progress(nbytes)

    def _on_end(self, stream: Stream) -> None:
        """Called by a stream's thread."""
        self._ended.append(stream)
        self._ledger.changed.set()

    def _settle(self) -> None:
        """Note what became of the streams that have ended."""
        while self._ended:
            stream = self._ended.pop()
            if stream in self._streams:
                self._end(stream, stream.error)

    def _end(self, stream: Stream, error: TransferError | None) -> None:
        source = stream.source
        self._streams.remove(stream)
        self._note_delivery(stream)
        self._prospects.ended(source, error, stream.nbytes, time.monotonic())
        busy = isinstance(error, Refused) and error.retry_after_s is not None
        self._had_one = self._had_one or stream.accepted or busy
        if error is None:
            return
        failure = Failure(source, error)
        # A busy source says so every second.
        if str(failure) not in map(str, self.failures):
            healthy = busy or isinstance(error, LetGo)
            (_log.info if healthy else _log.warning)("%s", failure)
            self.failures.append(failure)
        if stream.disowned:
            self._prospects.promise_broken()
        if isinstance(error, DigestMismatch) and stream.process is not None:
            self._observer.accused(stream.process)

    def _note_delivery(self, stream: Stream) -> None:
        if not stream.nbytes:
            return
        endpoint = stream.source.endpoint
        before = self._brought.get(endpoint, Delivery(endpoint, 0, 0.0))
        self._brought[endpoint] = Delivery(
            endpoint, before.nbytes + stream.nbytes, before.seconds + stream.seconds
        )

    def _stop(self) -> None:
        """See to it that nothing writes to the tensors any more, and let the streams end.

        When everything has arrived there is nothing under way: they say goodbye by themselves,
        which nobody has to wait for. Nor for one that still greets its source: it will find the
        pull over before it receives anything.
        """
        complete = self.complete
        self._ledger.end()
        if not complete:
            for stream in self._streams:
                stream.abandon("the pull was given up")
        self._settle()
        for stream in self._streams:
            self._note_delivery(stream)
        self._streams.clear()
        self._tell()
