"""A session, the replica's end of it, and what became of both."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from tests.fastest import HANG_S, at_most
from tests.loader.support import (
    MEMORY,
    TamperedBackend,
    TamperedGroup,
    offer_of,
    toy_weights,
)
from torch._C._distributed_c10d import Store

from netloader.source.offer import Offer
from netloader.source.session import Session, SessionOutcome, SessionTerms
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle
from netloader.transport import Backend, Group, Pending, Rendezvous, join

DONE = SessionOutcome("done")
ABORTED = SessionOutcome("aborted", "enough")


class Watched:
    """A session and what became of it."""

    def __init__(
        self,
        offer: Offer,
        timeout_s: float = 4 * HANG_S,
        opening_s: float = 4 * HANG_S,
        throttle: Throttle | None = None,
        backend: Backend = MEMORY,
    ) -> None:
        """`backend` is the replica's, and that inside the offer's."""
        self.backend = backend
        self.ended = threading.Event()
        self.outcomes: list[SessionOutcome] = []
        self.rendezvous = Rendezvous("127.0.0.1", opening_s)
        self.session = Session(
            SessionTerms("0" * 32, "replica", offer.backends[0]),
            offer,
            self.rendezvous,
            SourceSettings(timeout_s=timeout_s),
            self._on_end,
            throttle=throttle,
        )
        self.session.start()

    def join(self) -> Group:
        return join("127.0.0.1", self.rendezvous.port, self.rendezvous.secret, self.backend, HANG_S)

    def ends_in(self, limit_s: float) -> SessionOutcome:
        with at_most(limit_s):
            assert self.ended.wait(HANG_S), "the session goes on"
            assert self.session.join(HANG_S)
        (outcome,) = self.outcomes
        return outcome

    def _on_end(self, session: Session, outcome: SessionOutcome) -> None:
        self.outcomes.append(outcome)
        self.ended.set()


@dataclass
class SeenPending:
    inner: Pending
    waits: threading.Event

    def wait(self, timeout_s: float) -> None:
        self.waits.set()
        self.inner.wait(timeout_s)


@dataclass
class SeenGroup(TamperedGroup):
    waits: threading.Event = field(default_factory=threading.Event)

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return SeenPending(super().send(data, tag), self.waits)


@dataclass
class WaitingSeen(TamperedBackend):
    """Says when the session waits for a send."""

    waits: threading.Event = field(default_factory=threading.Event)

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        group = super().open(store, rank, host, timeout)
        assert isinstance(group, TamperedGroup)
        return SeenGroup(group.inner, group.on_send, self.waits)


OFFER = offer_of(toy_weights(1))
