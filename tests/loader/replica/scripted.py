"""Sources that do what a test says, message by message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import zmq
from tests.fastest import HANG_S
from tests.loader.support import GENERATION, identity, in_background, offer_of, toy_weights

from netloader.discovery.candidate import Candidate
from netloader.protocol import messages
from netloader.source.session import Session, SessionTerms
from netloader.source.settings import SourceSettings
from netloader.transport import Rendezvous

WEIGHTS = toy_weights(1)
CHUNKS = WEIGHTS.manifest.chunks()

_SESSION = "0" * 32


def acceptance(**changes: object) -> messages.Accept:
    """An answer to hello: all chunks of `WEIGHTS`, but for `changes`."""
    values: dict[str, object] = {
        "session": _SESSION,
        "generation": GENERATION,
        "identity": identity().digest,
        "manifest": WEIGHTS.manifest.hash,
        "attributes": {},
        "host": "127.0.0.1",
        "port": 1,
        "secret": "",
        "have": ((0, len(CHUNKS)),),
    }
    return messages.Accept.model_validate(values | changes)


@dataclass
class ScriptedSource:
    """The source's end of a session that has been accepted. Belongs to the script's thread."""

    router: zmq.Socket[bytes]
    replica: bytes = b""
    session: Session = field(init=False)
    """Sends the chunks that it is told to."""

    def accept(self, have: int) -> None:
        """Answer hello: the first `have` chunks are there."""
        self.replica, *_ = self.router.recv_multipart()
        rendezvous = Rendezvous("127.0.0.1", HANG_S)
        offer = offer_of(WEIGHTS)
        self.session = Session(
            SessionTerms(_SESSION, "replica", offer.backends[0]),
            offer,
            rendezvous,
            SourceSettings(timeout_s=HANG_S),
            lambda session, problem: None,
        )
        self.session.start()
        self.say(
            acceptance(port=rendezvous.port, secret=rendezvous.secret, have=((0, have),)),
            b"".join(offer.digests),
        )

    def say(self, message: messages.Message, attachment: bytes | None = None) -> None:
        self.router.send_multipart([self.replica, *messages.encode(message, attachment)])

    def have(self, chunks: tuple[int, ...]) -> None:
        self.say(messages.Have(session=_SESSION, chunks=chunks))

    def bye(self, reason: str) -> None:
        self.say(messages.Bye(session=_SESSION, reason=reason))

    def said(self, timeout_ms: int) -> bool:
        """Whether the replica says something in time."""
        return bool(self.router.poll(timeout_ms))

    def hear(self) -> messages.Message:
        """What the replica says next."""
        assert self.said(int(HANG_S * 1000)), "the replica says nothing more"
        return messages.decode(self.router.recv_multipart()[1:])[0]

    def wanted(self) -> tuple[int, ...]:
        """The chunks that the replica asks for next."""
        asked = self.hear()
        assert isinstance(asked, messages.Want)
        return asked.chunks


@contextmanager
def scripted(have: int, script: Callable[[ScriptedSource], object]) -> Iterator[Candidate]:
    """A source that has `have` chunks and then follows the script, in a thread of its own."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    source = ScriptedSource(router)

    def run() -> None:
        source.accept(have)
        try:
            script(source)
        finally:
            source.session.finish()
            source.session.join(HANG_S)

    with in_background(run):
        yield Candidate(f"127.0.0.1:{port}", "test", GENERATION)
    context.destroy(linger=0)
