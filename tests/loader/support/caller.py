"""A replica's control connection with nobody sensible behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq
from tests.fastest import HANG_S
from tests.loader.support.ends import GENERATION, MEMORY, OPEN, identity

from netloader.identity.identity import Identity, known
from netloader.protocol import messages
from netloader.source.listener import Listener
from netloader.source.service import Source
from netloader.weights.capture import Weights
from netmesh import SocketSecurity


class Caller:
    """A replica's control connection with nobody sensible behind it."""

    def __init__(self, source: Source | Listener, security: SocketSecurity = OPEN) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.linger = 100
        security.apply_client(self._dealer)
        self._dealer.connect(f"tcp://{source.endpoint}")

    def send(self, message: messages.Message) -> None:
        self._dealer.send_multipart(messages.encode(message))

    def send_raw(self, *frames: bytes) -> None:
        self._dealer.send_multipart(list(frames))

    def receive(self, timeout_s: float = HANG_S) -> messages.Message:
        return self.receive_all(timeout_s)[0]

    def receive_all(self, timeout_s: float = HANG_S) -> tuple[messages.Message, bytes]:
        """A message and its attachment."""
        assert self._dealer.poll(int(timeout_s * 1000)), "the source said nothing"
        return messages.decode(self._dealer.recv_multipart())

    def hears_nothing(self, timeout_s: float) -> bool:
        return not self._dealer.poll(int(timeout_s * 1000))

    def ask(self, message: messages.Message) -> messages.Message:
        self.send(message)
        return self.receive()

    def accepted(self, weights: Weights, **changes: Any) -> messages.Accept:
        """The acceptance of a hello with these `changes`."""
        answer = self.ask(hello(weights, **changes))
        assert isinstance(answer, messages.Accept), answer
        return answer

    def close(self) -> None:
        self._context.destroy(linger=100)


@contextmanager
def calling(source: Source, security: SocketSecurity = OPEN) -> Iterator[Caller]:
    caller = Caller(source, security)
    try:
        yield caller
    finally:
        caller.close()


def hello(weights: Weights, who: Identity | None = None, **changes: Any) -> messages.Hello:
    who = who or identity()
    fields: dict[str, Any] = {
        "replica": "caller",
        "generation": GENERATION,
        "identity": who.digest,
        "fields": who.fields(),
        "names": who.names.travelling(),
        "content": known(who.content),
        "manifest": weights.manifest.hash,
        "chunk_bytes": weights.manifest.chunk_bytes,
        "backend": MEMORY.name,
    }
    return messages.Hello(**fields | changes)
