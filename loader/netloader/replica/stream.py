"""The replica's end of one session: ask a source for chunks, verify each, put it where it belongs.

A stream has a thread of its own, because receives block. Which chunks it asks for, and whether it
is still wanted, the ledger says. However it ends, its group is gone before its unfinished chunks go
to others, so that nothing of it is written to any more.

Gloo does not wake who waits for a message that has arrived in part when we abort the group. So who
drops a stream (`abandon`) does not wait for its thread: that ends with the timeout, and finds
itself without anything to do.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import zmq

from netloader.discovery.candidate import Candidate, Process
from netloader.errors import (
    DigestMismatch,
    ManifestError,
    Refused,
    SourceLost,
    TransferError,
)
from netloader.identity.identity import known
from netloader.protocol import messages
from netloader.replica.connection import Connection
from netloader.replica.handshake import greet
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.replica.state import Ledger, Promise
from netloader.system import affinity
from netloader.system.threads import TransferThread
from netloader.transport import Group, Pending, TransportError, join
from netloader.weights import digests, manifest
from netloader.weights.manifest import Chunk

_log = logging.getLogger(__name__)

_MAX_QUOTE = 1024
"""Characters of what a peer says that end up in an error."""


@dataclass(frozen=True, slots=True)
class _Arriving:
    """A chunk that was asked for."""

    chunk: Chunk
    pending: tuple[Pending, ...]
    """One for each message it travels in."""
    data: torch.Tensor
    """Where it is received: part of `buffer`, or of tensors."""
    buffer: torch.Tensor | None
    """Staging memory to give back."""


@dataclass
class _Session:
    """A session under way."""

    id: str
    group: Group
    connection: Connection
    message_bytes: int
    in_flight: deque[_Arriving] = field(default_factory=deque)
    broken: TransportError | None = None
    """Why nothing more can be asked for. What has arrived before is as good as ever."""


_numbers = itertools.count()


class Stream:
    """Brings chunks from one source until the pull is over or the source fails."""

    def __init__(
        self,
        source: Candidate,
        request: Request,
        settings: PullSettings,
        ledger: Ledger,
        progress: Callable[[int], object],
        on_end: Callable[[Stream], object],
    ) -> None:
        """`progress` is told the bytes of each chunk that is in place, from the stream's thread.
        `on_end` is called once, from the stream's thread, when nothing of it is left."""
        self.source = source
        self.error: TransferError | None = None
        """What ended it early; None while it runs, and when it simply was done."""
        self.nbytes = 0
        """Bytes of weights it brought, verified."""
        self.disowned = False
        """Whether it broke a promise that nobody else stands for: all that had come is void."""
        self.seconds = 0.0
        """From the first word to the source until its last verified chunk."""
        self.process: Process | None = None
        """Who opened a session at the source's endpoint; None until then."""
        self._request = request
        self._settings = settings
        self._progress = progress
        self._ledger = ledger
        self._on_end = on_end
        # Of this stream, not of its source: an abandoned one may end when the next has begun.
        self.name = f"{source.endpoint}#{next(_numbers)}"
        """By which the ledger knows it."""
        self._endpoint = source.endpoint
        self._lock = threading.Lock()  # Guards the two below: abort may come while a group opens.
        self._group: Group | None = None
        self._abort_reason: str | None = None
        self._placing = threading.Lock()  # Held while this thread itself writes to tensors.
        self._thread = TransferThread(
            self._run,
            f"netloader-pull-{source.endpoint}",
            stop=lambda: self.abandon("this process ends"),
        )

    @property
    def accepted(self) -> bool:
        """Whether the source opened a session."""
        return self.process is not None

    def start(self) -> None:
        self._thread.start()

    def abandon(self, reason: str) -> None:
        """Take its unfinished chunks away from it, from any thread. The first reason counts.

        When this returns nothing of it is written to any more, then or later.
        """
        with self._lock:
            if self._abort_reason is None:
                self._abort_reason = reason
            group = self._group
        if group is not None:
            group.abort()
        with self._placing:
            self._ledger.leave(self.name)

    def _run(self) -> None:
        affinity.step_aside(background=False)
        try:
            self._pull()
        except TransferError as error:
            # Without frames, its own or its causes': they would keep the group and memory alive.
            error.__context__ = error.__cause__ = None
            self.error = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001
            # A fault of ours must cost this source, not the start: there are others, and storage.
            _log.exception("pulling from %s failed", self._endpoint)
            self.error = TransferError(self._endpoint, repr(error))
        finally:
            if isinstance(self.error, DigestMismatch) and self._ledger.lied(self._endpoint):
                self.nbytes = 0
                self.disowned = True
            self._ledger.leave(self.name)
            self._on_end(self)

    def _pull(self) -> None:
        started = time.monotonic()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            connection, answer, attachment = greet(
                context,
                self.source.endpoint,
                self._request.security,
                self._hello(),
                self._settings,
            )
            try:
                self._use(connection, answer, attachment, started)
            finally:
                connection.close()
        finally:
            context.destroy(linger=0)

    def _hello(self) -> messages.Hello:
        identity = self._request.identity
        return messages.Hello(
            replica=self._request.replica,
            generation=self.source.generation,
            identity=identity.digest,
            fields=identity.fields(),
            names=identity.names.travelling(),
            content=known(identity.content),
            manifest=self._ledger.weights.manifest.hash,
            chunk_bytes=self._ledger.weights.manifest.chunk_bytes,
            backend=self._request.backend.name,
        )

    def _use(
        self,
        connection: Connection,
        answer: messages.Message,
        attachment: bytes,
        started: float,
    ) -> None:
        """Take up the session that hello was answered with, and fetch what the ledger gives."""
        match answer:
            case messages.Refuse():
                raise Refused(
                    self._endpoint,
                    answer.reason + self._explain(answer, attachment),
                    answer.retry_after_s,
                )
            case messages.Accept():
                self.process = (self._endpoint, answer.generation)
            case _:
                raise TransferError(self._endpoint, f"answered hello with {answer.type}")
        session = None
        try:
            session = self._enter(connection, answer, attachment)
            self._fetch(session, started)
            connection.send(messages.Done(session=session.id))
        except TransferError as error:
            self._say_bye(connection, answer.session, error)
            raise
        finally:
            if session is not None:
                # Once the group and its receives are gone, nothing writes to tensors any more.
                session.group.abort()
                session.in_flight.clear()

    def _enter(
        self, connection: Connection, accept: messages.Accept, attachment: bytes
    ) -> _Session:
        """Take up the session that the source has opened."""
        promise = self._check(accept, attachment)
        try:
            group = join(
                accept.host,
                accept.port,
                accept.secret,
                self._request.backend,
                self._settings.rendezvous_timeout_s,
            )
        except TransportError as error:
            raise SourceLost(self._endpoint, f"no process group: {error}") from None
        try:
            with self._lock:
                if self._abort_reason is not None:
                    raise SourceLost(self._endpoint, self._abort_reason)
                self._group = group
            available = (number for first, end in accept.have for number in range(first, end))
            self._ledger.enter(self.name, self._endpoint, promise, available)
        except TransferError:
            group.abort()
            raise
        return _Session(accept.session, group, connection, accept.message_bytes)

    def _check(self, accept: messages.Accept, attachment: bytes) -> Promise:
        """What a source promises, once everything else it says fits."""
        chunks = self._ledger.chunks
        for what, mine, theirs in (
            ("protocol version", messages.VERSION, accept.version),
            ("identity", self._request.identity.digest, accept.identity),
            ("manifest", self._ledger.weights.manifest.hash, accept.manifest),
            ("generation", self.source.generation or accept.generation, accept.generation),
            ("bytes of digests", len(chunks) * digests.DIGEST_BYTES, len(attachment)),
        ):
            if mine != theirs:
                raise TransferError(
                    self._endpoint, f"accepted with another {what}: mine {mine}, theirs {theirs}"
                )
        # In order and apart, so that a long list cannot stand for more work than there are chunks.
        bounds = [bound for pair in accept.have for bound in pair]
        if bounds != sorted(bounds) or any(not 0 <= at <= len(chunks) for at in bounds):
            raise TransferError(
                self._endpoint, f"says it has chunks {str(accept.have)[:_MAX_QUOTE]}"
            )
        promised = tuple(
            attachment[at : at + digests.DIGEST_BYTES]
            for at in range(0, len(attachment), digests.DIGEST_BYTES)
        )
        return Promise(
            promised, dict(accept.attributes), dict(accept.content), dict(accept.computed)
        )

    def _explain(self, refusal: messages.Refuse, attachment: bytes) -> str:
        """The first difference between the manifests, when that is why a source refused."""
        if refusal.code != "manifest" or not attachment:
            return ""
        try:
            found = manifest.difference(self._ledger.weights.manifest, manifest.decode(attachment))
        except ManifestError as error:
            found = str(error)
        return f" ({found})"[:_MAX_QUOTE]

    def _fetch(self, session: _Session, started: float) -> None:
        """Keep a window of chunks in flight until the pull is over."""
        silent_since = time.monotonic()
        while True:
            if session.broken is None:
                self._ask(session)
            if session.in_flight:
                self._receive(session)
                self.seconds = time.monotonic() - started
                silent_since = time.monotonic()
                continue
            if session.broken is not None:
                raise self._lost(session, session.broken)
            if self._abort_reason is not None:
                raise SourceLost(self._endpoint, self._abort_reason)
            if self._ledger.over:
                return
            self._hear(session)
            if self._ledger.starved(self.name) and (
                time.monotonic() - silent_since > self._settings.timeout_s
            ):
                raise SourceLost(
                    self._endpoint, f"no further chunk in {self._settings.timeout_s:g} s"
                )

    def _ask(self, session: _Session) -> None:
        """Post receives for the next chunks, then ask for them."""
        asked: list[int] = []
        while (given := self._ledger.take(self.name)) is not None:
            chunk, data, buffer = given
            try:
                parts = torch.split(data, session.message_bytes)
                pending = tuple(session.group.recv(part, chunk.id) for part in parts)
            except TransportError as error:
                session.broken = error
                return
            session.in_flight.append(_Arriving(chunk, pending, data, buffer))
            asked.append(chunk.id)
        if asked:
            session.connection.send(messages.Want(session=session.id, chunks=tuple(asked)))

    def _receive(self, session: _Session) -> None:
        """Wait for the chunk that was asked for first, verify it and put it in place."""
        arriving = session.in_flight.popleft()
        try:
            for pending in arriving.pending:
                pending.wait(self._settings.timeout_s)
        except TransportError as error:
            raise self._lost(session, error) from None
        chunk = arriving.chunk
        with self._placing:
            if self._abort_reason is not None:
                raise SourceLost(self._endpoint, self._abort_reason)
            if self._settings.verify:
                self._verify(chunk, arriving.data)
            if arriving.buffer is not None:
                self._ledger.weights.unpack(chunk, arriving.data)
            self.nbytes += chunk.payload
            self._ledger.arrived(self.name, chunk, arriving.buffer)
        self._progress(chunk.payload)

    def _verify(self, chunk: Chunk, data: torch.Tensor) -> None:
        promise = self._ledger.promise
        promised = promise.digests[chunk.id] if promise is not None else b""
        got = digests.of_bytes(data)
        if got != promised:
            raise DigestMismatch(self._endpoint, chunk.id, promised.hex(), got.hex())

    def _hear(self, session: _Session) -> None:
        """Take one word from the source outside the group, if it says one."""
        heard = session.connection.receive(self._settings.idle_s)
        if heard is None:
            return
        message, _ = heard
        match message:
            case messages.Have() if message.session == session.id:
                known = len(self._ledger.chunks)
                self._ledger.offer(self.name, (n for n in message.chunks if n < known))
            case messages.Bye() if message.session == session.id:
                raise SourceLost(self._endpoint, f"ended the session: {message.reason}")
            case _:
                raise TransferError(self._endpoint, f"sent {message.type} in a session")

    def _lost(self, session: _Session, error: TransportError) -> SourceLost:
        """What broke: why we broke it, or the source's own words where it had time for some."""
        if self._abort_reason is not None:
            return SourceLost(self._endpoint, self._abort_reason)
        deadline = time.monotonic() + self._settings.last_words_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                heard = session.connection.receive(left)
            except TransferError as other:
                _log.debug("after the group broke: %s", other)
                break
            if heard is None:
                break
            message, _ = heard
            if isinstance(message, messages.Bye) and message.session == session.id:
                return SourceLost(self._endpoint, f"the source ended the session: {message.reason}")
        return SourceLost(self._endpoint, str(error))

    def _say_bye(self, connection: Connection, session: str, error: TransferError) -> None:
        bad_chunk = error.chunk if isinstance(error, DigestMismatch) else None
        try:
            connection.send(
                messages.Bye(session=session, reason=error.reason[:2048], bad_chunk=bad_chunk)
            )
        except SourceLost as gone:
            _log.debug("no way to say bye: %s", gone)
