"""A source that is still loading: it has what a test gives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.loader.support import (
    MEMORY,
    OnSend,
    SendLog,
    TamperedBackend,
    candidate,
    offer_of,
    serving,
)

from netloader.discovery.candidate import Candidate
from netloader.source.availability import Availability
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.transport.base import Backend
from netloader.weights.capture import Weights


@dataclass
class PartialSource:
    """Says nothing of chunks that it has not gained."""

    source: Source
    offer: Offer
    log: SendLog = field(default_factory=SendLog)

    @property
    def candidate(self) -> Candidate:
        return candidate(self.source)

    @property
    def available(self) -> Availability:
        assert self.offer.available is not None
        return self.offer.available

    def gain(self, chunks: Iterable[int]) -> None:
        """Have these chunks from now on, and say so."""
        for chunk in chunks:
            self.available.add(chunk)
        self.source.gained()

    def gain_all(self) -> None:
        self.gain(range(len(self.offer.chunks)))

    def whole(self, weights: Weights) -> Offer:
        """What it offers once it has loaded: the same bytes, where they lie then."""
        return replace(self.offer, weights=weights, available=None)


@contextmanager
def partial_source(
    weights: Weights,
    chunks: Iterable[int] = (),
    on_send: OnSend = lambda tag, data: data,
    carrier: Backend = MEMORY,
    **options: Any,
) -> Iterator[PartialSource]:
    """A source of `weights` that has only these chunks at first. A whole worker, which uses what
    its machine has, needs another `carrier`."""
    log = SendLog()
    backend = TamperedBackend(lambda tag, data: on_send(tag, log(tag, data)), carrier)
    offer = replace(offer_of(weights, backend=backend), available=Availability())
    with serving(offer, **options) as source:
        made = PartialSource(source, offer, log)
        made.gain(chunks)
        yield made
