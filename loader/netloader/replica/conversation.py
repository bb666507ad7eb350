"""What the two ends of an open session say to each other, seen from the replica."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from netloader.errors import SourceLost, TransferError
from netloader.protocol import messages
from netloader.replica.connection import Connection

_log = logging.getLogger(__name__)

_MAX_REASON = 2048
"""How many characters of a reason are sent."""


class Conversation:
    """Belongs to one thread."""

    def __init__(self, connection: Connection, session: str) -> None:
        self._connection = connection
        self._session = session

    @property
    def endpoint(self) -> str:
        """The source's."""
        return self._connection.endpoint

    def want(self, chunks: Sequence[int]) -> None:
        """Ask for chunks, in the order in which they will be received. Raises `SourceLost`."""
        self._connection.send(messages.Want(session=self._session, chunks=tuple(chunks)))

    def have(self, chunks: Sequence[int]) -> None:
        """Tell a source that deals which chunks this replica has got elsewhere. Raises
        `SourceLost`."""
        self._connection.send(messages.Have(session=self._session, chunks=tuple(chunks)))

    def hear(self, timeout_s: float) -> messages.Have | None:
        """What the source has gained or takes back; None when the source says nothing in time.

        Raises `SourceLost` when the source has ended the session or is gone, `TransferError` for a
        message that does not belong here.
        """
        heard = self._connection.receive(timeout_s)
        match heard:
            case None:
                return None
            case messages.Have(session=self._session) as have, _:
                return have
            case messages.Bye(session=self._session, reason=reason), _:
                raise SourceLost(self.endpoint, f"ended the session: {reason}")
            case message, _:
                raise TransferError(self.endpoint, f"sent {message.type} in a session")

    def last_words(self, timeout_s: float) -> str | None:
        """Why the source ended the session, if it says so in time."""
        deadline = time.monotonic() + timeout_s
        try:
            while (left := deadline - time.monotonic()) > 0:
                match self._connection.receive(left):
                    case messages.Bye(session=self._session, reason=reason), _:
                        return f"ended the session: {reason}"
        except TransferError as error:
            _log.debug("after the group broke: %s", error)
        return None

    def done(self) -> None:
        """Tell the source that nothing more is needed. Raises `SourceLost`."""
        self._connection.send(messages.Done(session=self._session))

    def bye(self, reason: str, bad_chunk: int | None = None) -> None:
        """Give up the session; `bad_chunk` is a chunk that differs from what the source had
        promised."""
        try:
            self._connection.send(
                messages.Bye(
                    session=self._session, reason=reason[:_MAX_REASON], bad_chunk=bad_chunk
                )
            )
        except SourceLost as gone:
            _log.debug("no way to say bye: %s", gone)
