"""After vLLM's post-processing: a model of dummies gets its weights, any other has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from netloader.identity.identity import Identity
from netloader.plain import Plain
from netloader.transport import Backend
from netloader.weights.capture import Weights
from netloader.worker.loading.adopt import Prepared, adopt
from netloader.worker.loading.fill import Filled, LoadRecord, Servable
from netloader.worker.loading.plan import BuildAgain, Planned, Unshared
from netloader.worker.loading.provenance import Provenance


@dataclass(frozen=True, slots=True)
class ServableAsIs:
    """The weights of a model that peers have filled after it was post-processed."""

    identity: Identity
    backends: tuple[Backend, ...]
    provenance: Provenance
    digests: tuple[bytes, ...]
    """By chunk id, as promised by the sources and verified here."""
    weights: Weights
    loaded: Mapping[str, Plain]
    """What `load_weights` had set besides tensors, where they come from."""


@dataclass(frozen=True, slots=True)
class Complete:
    """A post-processed model with its weights."""

    record: LoadRecord
    servable: Servable | ServableAsIs | str
    """What peers may be served, or why they are served nothing."""


def finish(filled: Filled | Prepared, model: nn.Module) -> Complete | BuildAgain:
    """Give the post-processed `model` its weights, if it has only dummies yet."""
    if isinstance(filled, Filled):
        return Complete(filled.record, filled.servable)
    built = filled.built
    adopted = adopt(filled, model)
    if isinstance(adopted, BuildAgain):
        return adopted
    pulled, weights = adopted.pulled, adopted.processed.to_serve().weights
    record = LoadRecord(
        built.request,
        "peers",
        weights.manifest.nbytes,
        pulled.seconds,
        pulled.tried,
        pulled.provenance.content,
    )
    telemetry = built.request.worker.telemetry
    telemetry.loaded(record.origin, built.request.role, record.seconds)
    return Complete(
        record,
        ServableAsIs(
            filled.identity,
            built.backends,
            pulled.provenance,
            pulled.digests,
            replace(weights, digest_kind=pulled.digest_kind),
            filled.loaded,
        ),
    )


def made_elsewhere(planned: Planned | Unshared, reason: str) -> Complete:
    """A model that was built and filled in one go, with no moment in which peers could fill it."""
    return Complete(LoadRecord(planned.request, "storage", tried=planned.tried), reason)
