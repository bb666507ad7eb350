"""What the two ends of an open session say to each other, over a real connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from tests.loader.support import OPEN

from netloader.errors import SourceLost, TransferError
from netloader.protocol import messages
from netloader.replica.connection import Connection
from netloader.replica.conversation import Conversation

SESSION, OTHER = "0" * 32, "1" * 32


class SourceByHand:
    """A session's control connection, with its source in the test's hands."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.connection = Connection(self._context, f"127.0.0.1:{port}", OPEN, 0)
        self.replica = Conversation(self.connection, SESSION)
        self.replica.want([1])  # Until it has said something, the source cannot answer.
        self._peer, *_ = self._router.recv_multipart()

    def say(self, message: messages.Message) -> None:
        self._router.send_multipart([self._peer, *messages.encode(message)])

    def heard(self) -> messages.Message:
        assert self._router.poll(5000), "the replica said nothing"
        return messages.decode(self._router.recv_multipart()[1:])[0]

    def hang_up(self) -> None:
        self._router.close(linger=0)

    def close(self) -> None:
        self.connection.close(unsaid=True)
        self._context.destroy(linger=0)


@pytest.fixture
def session() -> Iterator[SourceByHand]:
    made = SourceByHand()
    yield made
    made.close()


def test_what_the_replica_says(session: SourceByHand) -> None:
    session.replica.want([3, 4])
    session.replica.bye("not as promised", bad_chunk=3)
    session.replica.done()
    assert session.heard() == messages.Want(session=SESSION, chunks=(3, 4))
    assert session.heard() == messages.Bye(session=SESSION, reason="not as promised", bad_chunk=3)
    assert session.heard() == messages.Done(session=SESSION)


def test_a_reason_is_never_longer_than_a_source_reads(session: SourceByHand) -> None:
    session.replica.bye("x" * messages.MAX_TEXT * 2)
    assert isinstance(session.heard(), messages.Bye)


def test_a_source_has_more_chunks(session: SourceByHand) -> None:
    session.say(messages.Have(session=SESSION, chunks=(5, 6)))
    heard = session.replica.hear(5.0)
    assert heard is not None
    assert heard.chunks == (5, 6)


def test_a_source_says_nothing(session: SourceByHand) -> None:
    assert session.replica.hear(0.001) is None


def test_a_source_ends_the_session(session: SourceByHand) -> None:
    session.say(messages.Bye(session=SESSION, reason="it sleeps"))
    with pytest.raises(SourceLost, match="ended the session: it sleeps"):
        session.replica.hear(5.0)


@pytest.mark.parametrize(
    "message",
    [
        messages.Done(session=SESSION),
        messages.Have(session=OTHER, chunks=(5,)),
        messages.Bye(session=OTHER, reason="it sleeps"),
    ],
    ids=["a replica's word", "more chunks of another session", "the end of another session"],
)
def test_what_does_not_belong_here_is_a_fault(
    session: SourceByHand, message: messages.Message
) -> None:
    session.say(message)
    with pytest.raises(TransferError, match=f"sent {message.type} in a session"):
        session.replica.hear(5.0)


def test_last_words_are_those_about_this_session(session: SourceByHand) -> None:
    session.say(messages.Have(session=SESSION, chunks=(5,)))
    session.say(messages.Bye(session=OTHER, reason="another"))
    session.say(messages.Bye(session=SESSION, reason="it sleeps"))
    assert session.replica.last_words(5.0) == "ended the session: it sleeps"


def test_a_source_without_last_words_is_not_waited_for(session: SourceByHand) -> None:
    assert session.replica.last_words(0.001) is None
    session.hang_up()
    assert session.replica.last_words(30.0) is None


def test_bye_to_a_source_that_is_gone_is_no_error(session: SourceByHand) -> None:
    session.hang_up()
    assert session.replica.last_words(30.0) is None
    session.replica.bye("enough")
