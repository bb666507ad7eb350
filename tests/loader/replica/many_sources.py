"""Several sources of the same weights, on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from tests.loader.support import (
    OnSend,
    SendLog,
    TamperedBackend,
    candidate,
    offer_of,
    serving,
    toy_weights,
)

from netloader.discovery.candidate import Candidate
from netloader.replica.pull import Pull
from netloader.source.service import Source

WEIGHTS = toy_weights(1, rows=8000)


CHUNKS = WEIGHTS.manifest.chunks()


def slowed(seconds: float, log: SendLog | None = None) -> OnSend:
    """Every send takes this much longer."""

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        time.sleep(seconds)
        return log(tag, data) if log is not None else data

    return on_send


_HONEST = slowed(0.001)


@dataclass
class ManySources:
    """Several sources of the same weights, each with its own log and its own fault."""

    sources: list[Source] = field(default_factory=list)
    logs: list[SendLog] = field(default_factory=list)

    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(map(candidate, self.sources))

    @property
    def sent(self) -> list[int]:
        return [chunk for log in self.logs for chunk in log.sent]


@contextmanager
def sources(*faults: OnSend | None, **options: object) -> Iterator[ManySources]:
    """One source for each fault; None: an honest one that takes a millisecond a chunk."""
    made = ManySources()
    with ExitStack() as stack:
        for fault in faults:
            log = SendLog()

            def on_send(
                tag: int,
                data: torch.Tensor,
                log: SendLog = log,
                fault: OnSend = fault or _HONEST,
            ) -> torch.Tensor:
                return fault(tag, log(tag, data))

            offer = offer_of(WEIGHTS, backend=TamperedBackend(on_send))
            made.sources.append(stack.enter_context(serving(offer, **options)))
            made.logs.append(log)
        yield made


def run(pull: Pull, find: Callable[[], Sequence[Candidate]]) -> Pull:
    pull.run(find)
    return pull
