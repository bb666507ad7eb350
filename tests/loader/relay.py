"""A replica that hands out what it has while it pulls: a worker's parts, without an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.fastest import HANG_S
from tests.loader.discovery.test_advert import holding
from tests.loader.support import (
    OnSend,
    SendLog,
    TamperedBackend,
    identity,
    offer_of,
    pull_into,
)

from netloader.config import Config
from netloader.discovery.advert import Holding
from netloader.discovery.candidate import Candidate, Process
from netloader.replica.observer import PullObserver
from netloader.replica.pull import Pull
from netloader.source.service import Source
from netloader.weights.capture import Weights
from netloader.worker.loading.feeds import Feeds
from netloader.worker.loading.sharing import Sharing
from netloader.worker.position import Position
from netloader.worker.process import Worker

Find = Callable[[], Sequence[Candidate]]


@dataclass
class Relay:
    """Pulls and serves."""

    worker: Worker
    source: Source
    weights: Weights
    sharing: Sharing
    pull: Pull
    log: SendLog
    accused: list[Process]

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.source.endpoint, "test", self.worker.membership.generation)

    @property
    def advert(self) -> Holding:
        """What the mesh is told."""
        held = self.worker.membership.holding("target")
        assert held is not None
        return held

    def look(self) -> tuple[Candidate, ...]:
        """Itself, once the mesh shows that it can be asked."""
        return (self.candidate,) if self.advert.serves else ()

    @contextmanager
    def pulling(self, find: Find) -> Iterator[None]:
        """Pull in a thread of its own, which has ended well when this ends."""
        with ThreadPoolExecutor(1) as pool:
            pulled = pool.submit(lambda: self.pull.run(find, wait_for_one=True))
            yield
            pulled.result(HANG_S)

    def complete(self, weights: Weights) -> None:
        """Do what a worker does around post-processing, which moves the weights to `weights`."""
        self.worker.sources.hold("target", "its weights are post-processed")
        for data in self.weights.tensors:
            data.zero_()
        offer = offer_of(weights, backend=TamperedBackend(self.log))
        assert self.worker.sources.serve("target", offer)


@contextmanager
def relay(
    weights: Weights,
    on_send: OnSend = lambda tag, data: data,
    *,
    worker: dict[str, Any] | None = None,
    observed: Callable[[PullObserver], PullObserver] = lambda observer: observer,
    swarms: bool = False,
    **settings: Any,
) -> Iterator[Relay]:
    """A worker without a mesh that fills `weights`. `worker` are settings as an operator writes
    them, `settings` those of the pull. `observed` may put itself before what the pull tells.
    `swarms`: sources are told that it serves, too."""
    config = Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1", **(worker or {})}, {})
    made = Worker(config, Position())
    try:
        source = made.sources.listen("target")
        assert source is not None
        made.membership.announce(
            **dict(holding(state="loading", endpoint=source.endpoint, content={}))
        )
        log = SendLog()
        backend = TamperedBackend(lambda tag, data: on_send(tag, log(tag, data)))
        sharing = Sharing(made, identity(), (backend,), weights)
        accused: list[Process] = []
        looked = Feeds(made.progress, "target").looked
        observer = sharing.observer(PullObserver(accused=accused.append, looked=looked))
        patient = {"source_timeout_s": HANG_S, "peer_budget_s": HANG_S, "uninteresting_s": HANG_S}
        pull = pull_into(
            weights,
            observer=observed(observer),
            serves_at=source.endpoint if swarms else "",
            **{**patient, **settings},
        )
        yield Relay(made, source, weights, sharing, pull, log, accused)
    finally:
        made.close()
