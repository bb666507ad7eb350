"""The replica's side: ask a source for chunks, verify each, put it where it belongs.

A `Pull` outlives its sources: what one delivered stays, and the next is asked only for the rest.
Bytes of packed chunks enter the model after they are verified. Chunks that travel straight into a
large tensor are remembered as unverified until they are, so that whoever gives up the pull knows
which memory holds no usable bytes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import zmq

from netloader import attributes, control, digests, manifest
from netloader.attributes import Scalar
from netloader.candidate import Candidate
from netloader.connection import Connection
from netloader.errors import (
    DigestMismatch,
    ManifestError,
    Refused,
    SourceLost,
    TransferError,
)
from netloader.handshake import HELLO_TIMEOUT_S, greet
from netloader.identity import Identity
from netloader.manifest import Chunk, Piece
from netloader.transport import Backend, Group, Pending, TransportError, join
from netloader.weights import Weights
from netmesh import SocketSecurity

_log = logging.getLogger(__name__)

WINDOW = 4
"""Chunks asked for and not yet verified. Bounds the staging memory of a pull, and is enough for one
chunk on the wire, one being verified and a round trip of requests between."""

RENDEZVOUS_TIMEOUT_S = 10.0

_LAST_WORDS_S = 0.2
"""How long to listen for why a source broke the group: it says so, unless it died."""

_MAX_QUOTE = 1024
"""Characters of what a peer says that end up in an error."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one source contributed."""

    endpoint: str
    nbytes: int
    seconds: float
    """From the first word to the source until its last verified chunk."""


@dataclass(frozen=True, slots=True)
class _Arriving:
    """A chunk that was asked for."""

    chunk: Chunk
    pending: Pending
    data: torch.Tensor
    """Where it is received: part of `buffer`, or of a tensor."""
    buffer: torch.Tensor | None
    """Staging memory to give back, of a packed chunk."""


@dataclass
class _Stream:
    """A session under way."""

    source: Candidate
    session: str
    group: Group
    connection: Connection
    available: set[int]
    """Chunks the source has said it holds."""
    in_flight: deque[_Arriving] = field(default_factory=deque)


class Pull:
    """Brings a model's weights from peers into its tensors, chunk by chunk."""

    def __init__(
        self,
        identity: Identity,
        weights: Weights,
        backend: Backend,
        security: Callable[[], SocketSecurity],
        *,
        replica: str,
        timeout_s: float,
        progress: Callable[[int], object] = lambda nbytes: None,
    ) -> None:
        """`weights` are the tensors to fill. `security` gives the keys as they are now.
        `replica` names this worker in the source's log.

        `timeout_s` bounds every wait for a source that makes no progress. `progress` is told the
        bytes of each verified chunk.
        """
        self.weights = weights
        self.chunks = weights.manifest.chunks()
        self.digests: tuple[bytes, ...] = ()
        """By chunk id, as the first source promised them; empty until then."""
        self.attributes: dict[str, Scalar] = {}
        """What the source's `load_weights` had set besides tensors."""
        self.deliveries: list[Delivery] = []
        self._identity = identity
        self._manifest_hash = weights.manifest.hash
        self._backend = backend
        self._security = security
        self._replica = replica
        self._timeout_s = timeout_s
        self._progress = progress
        self._promised = False  # Whether a source has said what the two above are.
        self._missing = {chunk.id for chunk in self.chunks}
        self._unverified: set[int] = set()
        self._staging: list[torch.Tensor] = []

    @property
    def complete(self) -> bool:
        """Whether every chunk is verified and in place."""
        return not self._missing and bool(self.digests or not self.chunks)

    @property
    def nbytes(self) -> int:
        """Bytes verified so far."""
        return sum(delivery.nbytes for delivery in self.deliveries)

    def unverified(self) -> tuple[Piece, ...]:
        """Parts of tensors that may hold bytes which nobody has verified."""
        return tuple(
            piece for number in sorted(self._unverified) for piece in self.chunks[number].pieces
        )

    def from_source(self, source: Candidate) -> None:
        """Fetch everything that is missing from one source.

        Raises `TransferError` when the source does not deliver all of it; what it did deliver
        stays.
        """
        started = time.monotonic()
        missing_before = set(self._missing)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            connection, answer, attachment = greet(
                context,
                source.endpoint,
                self._security,
                self._hello(source),
                min(HELLO_TIMEOUT_S, self._timeout_s),
            )
            try:
                self._use(connection, source, answer, attachment)
            finally:
                connection.close()
        finally:
            done = sum(self.chunks[number].nbytes for number in missing_before - self._missing)
            if done:
                self.deliveries.append(Delivery(source.endpoint, done, time.monotonic() - started))
            context.destroy(linger=0)

    def _hello(self, source: Candidate) -> control.Hello:
        return control.Hello(
            replica=self._replica,
            generation=source.generation,
            identity=self._identity.digest,
            fields=self._identity.fields(),
            content={str(kind): text for kind, text in self._identity.content.items()},
            manifest=self._manifest_hash,
            chunk_bytes=self.weights.manifest.chunk_bytes,
            backend=self._backend.name,
        )

    def _use(
        self,
        connection: Connection,
        source: Candidate,
        answer: control.Message,
        attachment: bytes,
    ) -> None:
        """Take up the session that hello was answered with, and fetch what is missing."""
        match answer:
            case control.Refuse():
                raise Refused(
                    source.endpoint,
                    answer.reason + self._explain(answer, attachment),
                    answer.retry_after_s,
                )
            case control.Accept():
                pass
            case _:
                raise TransferError(source.endpoint, f"answered hello with {answer.type}")
        stream = None
        try:
            stream = self._enter(connection, source, answer, attachment)
            self._fetch(stream)
            connection.send(control.Done(session=stream.session))
        except TransferError as error:
            self._say_bye(connection, answer.session, error)
            raise
        finally:
            if stream is not None:
                # Once the group and its receives are gone, nothing writes to tensors any more.
                stream.group.abort()
                stream.in_flight.clear()

    def _enter(
        self,
        connection: Connection,
        source: Candidate,
        accept: control.Accept,
        attachment: bytes,
    ) -> _Stream:
        """Take up the session that a source has opened."""
        promised = self._check(source, accept, attachment)
        try:
            group = join(
                accept.host, accept.port, accept.secret, self._backend, RENDEZVOUS_TIMEOUT_S
            )
        except TransportError as error:
            raise SourceLost(source.endpoint, f"no process group: {error}") from None
        self._promised = True
        self.digests = promised
        self.attributes = dict(accept.attributes)
        available = {number for first, end in accept.have for number in range(first, end)}
        return _Stream(source, accept.session, group, connection, available)

    def _check(
        self, source: Candidate, accept: control.Accept, attachment: bytes
    ) -> tuple[bytes, ...]:
        """The digests a source promises, once everything else it says fits."""
        for what, mine, theirs in (
            ("protocol version", control.VERSION, accept.version),
            ("identity", self._identity.digest, accept.identity),
            ("manifest", self._manifest_hash, accept.manifest),
            ("generation", source.generation or accept.generation, accept.generation),
            ("bytes of digests", len(self.chunks) * digests.DIGEST_BYTES, len(attachment)),
        ):
            if mine != theirs:
                raise TransferError(
                    source.endpoint, f"accepted with another {what}: mine {mine}, theirs {theirs}"
                )
        # In order and apart, so that a long list cannot stand for more work than there are chunks.
        bounds = [bound for pair in accept.have for bound in pair]
        if bounds != sorted(bounds) or any(not 0 <= at <= len(self.chunks) for at in bounds):
            raise TransferError(
                source.endpoint, f"says it has chunks {str(accept.have)[:_MAX_QUOTE]}"
            )
        promised = tuple(
            attachment[at : at + digests.DIGEST_BYTES]
            for at in range(0, len(attachment), digests.DIGEST_BYTES)
        )
        if self._promised and promised != self.digests:
            raise TransferError(source.endpoint, "promises other digests than an earlier source")
        # No digest covers these: what the sources agree on is all there is to go by.
        if self._promised and (
            different := attributes.difference(self.attributes, accept.attributes)
        ):
            raise TransferError(
                source.endpoint, f"has other attributes than an earlier source ({different})"
            )
        return promised

    def _explain(self, refusal: control.Refuse, attachment: bytes) -> str:
        """The first difference between the manifests, when that is why a source refused."""
        if refusal.code != "manifest" or not attachment:
            return ""
        try:
            found = manifest.difference(self.weights.manifest, manifest.decode(attachment))
        except ManifestError as error:
            found = str(error)
        return f" ({found})"[:_MAX_QUOTE]

    def _fetch(self, stream: _Stream) -> None:
        """Keep a window of chunks in flight until nothing is missing."""
        waiting = deque(sorted(self._missing))
        while waiting or stream.in_flight:
            self._ask(stream, waiting)
            if not stream.in_flight:
                # Everything the source has is here; it is still loading the rest itself.
                self._await_more(stream)
                continue
            arriving = stream.in_flight.popleft()
            try:
                arriving.pending.wait(self._timeout_s)
            except TransportError as error:
                raise SourceLost(stream.source.endpoint, self._last_words(stream, error)) from None
            self._accept(stream, arriving)

    def _ask(self, stream: _Stream, waiting: deque[int]) -> None:
        """Post receives for the next chunks, then ask for them."""
        asked: list[int] = []
        for _ in range(len(waiting)):
            if len(stream.in_flight) >= WINDOW:
                break
            number = waiting.popleft()
            if number not in stream.available:
                waiting.append(number)
                continue
            chunk = self.chunks[number]
            if chunk.packed:
                buffer = self._buffer()
                data = buffer[: chunk.nbytes]
            else:
                buffer = None
                data = self.weights.view(chunk.pieces[0])
                self._unverified.add(number)
            try:
                pending = stream.group.recv(data, number)
            except TransportError as error:
                raise SourceLost(stream.source.endpoint, str(error)) from None
            stream.in_flight.append(_Arriving(chunk, pending, data, buffer))
            asked.append(number)
        if asked:
            stream.connection.send(control.Want(session=stream.session, chunks=tuple(asked)))

    def _accept(self, stream: _Stream, arrived: _Arriving) -> None:
        """Verify one chunk that has arrived and put it in place."""
        chunk = arrived.chunk
        got, promised = digests.of_bytes(arrived.data), self.digests[chunk.id]
        if got != promised:
            raise DigestMismatch(stream.source.endpoint, chunk.id, promised.hex(), got.hex())
        if arrived.buffer is not None:
            self.weights.unpack(chunk, arrived.data)
            self._staging.append(arrived.buffer)
        self._unverified.discard(chunk.id)
        self._missing.discard(chunk.id)
        self._progress(chunk.nbytes)

    def _buffer(self) -> torch.Tensor:
        size = self.weights.manifest.chunk_bytes
        return self._staging.pop() if self._staging else torch.empty(size, dtype=torch.uint8)

    def _await_more(self, stream: _Stream) -> None:
        """Wait until the source has a chunk that is missing here."""
        deadline = time.monotonic() + self._timeout_s
        while not stream.available & self._missing:
            left = deadline - time.monotonic()
            if left <= 0:
                raise SourceLost(
                    stream.source.endpoint, f"no further chunk in {self._timeout_s:g} s"
                )
            self._hear(stream, left)

    def _hear(self, stream: _Stream, timeout_s: float) -> None:
        """Take one word from the source outside the group."""
        heard = stream.connection.receive(timeout_s)
        if heard is None:
            raise SourceLost(stream.source.endpoint, f"silent for {timeout_s:.3g} s")
        message, _ = heard
        match message:
            case control.Have() if message.session == stream.session:
                stream.available.update(
                    number for number in message.chunks if number < len(self.chunks)
                )
            case control.Bye() if message.session == stream.session:
                raise SourceLost(stream.source.endpoint, f"ended the session: {message.reason}")
            case _:
                raise TransferError(stream.source.endpoint, f"sent {message.type} in a session")

    def _last_words(self, stream: _Stream, error: TransportError) -> str:
        """What broke, in the source's own words where it had time for some."""
        deadline = time.monotonic() + _LAST_WORDS_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                heard = stream.connection.receive(left)
            except TransferError as other:
                _log.debug("after the group broke: %s", other)
                break
            if heard is None:
                break
            message, _ = heard
            if isinstance(message, control.Bye) and message.session == stream.session:
                return f"the source ended the session: {message.reason}"
        return str(error)

    def _say_bye(self, connection: Connection, session: str, error: TransferError) -> None:
        try:
            connection.send(control.Bye(session=session, reason=error.reason[:2048]))
        except SourceLost as gone:
            _log.debug("no way to say bye: %s", gone)
