"""Fetching a model's weights from as many sources as help.

A `Pull` outlives its sources. It opens streams to the best candidates, replaces those that end,
takes in members that appear while it runs, and drops a source that keeps the others waiting. Chunks
that a source delivered stay; the model is never built again. `course.py` decides whom it asks, and
when it leaves the rest to storage.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from netloader.discovery.candidate import Candidate, Process
from netloader.errors import NoSourceLeft
from netloader.plain import Plain
from netloader.replica.budget import Budget
from netloader.replica.course import Course, GiveUp, Standing
from netloader.replica.observer import Intake, PullObserver
from netloader.replica.outcome import AskLater, Brought, Corrupt, Dropped, Ended, Finished, Outcome
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.replica.state import PullState
from netloader.replica.stream import Stream
from netloader.weights.capture import DigestKind, Weights
from netloader.weights.manifest import Piece

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one source contributed by one transport."""

    endpoint: str
    transport: str
    """Name of what carried the bytes."""
    nbytes: int
    seconds: float
    """From the first message to the source until its last verified chunk."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A source that delivered nothing or stopped early, and why."""

    source: Candidate
    how: Outcome

    def __str__(self) -> str:
        return f"{self.source.found_by}: source {self.source.endpoint}: {self.how.reason}"


class Pull:
    """Brings a model's weights from peers into its tensors, chunk by chunk.

    One thread runs the pull. Any thread may read its results so far.
    """

    def __init__(
        self,
        weights: Weights,
        request: Request,
        settings: PullSettings | None = None,
        observer: PullObserver | None = None,
    ) -> None:
        """`weights` are the tensors to fill."""
        self.weights = weights
        self._request = request
        self._settings = settings if settings is not None else PullSettings()
        self._observer = observer if observer is not None else PullObserver()
        self._state = PullState(weights, self._settings, self._observer, request.serves_at)
        self._course: Course | None = None
        self._streams: dict[str, Stream] = {}
        self._ended: queue.SimpleQueue[tuple[str, Ended]] = queue.SimpleQueue()
        self._failures: tuple[Failure, ...] = ()
        self._deliveries: dict[tuple[str, str], Delivery] = {}
        self._brought: Counter[Process] = Counter()
        """Bytes that each process has brought in streams that have ended."""
        self._progress_lock = threading.Lock()

    @property
    def complete(self) -> bool:
        """Whether every chunk is verified and in place."""
        return self._state.complete

    @property
    def nbytes(self) -> int:
        """Bytes of weights in place so far."""
        return self._state.arrived_bytes

    @property
    def digests(self) -> tuple[bytes, ...]:
        """By chunk id, as the sources promised them; empty until one has."""
        promise = self._state.promise
        return promise.digests if promise is not None else ()

    @property
    def digest_kind(self) -> DigestKind | None:
        """How `digests` are computed; None while there are none."""
        promise = self._state.promise
        return promise.digest_kind if promise is not None else None

    @property
    def attributes(self) -> Mapping[str, Plain]:
        """Attributes other than tensors that the sources' `load_weights` set."""
        promise = self._state.promise
        return promise.attributes if promise is not None else {}

    @property
    def content(self) -> Mapping[str, str]:
        """Evidence of the content that has come, as the sources state it."""
        promise = self._state.promise
        return promise.content if promise is not None else {}

    @property
    def computed(self) -> Mapping[str, str]:
        """Persistent buffers that no checkpoint filled, as the sources computed them."""
        promise = self._state.promise
        return promise.computed if promise is not None else {}

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Sources that delivered nothing or stopped early, in the order in which they ended. A
        source that fails again in the same way is listed once."""
        return self._failures

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """What each source contributed, in the order in which sources ended."""
        return tuple(self._deliveries.values())

    def unverified(self) -> tuple[Piece, ...]:
        """Parts of tensors that may hold unverified bytes."""
        return self._state.unverified()

    def run(
        self,
        find: Callable[[], Sequence[Candidate]],
        *,
        wait_for_one: bool = False,
        has_storage: bool = True,
        storage_rate: float | None = None,
        spent_s: float = 0.0,
    ) -> None:
        """Fetch what is missing. `find` gives the current candidates, best first. `has_storage`
        says whether this worker can read the weights itself, and `storage_rate` how many bytes per
        second that would bring, if it was measured; `spent_s` of the pull's budget are gone
        already.

        Raises `NoSourceLeft` when no source came within `source_timeout_s` after the last one
        ended, or at once when there never was one, unless `wait_for_one`; and when the budget is
        spent. Once `run` returns or raises, nothing writes to the tensors any more.
        """
        began = time.monotonic()
        budget = Budget(
            self._settings,
            self.weights.manifest.nbytes,
            began - spent_s,
            has_storage=has_storage,
            measured_rate=storage_rate,
        )
        course = self._begin(budget, began, wait_for_one=wait_for_one)
        self._state.open()
        try:
            while not self.complete:
                self._state.changed.clear()
                self._settle(course)
                now = time.monotonic()
                move = course.next(self._standing(), find, now)
                if isinstance(move, GiveUp):
                    raise NoSourceLeft(move.reason, self.failures)
                for candidate, transport, connect_s in move.sources:
                    self._start_stream(candidate, transport, connect_s)
                self._state.changed.wait(self._settings.until_next_look_s(now - began))
                self._drop_snubbed(course)
                self._observer.looked(self._intake())
        finally:
            self._stop(course)

    def _begin(self, budget: Budget, now: float, *, wait_for_one: bool) -> Course:
        if self._course is None:
            transports = self._request.transports
            name = self._request.serves_at or self._request.replica
            self._course = Course(self._settings, transports, budget, now, name)
        self._course.begin(budget, now, wait_for_one=wait_for_one)
        return self._course

    def _standing(self) -> Standing:
        streams = self._streams.values()
        return Standing(
            {stream.source.endpoint for stream in streams},
            any(stream.accepted for stream in streams),
            self._state.arrived_bytes,
        )

    def _start_stream(self, candidate: Candidate, transport: str, connect_s: float) -> None:
        handshake = replace(self._settings.handshake, connect_timeout_s=connect_s)
        stream = Stream(
            candidate,
            self._request,
            next(one for one in self._request.backends if one.name == transport),
            replace(self._settings, handshake=handshake),
            self._state,
            self._progress,
            self._on_end,
        )
        self._streams[stream.name] = stream
        stream.start()

    def _drop_snubbed(self, course: Course) -> None:
        """Drop a source if others would bring its chunks sooner."""
        name = self._state.snubbed()
        if name is not None and name in self._streams:
            # The stream's thread may hang for a while, but for this pull the stream has ended.
            ended = self._streams[name].abandon("others deliver its last chunks sooner")
            self._end(course, name, ended)

    def _intake(self, *, over: bool = False) -> Intake:
        brought = {
            stream.process: self._brought[stream.process] + stream.brought.nbytes
            for stream in self._streams.values()
            if stream.process is not None
        }
        return Intake(self._state.arrived_bytes, brought, over)

    def _progress(self, nbytes: int) -> None:
        """Called by the streams' threads."""
        with self._progress_lock:
            self._observer.progress(nbytes)

    def _on_end(self, name: str, ended: Ended) -> None:
        """Called by the streams' threads."""
        self._ended.put((name, ended))
        self._state.changed.set()

    def _settle(self, course: Course) -> None:
        """Note how the streams ended that ended by themselves."""
        while True:
            try:
                name, ended = self._ended.get_nowait()
            except queue.Empty:
                return
            if name in self._streams:
                self._end(course, name, ended)

    def _end(self, course: Course, name: str, ended: Ended) -> None:
        stream = self._streams.pop(name)
        source = stream.source
        course.ended(source, ended, time.monotonic())
        if isinstance(ended.how, Corrupt) and ended.how.void:
            # Everything came under the promise that this source has broken.
            self._deliveries.clear()
            self._brought.clear()
        self._credit(stream, ended.brought)
        self._note_failure(source, ended.how)
        self._observer.ended(ended.how, stream.unfinished)
        if isinstance(ended.how, Corrupt):
            self._observer.accused(ended.how.accused)

    def _credit(self, stream: Stream, brought: Brought) -> None:
        if brought.nbytes:
            if stream.process is not None:
                self._brought[stream.process] += brought.nbytes
            key = stream.source.endpoint, stream.transport
            before = self._deliveries.get(key, Delivery(*key, 0, 0.0))
            self._deliveries[key] = replace(
                before,
                nbytes=before.nbytes + brought.nbytes,
                seconds=before.seconds + brought.seconds,
            )

    def _note_failure(self, source: Candidate, how: Outcome) -> None:
        failure = Failure(source, how)
        # A busy source says so every second.
        if isinstance(how, Finished) or str(failure) in map(str, self._failures):
            return
        healthy = isinstance(how, AskLater | Dropped)
        (_log.info if healthy else _log.warning)("%s", failure)
        self._failures = (*self._failures, failure)

    def _stop(self, course: Course) -> None:
        """Make sure that nothing writes to the tensors any more, and let the streams end.

        When everything has arrived, nothing is under way, and the streams say goodbye by themselves
        without anyone waiting. A stream that still greets its source needs no wait either: it will
        find the pull over before it receives anything.
        """
        complete = self.complete
        self._state.close()
        if not complete:
            for name, stream in list(self._streams.items()):
                ended = stream.abandon("the pull was given up")
                if isinstance(ended.how, Dropped):
                    del self._streams[name]
                    self._credit(stream, ended.brought)
                else:
                    # The stream had already ended, and its thread may not have reported that yet.
                    self._on_end(name, ended)
        self._settle(course)
        for stream in self._streams.values():
            self._credit(stream, stream.brought)
        self._streams.clear()
        self._observer.looked(self._intake(over=True))
