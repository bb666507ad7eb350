"""A replica that does just what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tests.fastest import HANG_S
from tests.loader.support import MEMORY, Caller, calling, hello, toy_weights

from netloader.protocol import messages
from netloader.source.service import Source
from netloader.transport import Group, Pending, join
from netloader.weights.capture import Weights

WEIGHTS = toy_weights(1)


class Replica:
    """A session from the replica's end, doing just what a test says."""

    def __init__(self, caller: Caller, weights: Weights) -> None:
        self.caller = caller
        self.chunks = weights.manifest.chunks()
        self.accept = caller.accepted(weights)
        self.session = self.accept.session
        self.group: Group = join(self.accept.host, self.accept.port, self.accept.secret, MEMORY, 5)

    def begin(self, chunk: int) -> tuple[torch.Tensor, list[Pending]]:
        """Ask for a chunk: where it will be, and its messages on their way."""
        data = torch.zeros(self.chunks[chunk].nbytes, dtype=torch.uint8)
        arriving = [self.group.recv(part, chunk) for part in self.parts(data)]
        self.want(chunk)
        return data, arriving

    def fetch(self, chunk: int) -> torch.Tensor:
        data, arriving = self.begin(chunk)
        for part in arriving:
            part.wait(HANG_S)
        return data

    def want(self, *chunks: int) -> None:
        self.caller.send(messages.Want(session=self.session, chunks=chunks))

    def bye(self, bad_chunk: int | None) -> None:
        self.caller.send(
            messages.Bye(session=self.session, reason="wrong bytes", bad_chunk=bad_chunk)
        )

    def parts(self, data: torch.Tensor) -> list[torch.Tensor]:
        size = self.accept.message_bytes
        return [data[start : start + size] for start in range(0, data.numel(), size)]


@contextmanager
def replica_of(source: Source, weights: Weights = WEIGHTS) -> Iterator[Replica]:
    with calling(source) as caller:
        replica = Replica(caller, weights)
        try:
            yield replica
        finally:
            replica.group.abort()


def refusal_of(caller: Caller, weights: Weights = WEIGHTS) -> messages.Refuse:
    answer = caller.ask(hello(weights))
    assert isinstance(answer, messages.Refuse), answer
    return answer
