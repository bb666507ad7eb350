"""The replica's end of one session: a thread that brings chunks from one source.

A stream has a thread of its own, because receives block. The pull's state says which chunks the
stream asks for. However a stream ends, its group is gone before its unfinished chunks go to others,
so the stream no longer writes to them.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import torch

from netloader.discovery.candidate import Candidate, Process
from netloader.errors import BlockedPort, DigestMismatch, Refused, SourceLost, TransferError
from netloader.protocol import messages
from netloader.protocol.ranges import chunks_in
from netloader.replica import outcome
from netloader.replica.acceptance import Promise
from netloader.replica.cancellation import Cancellation
from netloader.replica.conversation import Conversation
from netloader.replica.opening import OpenSession, open_session
from netloader.replica.outcome import (
    Brought,
    Dropped,
    Ended,
    Faulty,
    Finished,
    Lost,
    Outcome,
    Port,
    Unopened,
    Unreached,
)
from netloader.replica.receiver import Receiver, verify
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.replica.state import PullState
from netloader.system import affinity
from netloader.system.threads import TransferThread, use_device
from netloader.transport import Backend, TransportError

_log = logging.getLogger(__name__)

_HEARD: Final = 64
"""Messages that are read between two chunks: as many as may wait."""

_UNINTERESTING: Final = Dropped("it has nothing that is missing here")
"""Said of a source that is still loading. Its session was of use, and ends well."""

_numbers = itertools.count()


class Stream:
    """Brings chunks from one source until the pull is over or the source fails."""

    def __init__(
        self,
        source: Candidate,
        request: Request,
        backend: Backend,
        settings: PullSettings,
        state: PullState,
        progress: Callable[[int], object],
        on_end: Callable[[str, Ended], object],
    ) -> None:
        """`backend` carries the bytes. `progress` is told the bytes of each chunk that is in place,
        from the stream's thread. `on_end` is told the stream's name and its end, once, from the
        same thread, when the stream holds nothing any more."""
        self.source = source
        # The name is the stream's, not its source's: an abandoned stream may end after the next has
        # begun.
        self.name = f"{source.endpoint}#{next(_numbers)}"
        """The name by which the pull's state knows the stream."""
        self._endpoint = source.endpoint
        self._request = request
        self._backend = backend
        self._settings = settings
        self._state = state
        self._progress = progress
        self._on_end = on_end
        self.unfinished = 0
        """Chunks that were asked for and did not come. Complete once the stream has ended."""
        self._cancellation = Cancellation()
        self._started = 0.0
        self.process: Process | None = None
        """The process that has opened a session; None until then."""
        self._brought = Brought()
        self._said: str | None = None  # Why the source has ended the session, if it has said so.
        self._gaining = False  # Whether the source is still loading, and will have more chunks.
        self._ending = threading.Lock()  # Guards the end: this thread may meet `abandon`.
        self._ended: Ended | None = None
        self._thread = TransferThread(
            self._run,
            f"netloader-pull-{source.endpoint}",
            stop=lambda: self.abandon("this process ends"),
        )

    @property
    def accepted(self) -> bool:
        """Whether the source has opened a session."""
        return self.process is not None

    @property
    def transport(self) -> str:
        """Name of what carries the bytes."""
        return self._backend.name

    @property
    def brought(self) -> Brought:
        """What the stream has brought so far."""
        return self._brought

    def start(self) -> None:
        self._thread.start()

    def abandon(self, reason: str) -> Ended:
        """End the stream from any thread. Returns how it ended, which may have happened before.

        Once `abandon` returns, the stream writes to no tensor, then or later. `abandon` does not
        join the thread: if a message has arrived in part, the thread may hang until its timeout.
        """
        self._cancellation.cancel(reason)
        self.unfinished += self._state.leave(self.name)
        return self._end(Dropped(reason))

    def _run(self) -> None:
        affinity.step_aside(background=False)
        # No error is kept, because its frames would keep the group and tensors alive.
        try:
            use_device(self._state.weights.device)
            ended = self._end(self._pull())
        except DigestMismatch as error:
            ended = self._end(error)
        except TransferError as error:
            ended = self._end(outcome.of(error))
        except torch.OutOfMemoryError as error:
            why = f"this worker's device is out of memory: {str(error).partition(chr(10))[0]:.300}"
            ended = self._end(Faulty(why))
        except Exception as error:  # noqa: BLE001
            # A fault of ours must cost this source, not the start: other sources and storage
            # remain.
            _log.exception("pulling from %s failed", self._endpoint)
            ended = self._end(Faulty(repr(error)))
        self.unfinished += self._state.leave(self.name)
        self._on_end(self.name, ended)

    def _end(self, how: Outcome | DigestMismatch) -> Ended:
        """Record the end. The first one counts, and is returned."""
        with self._ending:
            if self._ended is None:
                brought = self._brought
                if isinstance(how, DigestMismatch):
                    assert self.process is not None, "chunks come from sessions"
                    how = self._state.corrupt(self.process, how)
                    if how.void:
                        brought = Brought()
                self._ended = Ended(how, self.accepted, brought)
            return self._ended

    def _pull(self) -> Outcome:
        """Have the source open a session, and use it. Raises `TransferError`."""
        self._started = time.monotonic()
        mine = self._state.weights.manifest
        try:
            with open_session(
                self.source,
                self._request,
                mine,
                self._backend,
                self._settings,
                self._state.done,
            ) as session:
                self.process = (self._endpoint, session.accept.generation)
                how = self._use(session)
                if isinstance(how, Finished) or how is _UNINTERESTING:
                    session.conversation.done()
                else:
                    session.conversation.bye(how.reason)
                return how
        except Refused as error:
            if error.code != "backend":
                raise
            return Unopened(error.reason, self.transport)

    def _use(self, session: OpenSession) -> Outcome:
        """Bring chunks over an open session. Raises `TransferError`."""
        promise = session.promise()
        try:
            receiver = session.join(self._cancellation.guard)
        except BlockedPort as error:
            return Unreached(str(error), Port.DATA)
        except TransportError as error:
            return Unopened(f"no process group by {self.transport}: {error}", self.transport)
        return self._fetch(session, receiver, promise)

    def _fetch(self, session: OpenSession, receiver: Receiver, promise: Promise) -> Outcome:
        """Keep a window of chunks in flight until the pull is over. Raises `TransferError`."""
        conversation, accept = session.conversation, session.accept
        available = chunks_in(accept.have, len(self._state.chunks))
        self._gaining = accept.deals or len(available) < len(self._state.chunks)
        refused = self._state.enter(
            self.name,
            self._endpoint,
            promise,
            available,
            near=self.source.near,
            deals=accept.deals,
        )
        if refused is not None:
            return refused
        broken: str | None = None
        last_chunk_at = time.monotonic()
        idle_s = self._settings.idle_s
        while True:
            if broken is None:
                broken = self._ask(conversation, receiver)
            # Chunks asked for before the group broke may be here, and they are still good.
            if receiver:
                how = self._receive(conversation, receiver, promise)
                if how is not None:
                    return how
                last_chunk_at = time.monotonic()
                idle_s = self._settings.idle_s
                if self._gaining and broken is None:
                    broken = self._exchange_news(conversation)
                continue
            if broken is not None:
                return self._lost(conversation, broken)
            if self._cancellation.reason is not None:
                return Dropped(self._cancellation.reason)
            if self._state.over:
                return Finished()
            if self._gaining:
                broken = self._exchange_news(conversation)
                if broken is not None:
                    continue
            self._note(conversation.hear(idle_s))
            idle_s = min(2 * idle_s, self._settings.longest_idle_s)
            waited_s = time.monotonic() - last_chunk_at
            if self._state.interested(self.name):
                continue
            if self._gaining and waited_s > self._settings.uninteresting_s:
                return _UNINTERESTING
            if waited_s > self._settings.timeout_s:
                return Lost(f"no further chunk in {self._settings.timeout_s:g} s")

    def _exchange_news(self, conversation: Conversation) -> str | None:
        """Note what the source has gained while chunks were on their way, and tell it what others
        have brought. Returns how the source ended the session, if it did."""
        try:
            for _ in range(_HEARD):  # No source can keep this thread from its chunks.
                if (heard := conversation.hear(0.0)) is None:
                    break
                self._note(heard)
            news = self._state.news_for(self.name)
            if news:
                conversation.have(news)
        except SourceLost as error:
            self._said = error.reason
            return error.reason
        return None

    def _note(self, heard: messages.Have | None) -> None:
        if heard is not None:
            self._state.have(self.name, heard.chunks, heard.gone, heard.coming)

    def _ask(self, conversation: Conversation, receiver: Receiver) -> str | None:
        """Post receives for the next chunks, then ask for them. Returns how the group broke."""
        asked: list[int] = []
        while (assignment := self._state.pick(self.name)) is not None:
            try:
                receiver.post(assignment)
            except TransportError as error:
                return str(error)
            asked.append(assignment.chunk.id)
        if asked:
            conversation.want(asked)
        return None

    def _receive(
        self, conversation: Conversation, receiver: Receiver, promise: Promise
    ) -> Outcome | None:
        """Wait for the chunk that was asked for first, verify it and put it in place. Returns how
        the stream ends, if it ends. Raises `DigestMismatch`."""
        try:
            assignment = receiver.wait()
        except TransportError as error:
            return self._lost(conversation, str(error))
        chunk = assignment.chunk
        with self._cancellation.writing() as allowed:
            if not allowed:
                return Dropped(self._cancellation.reason or "")
            if self._settings.verify:
                promised = promise.digests[chunk.id]
                verify(self._endpoint, assignment, promised, promise.digest_kind)
            if assignment.staging is not None:
                self._state.weights.unpack(chunk, assignment.data)
            self._brought = Brought(
                self._brought.nbytes + chunk.payload, time.monotonic() - self._started
            )
            self._state.arrived(self.name, assignment)
        self._progress(chunk.payload)
        return None

    def _lost(self, conversation: Conversation, broken: str) -> Outcome:
        """Why the group broke: this side broke it, or the source says why, if it has time to."""
        if self._cancellation.reason is not None:
            return Dropped(self._cancellation.reason)
        said = self._said or conversation.last_words(self._settings.last_words_s)
        return Lost(said if said is not None else broken)
