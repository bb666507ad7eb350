"""The weights that a source can hand out, and whether they are on offer now."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from netloader.identity.identity import Identity
from netloader.plain import Plain
from netloader.source.availability import Availability
from netloader.transport import Backend
from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk, Manifest

Promised = tuple[str, tuple[bytes, ...], Mapping[str, Plain]]
"""What replicas are told to expect: hash of the manifest, digests, attributes."""


@dataclass(frozen=True)
class Offer:
    """Weights that a source can hand out."""

    identity: Identity
    weights: Weights
    digests: Sequence[bytes]
    """By chunk id, fixed when the weights were loaded."""
    attributes: Mapping[str, Plain]
    """Attributes other than tensors that `load_weights` set."""
    backends: tuple[Backend, ...]
    """What can carry the bytes, best first."""
    computed: Mapping[str, str] = field(default_factory=dict)
    """Digests of persistent buffers that no checkpoint filled (`buffers.py`)."""
    available: Availability | None = None
    """The chunks that have come so far; None when all are there."""
    loaded: Mapping[str, Plain] = field(default_factory=dict)
    """Of processed weights: what `load_weights` had set, as post-processing met it."""

    @cached_property
    def promised(self) -> Promised:
        """Equal for offers of which a replica may have chunks of either. Holds no weights."""
        return self.manifest_hash, tuple(self.digests), self.attributes

    @property
    def transports(self) -> tuple[str, ...]:
        """Names of the backends, best first."""
        return tuple(backend.name for backend in self.backends)

    def backend(self, name: str) -> Backend | None:
        """The backend of this name; None where the bytes cannot be carried so."""
        return next((one for one in self.backends if one.name == name), None)

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunk table, by chunk id."""
        return self.weights.manifest.chunks()

    @cached_property
    def manifest_hash(self) -> str:
        """Hash of the weights' manifest, which every replica must match."""
        return self.weights.manifest.hash

    @cached_property
    def empty_manifest_hash(self) -> str:
        """Hash in the hello of a replica that only asks (`replica/inquiry.py`)."""
        mine = self.weights.manifest
        return Manifest(mine.layout, mine.chunk_bytes, ()).hash

    @cached_property
    def encoded_manifest(self) -> bytes:
        """The manifest as sent to a replica with another one. Encoded when the first such replica
        asks."""
        return self.weights.manifest.encode()


@dataclass(frozen=True)
class Unready:
    """Nothing is offered."""

    reason: str
    """The reason that replicas are told."""
    retry_after_s: float | None = None
    """Seconds after which asking again makes sense; None where it does not."""


class CurrentOffer:
    """What a source hands out right now. Thread safe.

    The worker sets and withdraws it, the audit withdraws it, the source's thread reads it.
    """

    def __init__(self, reason: str) -> None:
        """Begin with nothing on offer, for this reason."""
        self._lock = threading.Lock()
        self._now: Offer | Unready = Unready(reason)

    @property
    def now(self) -> Offer | Unready:
        """The offer, or why there is none. Read this once for each decision."""
        with self._lock:
            return self._now

    def put(self, offer: Offer) -> None:
        """Hand out these weights from now on."""
        with self._lock:
            self._now = offer

    def withdraw(
        self, reason: str, only: Offer | None = None, retry_after_s: float | None = None
    ) -> bool:
        """Offer nothing. With `only`, does nothing and returns False when another offer, or none,
        has taken its place."""
        with self._lock:
            if only is not None and self._now is not only:
                return False
            self._now = Unready(reason, retry_after_s)
            return True
