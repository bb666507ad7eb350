"""After post-processing, the worker becomes a source of what it has loaded, or says why not."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace

from torch import nn

from netloader.checkpoint import evidence
from netloader.checkpoint.wanted import content_id
from netloader.errors import ManifestError
from netloader.identity.identity import Evidence, Identity, LazyContent, known
from netloader.source.offer import Offer
from netloader.source.settings import SourceSettings
from netloader.system import affinity, memory
from netloader.system.threads import TransferThread
from netloader.transport import Backend
from netloader.weights import retain
from netloader.weights.capture import Weights
from netloader.worker.loading.claim import checked_commit
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.fill import Filled, LoadRecord, Servable
from netloader.worker.loading.provenance import Provenance
from netloader.worker.report import Report

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """The worker is a source of the model."""

    record: LoadRecord
    endpoint: str
    """Where its source listens."""


@dataclass(frozen=True, slots=True)
class NotServed:
    """The worker is not a source of the model."""

    record: LoadRecord
    reason: str


@dataclass(frozen=True, slots=True)
class _Settled:
    """What survived post-processing, and what others are told about it. Holds nothing else."""

    record: LoadRecord
    identity: Identity
    backends: tuple[Backend, ...]
    provenance: Provenance
    digests: tuple[bytes, ...]
    originals: retain.Originals
    withdrawals: int
    """How often the worker had already withdrawn these weights."""


def serve(filled: Filled, model: nn.Module) -> Future[Served | NotServed]:
    """Become a source of the post-processed `model`, or say why not.

    A thread does the work that reads all weights or files, while vLLM goes on. The future completes
    when everything is announced and written. Release `filled`, which may hold originals that nobody
    needs.
    """
    done: Future[Served | NotServed] = Future()
    settled = _settle(filled, model)
    if isinstance(settled, NotServed):
        _say_not_served(settled)
        done.set_result(settled)
        return done
    stopping = threading.Event()
    TransferThread(
        lambda: done.set_result(_become_source(settled, stopping)),
        "netloader-offer",
        stop=stopping.set,
    ).start()
    return done


def _settle(filled: Filled, model: nn.Module) -> _Settled | NotServed:
    record, servable = filled.record, filled.servable
    if isinstance(servable, str):
        return NotServed(record, servable)
    originals = attempt(Step.SETTLE, lambda: _originals(record, servable, model))
    if isinstance(originals, Failed):
        return NotServed(record, originals.reason)
    return _Settled(
        record,
        servable.identity,
        servable.backends,
        servable.provenance,
        servable.digests,
        originals,
        record.request.worker.sources.withdrawals(record.request.role),
    )


def _originals(record: LoadRecord, servable: Servable, model: nn.Module) -> retain.Originals:
    """The weights of the model that can be served. Raises `ManifestError`."""
    if record.request.worker.sources.endpoint(record.request.role) is None:
        raise ManifestError("its port cannot be listened on")
    try:
        return retain.settle(servable.kept, model)
    except ManifestError as error:
        raise ManifestError(servable.not_kept or str(error)) from None


def _become_source(settled: _Settled, stopping: threading.Event) -> Served | NotServed:
    """Check the held weights once more, say what they are, and serve them."""
    affinity.step_aside(background=False)
    content = LazyContent({})
    result = attempt(Step.OFFER, lambda: _check(settled) or _offer(settled, content))
    if isinstance(result, Failed):
        result = result.reason
    if isinstance(result, str):
        result = NotServed(settled.record, result)
        if not stopping.is_set():
            _say_not_served(result)
    elif isinstance(result, Served):
        _claim(settled, content, stopping)
    return result


def _check(settled: _Settled) -> str:
    """Why these weights cannot be served after all; empty when they can."""
    changed = retain.changed(settled.originals.weights, settled.digests)
    if changed:
        return (
            f"post-processing left other bytes in {len(changed)} tensors ({changed[0]} first): set "
            "INT8_CACHE to dram or hbm and let INT8_CACHE_NAME match them"
        )
    content, files = settled.provenance.content, settled.provenance.files
    if files is not None:
        # All evidence, while the files are still warm: peers may know any kind of it.
        content.make_all()
        moved = evidence.changed_since(files.stamps)
        if moved is not None:
            return f"{moved} after it had been loaded"
    if not content.known:
        return "; ".join(["nothing is known of its content", *content.problems])
    return ""


def _offer(settled: _Settled, content: LazyContent) -> Served | NotServed:
    """Hand out the weights, and announce it everywhere. `content` is what replicas are told about
    the checkpoint; what is known by now is added to it."""
    record, provenance, weights = settled.record, settled.provenance, settled.originals.weights
    request = record.request
    worker, role = request.worker, request.role
    content.add(provenance.content.known)
    offer = Offer(
        replace(settled.identity, content=content),
        weights,
        settled.digests,
        provenance.attributes,
        settled.backends,
        provenance.computed,
    )
    worker.membership.update(
        role,
        origin=record.origin,
        carried=record.tried.transports,
        content=known(content),
    )
    endpoint = worker.sources.endpoint(role)
    if endpoint is None or not worker.sources.serve(role, offer, settled.withdrawals):
        # `Sources` publishes the reason, and whether the source comes back.
        not_served = NotServed(record, "its weights were withdrawn before they could be served")
        _report(record, not_served.reason)
        return not_served
    _report(record, "", endpoint, offer)
    _log.info(
        "ready to serve %s of %s at %s by %s, generation %d; content %s; originals kept for peers "
        "cost %s%s",
        memory.text(weights.manifest.nbytes),
        request.names.shown,
        endpoint,
        " or ".join(offer.transports),
        worker.membership.generation,
        content_id(content.known),
        memory.text(settled.originals.cost_bytes),
        _device_memory(weights, worker.config.source_settings),
    )
    return Served(record, endpoint)


def _device_memory(weights: Weights, settings: SourceSettings) -> str:
    """What serving takes of an accelerator's memory, for the log; empty where it takes none."""
    chunks = weights.manifest.chunks()
    if weights.device_type == "cpu" or all(
        weights.contiguous(chunk) is not None for chunk in chunks
    ):
        return ""
    staging = settings.max_sessions * settings.staged_chunks * weights.manifest.chunk_bytes
    recast = f", {len(weights.recast)} tensors are converted on the way" if weights.recast else ""
    return (
        f"; serving takes up to {memory.text(staging + weights.temporary_bytes)} of "
        f"{weights.device_type} memory, beside the transport's{recast}"
    )


def _claim(settled: _Settled, content: LazyContent, stopping: threading.Event) -> None:
    """Tell replicas the commit too, once it is proven."""
    request = settled.record.request
    commit = checked_commit(settled.provenance, request.engine.cache, stopping)
    if commit is None:
        return
    content.add({Evidence.COMMIT: commit})
    request.worker.membership.update(request.role, content=known(content))


def _say_not_served(not_served: NotServed) -> None:
    record, reason = not_served.record, not_served.reason
    request = record.request
    _log.warning("not a source of %s: %s", request.names.shown, reason)
    request.worker.membership.update(
        request.role, state="unavailable", reason=reason, origin=record.origin
    )
    _report(record, reason)


def _report(
    record: LoadRecord, not_a_source: str, endpoint: str = "", served: Offer | None = None
) -> None:
    """Write the record that `REPORT_PREFIX` asks for."""
    request = record.request
    config = request.worker.config
    if config.report_prefix is None:
        return
    report = Report(
        model=request.names.shown,
        role=request.role,
        rank=request.worker.rank,
        origin=record.origin,
        nbytes=record.nbytes,
        seconds=record.seconds,
        endpoint=endpoint,
        transports=served.transports if served is not None else (),
        deliveries=record.tried.deliveries,
        skipped=record.tried.skipped,
        content=known(record.content),
        not_a_source=not_a_source,
        tensors=served.weights.sha256() if served is not None and config.report_tensors else {},
    )
    try:
        report.write(config.report_prefix)
    except OSError as error:
        _log.warning("REPORT_PREFIX: cannot write the report: %s", error)
