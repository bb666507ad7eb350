"""Filling the model from storage, and finding out what it was filled with."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from torch import nn

from netloader.checkpoint import measured
from netloader.checkpoint.wanted import held
from netloader.errors import NothingToLoadError
from netloader.identity.identity import content_id
from netloader.model import attributes, buffers
from netloader.system import memory, tracing
from netloader.system.fetched import fetched_bytes
from netloader.weights.manifest import Piece
from netloader.weights.poison import Poison
from netloader.worker.loading import reading
from netloader.worker.loading.build import Built
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.plan import Tried, Unshared
from netloader.worker.loading.provenance import Provenance
from netloader.worker.loading.sought import sought_by

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A model that storage has filled."""

    provenance: Provenance | str
    """Provenance of the weights, or why others cannot be told about it."""
    seconds: float


def read_unshared(unshared: Unshared, model: nn.Module, tried: Tried) -> Stored | Failed:
    """Fill a model that only this worker will use. Raises errors that cost the start."""
    seconds = attempt(Step.READ, lambda: _read(unshared, model, tried))
    return seconds if isinstance(seconds, Failed) else Stored(unshared.reason, seconds)


def read_storage(
    built: Built, model: nn.Module, unverified: tuple[Piece, ...], tried: Tried
) -> Stored | Failed:
    """Fill a model in which a pull may have left bytes, in the `unverified` parts of its tensors.

    Raises errors that cost the start.
    """
    built.arrangement.weights.put_back_all()

    def read() -> tuple[attributes.Snapshot, float]:
        poison = Poison.over(built.arrangement.weights, unverified)
        with torch._C.DisableTorchFunction():
            before = attributes.snapshot(model)
        already = fetched_bytes()
        with reading.told(sought_by(built), built.request.engine.share_read):
            seconds = _read(built, model, tried)
        poison.check_gone(model)
        _measure(built, already, seconds)
        return before, seconds

    done = attempt(Step.READ, read)
    if isinstance(done, Failed):
        return done
    before, seconds = done
    provenance = attempt(Step.INSPECT, lambda: _provenance(built, model, before))
    if isinstance(provenance, Failed):
        return Stored(provenance.reason, seconds)
    return Stored(provenance, seconds)


def _read(step: Built | Unshared, model: nn.Module, tried: Tried) -> float:
    """Fill `model`. Returns the seconds that this took.

    Raises `ConfigError` when `CONTENT` contradicts the files, `NothingToLoadError` when nobody has
    the weights, and whatever the engine raises.
    """
    engine, wanted = step.request.engine, step.wanted
    _log.info(
        "loading %s from storage: %s",
        step.request.names.shown,
        "; ".join(tried.skipped) or "no source",
    )
    if wanted is not None:
        wanted.check_demanded(engine.cache)
    started = time.monotonic()
    try:
        with tracing.span("storage"):
            engine.load_from_storage(model)
    except Exception as error:
        absent = step.wanted.absent if isinstance(step, Built) else step.absent
        if not absent:
            raise
        raise NothingToLoadError(_nothing(step, tried, error)) from error
    seconds = time.monotonic() - started
    _log.info(
        "loaded %s%s from storage in %.2f s%s",
        step.request.names.shown,
        _amount(step, seconds),
        seconds,
        tried.after,
    )
    return seconds


def _amount(step: Built | Unshared, seconds: float) -> str:
    """How much was loaded, and how fast, for the log; empty where nobody has counted."""
    if isinstance(step, Unshared) or not seconds:
        return ""
    nbytes = step.arrangement.weights.manifest.nbytes
    return f" ({memory.text(nbytes)}, {nbytes / seconds / 1e9:.2f} GB/s)"


def _measure(built: Built, already: int | None, seconds: float) -> None:
    """Remember how fast storage was, given the bytes fetched before."""
    files, now = built.wanted.files, fetched_bytes()
    if files is not None and already is not None and now is not None:
        nbytes = built.arrangement.weights.manifest.nbytes
        cache = built.request.engine.cache
        measured.remember(cache, files.stamps, nbytes, now - already, seconds)


def _nothing(step: Built | Unshared, tried: Tried, error: Exception) -> str:
    """Why there is nothing to load, and what to do about it."""
    reasons = "; ".join(tried.skipped) or "nobody was asked"
    wanted, identity = step.wanted, step.identity
    wanted_id = content_id(wanted.content.known) if wanted is not None else ""
    wants = (
        f"wants {wanted_id}, and no" if wanted_id else "does not know which content it wants, so no"
    )
    offers = step.request.worker.peers.offers(identity) if identity is not None else []
    found = f" In this mesh now: {'; '.join(offers[:4])}." if offers else ""
    return (
        f"{step.request.names.shown}: this worker {wants} peer could give it ({reasons}); and "
        f"storage has none ({error}). Put the weight files there, start a source first, or set "
        f"CONTENT to the content id that a source prints when it is ready to serve.{found}"
    )


def _provenance(built: Built, model: nn.Module, before: attributes.Snapshot) -> Provenance | str:
    """What the model was filled with, or why others cannot be told. Raises `ManifestError`."""
    with torch._C.DisableTorchFunction():
        changes = attributes.changes(model, before)
        computed = buffers.computed(model, built.arrangement.buffers, buffers.snapshot(model))
    engine, wanted = built.request.engine, built.wanted
    read = engine.files_read()
    if read is None:
        return "it is not known which files storage was read from"
    if wanted.files is not None and wanted.files.paths != read.paths:
        return "storage was read from other files than vLLM had named"
    unknown = engine.opened_beyond(read)
    if unknown:
        return (
            f"while it was loaded it opened {', '.join(unknown[:3])}, and nothing says whether "
            "peers have the same"
        )
    full = built.request.worker.config.digest == "full"
    content, problem = held(read, wanted, engine.cache, full=full)
    if problem is not None:
        return problem
    return Provenance(content, changes, computed, read, engine.commit(model))
