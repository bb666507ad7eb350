"""Once vLLM has built the model: which content it needs, and how its tensors lie."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from netloader.checkpoint.wanted import Wanted
from netloader.errors import NotAtHand
from netloader.identity.identity import Identity
from netloader.model import buffers
from netloader.transport import Backend
from netloader.weights import retain
from netloader.weights.capture import Weights, capture
from netloader.weights.coalesce import arrange
from netloader.worker.loading.failures import Cost, Failed, Step, attempt
from netloader.worker.loading.plan import BuildAgain, Planned, Tried, Unshared
from netloader.worker.loading.request import LoadRequest


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the empty tensors of a model lie in memory."""

    weights: Weights
    """The tensors as they will travel. The little that they hold must be put back before storage
    fills them."""
    retention: retain.Plan
    """What will be kept of the tensors for peers."""
    buffers: buffers.Digests
    """Digests of the buffers, taken when the model was built."""


@dataclass(frozen=True, slots=True)
class Built:
    """An empty model that can be filled by peers, and served to them afterwards."""

    request: LoadRequest
    identity: Identity
    """Includes all that the built model tells, and the content that it needs."""
    processed: Identity | str
    """Identity of what post-processing will make of the weights, or why nobody can tell."""
    backends: tuple[Backend, ...]
    wanted: Wanted
    arrangement: Arrangement
    tried: Tried
    from_peers: bool
    """Whether peers may fill it."""

    @property
    def transports(self) -> tuple[str, ...]:
        """Names of the backends, best first."""
        return tuple(backend.name for backend in self.backends)


def build(planned: Planned | Unshared, model: nn.Module) -> Built | Unshared | BuildAgain:
    """Complete what is known about `model`, and lay out its tensors.

    vLLM builds models under a default device, and its parameters have classes of their own. Both
    make torch go through Python, so they are disabled while a model is searched.
    """
    if isinstance(planned, Unshared):
        return planned
    known = _complete(planned, model)
    if isinstance(known, Unshared):
        return known
    identity, wanted = known
    arranged = attempt(Step.ARRANGE, lambda: _arrange(planned.request, model))
    if isinstance(arranged, Failed):
        unshared = _unshared(planned, arranged.reason, identity, wanted)
        if Cost.MODEL in arranged.cost:
            return BuildAgain(unshared, arranged.reason)
        return unshared
    planned.request.worker.membership.update(
        planned.request.role, total=arranged.weights.manifest.nbytes
    )
    return Built(
        planned.request,
        identity,
        _processed(planned.request, model, identity),
        planned.backends,
        wanted,
        arranged,
        planned.tried,
        planned.from_peers,
    )


def _complete(planned: Planned, model: nn.Module) -> tuple[Identity, Wanted] | Unshared:
    """Add to the identity what only the built model knows, and find out what it needs."""
    engine = planned.request.engine
    parts = attempt(Step.BUILD, lambda: _built_parts(planned.request, model))
    if isinstance(parts, Failed):
        return _unshared(planned, parts.reason, planned.identity)
    identity = replace(planned.identity, built=parts)
    planned.request.worker.membership.update(
        planned.request.role, identity=identity.digest, fields=identity.fields()
    )
    wanted = attempt(Step.BUILD, lambda: engine.wanted(model))
    if isinstance(wanted, Failed):
        absent = wanted.reason if issubclass(wanted.kind, NotAtHand) else ""
        return _unshared(planned, wanted.reason, identity, absent=absent)
    files = wanted.files
    identity = replace(identity, content=wanted.content)
    unknown = attempt(Step.BUILD, lambda: engine.opened_beyond(files))
    if isinstance(unknown, Failed):
        return _unshared(planned, unknown.reason, identity, wanted)
    if unknown:
        reason = (
            f"while it was built it opened {', '.join(unknown[:3])}, and nothing says whether "
            "peers have the same"
        )
        return _unshared(planned, reason, identity, wanted)
    return identity, wanted


def _processed(request: LoadRequest, model: nn.Module, identity: Identity) -> Identity | str:
    parts = attempt(Step.BUILD, lambda: request.engine.processed_parts(model))
    return parts.reason if isinstance(parts, Failed) else identity.processed(parts)


def _built_parts(request: LoadRequest, model: nn.Module) -> dict[str, str | int]:
    with torch._C.DisableTorchFunction():
        return dict(request.engine.built_parts(model))


def _unshared(
    planned: Planned,
    reason: str,
    identity: Identity,
    wanted: Wanted | None = None,
    absent: str = "",
) -> Unshared:
    absent = wanted.absent if wanted is not None else absent
    return Unshared(planned.request, reason, planned.tried, identity, wanted, absent)


def _arrange(request: LoadRequest, model: nn.Module) -> Arrangement:
    """Raises `ManifestError` when the tensors cannot travel: a tensor without bytes of its own yet
    (online quantisation) has different ones afterwards."""
    config = request.worker.config
    left, reserve = request.engine.host_memory()
    retention = retain.plan(model, config.int8_cache, config.int8_cache_name, left, reserve)
    if retention.may_share:
        weights = arrange(model, config.chunk_bytes, leave_empty=True)
    else:
        weights = capture(model, chunk_bytes=config.chunk_bytes)
    with torch._C.DisableTorchFunction():
        as_built = buffers.snapshot(model)
    return Arrangement(weights, retention, as_built)
