"""Fill the model from peers, else from storage, and keep what peers will be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from netloader.identity.identity import Identity, LazyContent
from netloader.model import processed
from netloader.transport import Backend
from netloader.weights import digests, retain
from netloader.weights.capture import capture
from netloader.weights.coalesce import zero_gaps
from netloader.worker.loading.adopt import Prepared, prepare
from netloader.worker.loading.build import Built
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.plan import BuildAgain, Planned, Tried, Unshared
from netloader.worker.loading.provenance import Provenance
from netloader.worker.loading.pull import NotPulled, Pulled, pull
from netloader.worker.loading.request import LoadRequest
from netloader.worker.loading.storage import Stored, read_storage, read_unshared
from netloader.worker.loading.upstream import Taken, take


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """How a model was filled."""

    request: LoadRequest
    origin: Literal["storage", "peers"]
    nbytes: int = 0
    """Bytes of weights; 0 where they could not be counted."""
    seconds: float = 0.0
    """Seconds that filling the tensors took."""
    tried: Tried = field(default_factory=Tried)
    content: LazyContent = field(default_factory=lambda: LazyContent({}))
    """Evidence of the content that filled the model."""


@dataclass(frozen=True, slots=True)
class Servable:
    """The weights of a filled model that can be served if they survive post-processing or were
    kept."""

    identity: Identity
    backends: tuple[Backend, ...]
    provenance: Provenance
    digests: tuple[bytes, ...]
    """By chunk id, of the weights as they were loaded."""
    kept: retain.Kept
    """Holds the originals: release it after post-processing."""
    not_kept: str
    """Why originals are not kept although the settings ask for that."""
    processed: Identity | str
    """Identity of what post-processing will make of them, or why that cannot be served."""
    numbers: Mapping[str, float]
    """Numbers beside the tensors, before post-processing; empty if all originals are held."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A model with its weights, before vLLM post-processes them."""

    record: LoadRecord
    servable: Servable | str
    """What peers may be served, or why they are served nothing."""


def fill(built: Built | Unshared, model: nn.Module) -> Filled | Prepared | BuildAgain:
    """Fill `model`, and keep what peers will be served; or fill it with dummies, if peers have its
    weights only as post-processing left them.

    Raises `ConfigError` when `CONTENT` contradicts the files, `NothingToLoadError` when nobody has
    the weights, and whatever vLLM raises.
    """
    filled = _fill_unshared(built, model) if isinstance(built, Unshared) else _fill(built, model)
    if isinstance(filled, Filled):
        request, record = built.request, filled.record
        request.worker.telemetry.loaded(record.origin, request.role, record.seconds)
    return filled


def _fill(built: Built, model: nn.Module) -> Filled | Prepared | BuildAgain:
    pulled = pull(built, model)
    if isinstance(pulled, Pulled):
        filled = _filled(built, model, pulled, pulled.tried)
        # vLLM's post-processing may change the tensors that replicas are being sent.
        built.request.worker.sources.hold(built.request.role, "its weights are post-processed")
        return filled
    prepared = prepare(built, model, pulled)
    if not isinstance(prepared, NotPulled):
        return prepared
    taken = take(built, model, prepared)
    if isinstance(taken, Taken):
        return _filled(built, model, taken, taken.tried)
    stored = read_storage(built, model, taken.unverified, taken.tried)
    if isinstance(stored, Failed):
        reason, tried = stored.reason, taken.tried.but(stored.reason)
        again = Planned(built.request, built.identity, built.backends, tried, from_peers=False)
        return BuildAgain(again, reason)
    return _filled(built, model, stored, taken.tried)


def _fill_unshared(unshared: Unshared, model: nn.Module) -> Filled | BuildAgain:
    tried = unshared.tried.but(unshared.reason)
    stored = read_unshared(unshared, model, tried)
    if isinstance(stored, Failed):
        return BuildAgain(unshared, stored.reason)
    nbytes = _nbytes(model)
    record = LoadRecord(unshared.request, "storage", nbytes, stored.seconds, tried)
    return Filled(record, unshared.reason)


def _filled(built: Built, model: nn.Module, by: Pulled | Taken | Stored, tried: Tried) -> Filled:
    provenance = by.provenance
    origin: Literal["storage", "peers"] = "storage" if isinstance(by, Stored) else "peers"
    if isinstance(provenance, str):
        record = LoadRecord(built.request, origin, _nbytes(model), by.seconds, tried)
        return Filled(record, provenance)
    assert not isinstance(by, Taken), "nobody can say where these weights come from"
    kept = attempt(Step.KEEP, lambda: _keep(built, model, by))
    nbytes = 0 if isinstance(kept, Failed) else kept[0].manifest.nbytes
    record = LoadRecord(built.request, origin, nbytes, by.seconds, tried, provenance.content)
    if isinstance(kept, Failed):
        return Filled(record, kept.reason)
    return Filled(
        record,
        Servable(
            built.identity,
            built.backends,
            provenance,
            kept[1],
            kept[0],
            built.arrangement.retention.reason,
            built.processed,
            kept[2],
        ),
    )


def _keep(
    built: Built, model: nn.Module, by: Pulled | Stored
) -> tuple[retain.Kept, tuple[bytes, ...], dict[str, float]]:
    """Between loading and post-processing, take what peers will be served, its digests, and the
    numbers beside it.

    Raises `ManifestError` when the tensors can no longer travel.
    """
    config = built.request.worker.config
    if isinstance(by, Pulled):
        # The model is as the pull left it: its tensors still lie where they were laid out.
        weights = replace(built.arrangement.weights, digest_kind=by.digest_kind)
        promised = by.digests
    else:
        weights = capture(model, chunk_bytes=config.chunk_bytes)
        zero_gaps(weights)
        promised = tuple(digests.of_weights(weights, weights.manifest.chunks()))
    plan = built.arrangement.retention
    kept = retain.keep(weights, plan.mode, config.int8_cache_name, plan.small)
    return kept, promised, {} if kept.holds_all else processed.numbers_of(model)


def _nbytes(model: nn.Module) -> int:
    """Bytes of the model's weights, for the report."""
    counted = attempt(Step.KEEP, lambda: capture(model).manifest.nbytes)
    return 0 if isinstance(counted, Failed) else counted
