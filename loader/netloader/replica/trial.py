"""One chunk from a source, over a session like any other: do bytes get through?

Nothing is kept of what arrives. The source needs to know nothing of trials: it counts the session,
refuses it while it is busy, and hands out one chunk. The manifest is not known beforehand, so the
first hello names a wrong one, and the refusal brings the right one along.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch

from netloader.discovery.candidate import Candidate
from netloader.errors import (
    DigestMismatch,
    ManifestError,
    Refused,
    SourceLost,
    TransferError,
    TransportError,
)
from netloader.identity.identity import Identity
from netloader.protocol import messages
from netloader.replica import acceptance
from netloader.replica.handshake import greet
from netloader.replica.opening import OpenSession, open_session
from netloader.replica.receiver import verify
from netloader.replica.request import Request
from netloader.replica.settings import HandshakeSettings, PullSettings
from netloader.replica.state import Assignment
from netloader.transport import Backend
from netloader.weights import manifest
from netloader.weights.manifest import Chunk, Manifest, Tensor
from netmesh import SocketSecurity

MOST_BYTES: Final = 64 * 1024 * 1024
"""The largest chunk that a trial takes: no chunk that an operator can set is larger."""

_NO_TENSOR: Final = Tensor("unknown to a trial", "buffer", (1,), (1,), "uint8", 1)
"""Makes a manifest that no source has."""

_LEAST_CHUNK: Final = 1 << 16
"""A manifest whose chunks are smaller would cost more to cut up than a trial is worth."""


class TrialEnd(StrEnum):
    """How far a trial came."""

    WORKS = "a chunk arrived, and its digest is right"
    UNREACHED = "its control port cannot be used"
    BUSY = "it has no room for a session now"
    REFUSED = "it refuses"
    NO_GROUP = "no process group could be opened: its data port does not answer"
    BROKEN = "the transfer broke off"
    WRONG_BYTES = "other bytes arrived than were promised"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one trial."""

    end: TrialEnd
    detail: str = ""
    """What went wrong, with addresses; empty when it works."""
    transport: str = ""
    """What carried the bytes, or was to carry them."""
    nbytes: int = 0
    """Bytes that arrived."""
    seconds: float = 0.0
    """For these, from the request on."""


def attempt(
    source: Candidate,
    identity: Identity,
    backends: Sequence[Backend],
    security: Callable[[], SocketSecurity],
    chunk_bytes: int,
    *,
    name: str,
    timeout_s: float,
    reaches: Callable[[str], bool] = lambda endpoint: True,
) -> Trial:
    """Ask `source` for its smallest chunk of the weights with this identity.

    `name` is what the source's log calls this process; `reaches` says whether it may connect to an
    endpoint. Each wait ends after `timeout_s`. Raises
    nothing that a source can cause.
    """
    offered = set(source.transports or ())
    usable = tuple(backend for backend in backends if backend.name in offered)
    if not usable:
        return Trial(TrialEnd.REFUSED, f"it sends by {', '.join(sorted(offered)) or 'nothing'}")
    request = Request(identity, usable, security, name, reaches=reaches)
    one = _Trying(source, request, usable[0], timeout_s)
    try:
        wanted = one.learn_manifest(chunk_bytes)
        return wanted if isinstance(wanted, Trial) else one.take(wanted)
    except Refused as error:
        end = TrialEnd.REFUSED if error.retry_after_s is None else TrialEnd.BUSY
        return Trial(end, error.reason, one.transport)
    except DigestMismatch as error:
        return Trial(TrialEnd.WRONG_BYTES, error.reason, one.transport)
    except SourceLost as error:
        end = TrialEnd.BROKEN if one.accepted else TrialEnd.UNREACHED
        return Trial(end, str(error), one.transport)
    except TransferError as error:
        return Trial(TrialEnd.BROKEN, str(error), one.transport)


class _Trying:
    """The two exchanges of one trial."""

    def __init__(
        self, source: Candidate, request: Request, backend: Backend, timeout_s: float
    ) -> None:
        self.accepted = False
        self._source = source
        self._request = request
        self._backend = backend
        self._settings = PullSettings(
            timeout_s=timeout_s,
            handshake=HandshakeSettings(connect_timeout_s=timeout_s, rounds=2),
        )

    @property
    def transport(self) -> str:
        return self._backend.name

    def learn_manifest(self, chunk_bytes: int) -> Manifest | Trial:
        """The source's manifest. Raises `TransferError`."""
        endpoint = self._source.endpoint
        layout = self._request.identity.layout
        # An empty one would only ask whether the source has the weights (`inquiry.py`).
        unknown = Manifest(layout, chunk_bytes or manifest.CHUNK_BYTES, (_NO_TENSOR,))
        hello = acceptance.hello(self._request, self._source.generation, unknown, self.transport)
        with greet(endpoint, self._request.security, hello, self._settings) as (
            _,
            answer,
            attachment,
        ):
            match answer:
                case messages.Refuse(code="manifest") if attachment:
                    pass
                case messages.Refuse(code="manifest"):
                    return Trial(TrialEnd.BUSY, "it has sent its manifest too often lately")
                case messages.Refuse():
                    raise Refused(endpoint, answer.reason, answer.retry_after_s)
                case _:
                    raise TransferError(endpoint, f"answers a wrong manifest with {answer.type}")
        try:
            theirs = manifest.decode(attachment)
        except ManifestError as error:
            raise TransferError(endpoint, str(error)) from None
        many = theirs.nbytes // max(1, theirs.chunk_bytes) + len(theirs.tensors)
        if theirs.chunk_bytes < _LEAST_CHUNK or many > messages.MAX_CHUNKS:
            raise TransferError(endpoint, f"cuts {theirs.nbytes} bytes into {many} chunks")
        return theirs

    def take(self, theirs: Manifest) -> Trial:
        """Ask for the smallest chunk. Raises `TransferError`."""
        with open_session(
            self._source, self._request, theirs, self._backend, self._settings
        ) as session:
            self.accepted = True
            return self._fetch(session, theirs)

    def _fetch(self, session: OpenSession, theirs: Manifest) -> Trial:
        talk, accept = session.conversation, session.accept
        promise = session.promise()
        chunk = _smallest(theirs, accept)
        if chunk is None:
            talk.bye("no chunk is small enough for a trial")
            return Trial(TrialEnd.REFUSED, "it has no small chunk", self.transport)
        where = f"{accept.host}:{accept.port}"
        try:
            receiver = session.join()
        except TransportError as error:
            talk.bye(f"trial: {error}")
            return Trial(TrialEnd.NO_GROUP, f"{where}: {error}", self.transport)
        data = torch.empty(chunk.nbytes, dtype=torch.uint8)
        started = time.monotonic()
        try:
            receiver.post(Assignment(chunk, data, None))
            talk.want([chunk.id])
            arrived = receiver.wait()
        except TransportError as error:
            said = talk.last_words(self._settings.last_words_s)
            return Trial(TrialEnd.BROKEN, f"{where}: {said or error}", self.transport)
        seconds = time.monotonic() - started
        verify(talk.endpoint, arrived, promise.digests[chunk.id], promise.digest_kind)
        talk.done()
        return Trial(TrialEnd.WORKS, "", self.transport, chunk.nbytes, seconds)


def _smallest(theirs: Manifest, accept: messages.Accept) -> Chunk | None:
    """The smallest chunk that can be asked for now; None where all are too large."""
    had = [chunk for first, end in accept.have for chunk in theirs.chunks()[first:end]]
    fit = [chunk for chunk in had if chunk.nbytes <= MOST_BYTES]
    return min(fit, key=lambda chunk: chunk.nbytes, default=None)
