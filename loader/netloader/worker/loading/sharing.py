"""Handing out what a pull has brought while it still brings the rest.

A replica that is being filled holds verified chunks, and knows from its sources' promise what all
of them will be. So it is a source of those chunks from the first one on. It stops before anything
else writes to the tensors: storage after a pull that was given up, a second try after a broken
promise, or vLLM's post-processing. Sessions outlive the latter, if the worker is a source of the
same weights afterwards.

A worker shares nothing where chunks are not verified (`VERIFY` off), and nothing in the `runtime`
layout: that model is finished only when all of it has come.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from netloader.identity.identity import Identity, Layout, known
from netloader.replica.acceptance import Promise
from netloader.replica.observer import PullObserver
from netloader.source.availability import Availability
from netloader.source.offer import Offer
from netloader.transport import Backend
from netloader.weights.capture import Weights
from netloader.worker.loading.provenance import learnt
from netloader.worker.process import Worker


def shares(worker: Worker, layout: Layout) -> bool:
    """Whether `worker` hands out weights of this layout while it loads them."""
    return layout == "checkpoint" and worker.config.pull_settings.verify


class Sharing:
    """What one load shares. Its methods are called as `PullObserver` says: by one thread at a
    time."""

    def __init__(
        self,
        worker: Worker,
        identity: Identity,
        backends: tuple[Backend, ...],
        weights: Weights,
    ) -> None:
        """`backends` can carry the bytes of `weights`, which are being filled."""
        self._worker = worker
        self._identity = identity
        self._backends = backends
        self._weights = weights
        self._available: Availability | None = None

    def observer(self, observer: PullObserver) -> PullObserver:
        """An observer of the pull that also tells this object what happens."""
        return replace(
            observer,
            promised=self.promised,
            verified=self.verified,
            asked=self.asked,
            given_up=self.given_up,
            voided=self.stop,
        )

    def promised(self, promise: Promise) -> None:
        """Offer the chunks that come, by the promise of the sources."""
        if not shares(self._worker, self._weights.manifest.layout):
            return
        content = learnt(self._identity, promise.content)
        self._available = Availability()
        offer = Offer(
            replace(self._identity, content=content),
            replace(self._weights, digest_kind=promise.digest_kind),
            promise.digests,
            dict(promise.attributes),
            self._backends,
            dict(promise.computed),
            self._available,
        )
        if not self._worker.sources.share(self._identity.role, offer):
            self._available = None
            return
        self._update(content=known(content), sharing=True)

    def verified(self, chunk: int) -> None:
        """Hand out one more chunk."""
        if self._available is None:
            return
        self._available.add(chunk)
        self._worker.sources.gained(self._identity.role)

    def asked(self, chunk: int) -> None:
        """Tell replicas on this host that they need not fetch a chunk from elsewhere."""
        if self._available is not None:
            self._available.asked(chunk)
            self._tell_neighbours()

    def given_up(self, chunks: Collection[int]) -> None:
        """Take `asked` back."""
        if self._available is not None:
            self._available.given_up(chunks)
            self._tell_neighbours()

    def _tell_neighbours(self) -> None:
        if self._available is not None and self._available.overheard:
            self._worker.sources.gained(self._identity.role)

    def stop(self) -> None:
        """Hand out nothing any more. Once this returns, nothing reads the weights."""
        if self._available is None:
            return
        self._available = None
        reason = "what it had pulled was given up"
        self._worker.sources.unshare(self._identity.role, reason, for_now=True)
        self._update(sharing=False, content={})

    def _update(self, **changes: object) -> None:
        self._worker.membership.update(self._identity.role, **changes)
