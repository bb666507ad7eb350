"""The weights that a worker looks for, as those see it that load the same."""

from __future__ import annotations

from dataclasses import dataclass

from netloader.identity.identity import Identity, LazyContent
from netloader.worker.loading.build import Built
from netloader.worker.process import Worker


@dataclass(frozen=True, slots=True)
class Sought:
    """Refers to no tensor."""

    worker: Worker
    identity: Identity
    """Of the weights as they are loaded."""
    processed: Identity | None
    """Of what post-processing makes of them, where that can be told."""
    transports: tuple[str, ...]
    """What can carry their bytes, best first."""
    nbytes: int
    content: LazyContent
    """Evidence of the content that the worker's own files have."""
    readable: bool
    """Whether the worker has the files, and could read them."""
    shareable: bool
    """Whether a worker like this one could serve the weights after loading."""
    shows_progress: bool
    """Whether this worker shows how far the one is for whom it waits."""


def sought_by(built: Built) -> Sought:
    """What a built model looks for."""
    processed = None if isinstance(built.processed, str) else built.processed
    return Sought(
        built.request.worker,
        built.identity,
        processed,
        built.transports,
        built.arrangement.weights.manifest.nbytes,
        built.wanted.content,
        built.wanted.files is not None,
        built.from_peers and (processed is not None or not built.arrangement.retention.reason),
        built.request.shows_progress,
    )
