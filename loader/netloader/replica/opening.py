"""A session with a source, from hello to the process group, for whoever brings chunks over it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from netloader.discovery.candidate import Candidate
from netloader.errors import DigestMismatch, TransferError
from netloader.protocol import messages
from netloader.replica import acceptance
from netloader.replica.acceptance import Promise
from netloader.replica.conversation import Conversation
from netloader.replica.handshake import greet
from netloader.replica.receiver import Receiver
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.transport import Backend, Group, join
from netloader.weights.manifest import Manifest


class OpenSession:
    """A session that a source has opened for this worker. Belongs to one thread."""

    def __init__(
        self,
        hello: messages.Hello,
        mine: Manifest,
        accept: messages.Accept,
        attachment: bytes,
        conversation: Conversation,
        backend: Backend,
        settings: PullSettings,
    ) -> None:
        """What was said until now: `hello`, for the manifest `mine`, and the source's answer.
        `backend` shall carry the bytes."""
        self.accept = accept
        self.conversation = conversation
        self._hello = hello
        self._mine = mine
        self._attachment = attachment
        self._backend = backend
        self._settings = settings
        self._receiver: Receiver | None = None

    def promise(self) -> Promise:
        """What the source promises to send. Raises `TransferError` for what answers no hello of
        this worker."""
        chunks = len(self._mine.chunks())
        return acceptance.read(
            self.conversation.endpoint, self._hello, chunks, self.accept, self._attachment
        )

    def join(self, guard: Callable[[Group], object] = lambda group: None) -> Receiver:
        """Meet the source in a process group. `guard` gets the group before anything is received.

        Raises `TransportError`, and `BlockedPort` when the source's data port does not answer.
        """
        group = join(
            self.accept.host,
            self.accept.port,
            self.accept.secret,
            self._backend,
            self._settings.rendezvous_timeout_s,
            self._settings.handshake.connect_timeout_s,
        )
        guard(group)
        self._receiver = Receiver(group, self.accept.message_bytes, self._settings.timeout_s)
        return self._receiver

    def close(self) -> None:
        """Abort the group. Once this returns, nothing writes to tensors any more."""
        if self._receiver is not None:
            self._receiver.close()


@contextmanager
def open_session(
    source: Candidate,
    request: Request,
    mine: Manifest,
    backend: Backend,
    settings: PullSettings,
    have: Collection[int] = (),
) -> Iterator[OpenSession]:
    """Have `source` open a session in which `backend` carries the weights that `mine` lays out.
    This worker has the chunks `have` already.

    A `TransferError` that leaves the block is told to the source. After the block neither the
    group nor the control connection exists. Raises `Refused`, `SourceLost`, `TransferError`.
    """
    hello = acceptance.hello(request, source.generation, mine, backend.name, have, near=source.near)
    with greet(source.endpoint, request.security, hello, settings) as (
        connection,
        answer,
        attachment,
    ):
        accept = acceptance.accepted(source.endpoint, mine, answer, attachment)
        conversation = Conversation(connection, accept.session)
        session = OpenSession(hello, mine, accept, attachment, conversation, backend, settings)
        try:
            acceptance.stay_in_reach(source.endpoint, accept, request.reaches)
            yield session
        except DigestMismatch as error:
            conversation.bye(error.reason, error.chunk)
            raise
        except TransferError as error:
            conversation.bye(error.reason)
            raise
        finally:
            session.close()
