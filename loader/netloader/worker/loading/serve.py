"""After post-processing, the worker becomes a source of what it has loaded, or says why not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from torch import nn

from netloader import plain
from netloader.checkpoint import evidence
from netloader.errors import ManifestError
from netloader.identity.identity import Evidence, Identity, LazyContent, content_id, known
from netloader.model import attributes, numbers, processed
from netloader.plain import Plain
from netloader.source.offer import Offer
from netloader.source.settings import SourceSettings
from netloader.system import affinity, memory
from netloader.system.threads import TransferThread, use_device
from netloader.transport import Backend
from netloader.weights import digests, retain
from netloader.weights.capture import Weights
from netloader.worker.loading.claim import checked_commit
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.fill import LoadRecord, Servable
from netloader.worker.loading.finish import Complete, ServableAsIs
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
class _Form:
    """One form in which the weights can be served."""

    identity: Identity
    weights: Weights
    digests: tuple[bytes, ...] | None
    """By chunk id, as promised; None where this worker is the first to promise anything."""
    attributes: Mapping[str, Plain]
    computed: Mapping[str, str]
    cost_bytes: int
    loaded: Mapping[str, Plain] = field(default_factory=dict)
    """As in `Offer`."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """What survived post-processing, and what others are told about it. Holds nothing else."""

    record: LoadRecord
    backends: tuple[Backend, ...]
    provenance: Provenance
    forms: tuple[_Form, ...]
    """The best first: as loaded, then as post-processing left them."""
    reasons: tuple[str, ...]
    """Why there is no other form."""
    withdrawals: int
    """How often the worker had already withdrawn these weights."""


def serve(complete: Complete, model: nn.Module) -> Future[Served | NotServed]:
    """Become a source of the post-processed `model`, or say why not.

    A thread does the work that reads all weights or files, while vLLM goes on. The future completes
    when everything is announced and written. Release `complete`, which may hold originals that
    nobody needs.
    """
    done: Future[Served | NotServed] = Future()
    settled = _settle(complete, model)
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


def _settle(complete: Complete, model: nn.Module) -> _Settled | NotServed:
    record, servable = complete.record, complete.servable
    if isinstance(servable, str):
        return NotServed(record, servable)
    sources, role = record.request.worker.sources, record.request.role
    if sources.endpoint(role) is None:
        return NotServed(record, "its port cannot be listened on")
    forms: list[_Form] = []
    reasons: list[str] = []
    for form in _forms(record, servable, model):
        if isinstance(form, Failed):
            reasons.append(form.reason)
        else:
            forms.append(form)
    if not forms:
        return NotServed(record, "; ".join(reasons))
    return _Settled(
        record,
        servable.backends,
        servable.provenance,
        tuple(forms),
        tuple(reasons),
        sources.withdrawals(role),
    )


def _forms(
    record: LoadRecord, servable: Servable | ServableAsIs, model: nn.Module
) -> Iterator[_Form | Failed]:
    provenance = servable.provenance
    if isinstance(servable, ServableAsIs):
        yield _Form(
            servable.identity,
            servable.weights,
            servable.digests,
            provenance.attributes,
            provenance.computed,
            0,
            servable.loaded,
        )
        return
    yield attempt(Step.SETTLE, lambda: _as_loaded(servable, model))
    if not servable.kept.holds_all:
        yield attempt(Step.SETTLE, lambda: _as_processed(record, servable, model))


def _as_loaded(servable: Servable, model: nn.Module) -> _Form:
    """Raises `ManifestError`."""
    try:
        originals = retain.settle(servable.kept, model)
    except ManifestError as error:
        raise ManifestError(servable.not_kept or str(error)) from None
    return _Form(
        servable.identity,
        originals.weights,
        servable.digests,
        servable.provenance.attributes,
        servable.provenance.computed,
        originals.cost_bytes,
    )


def _as_processed(record: LoadRecord, servable: Servable, model: nn.Module) -> _Form:
    """Raises `ManifestError`."""
    identity, chunk_bytes = servable.processed, record.request.worker.config.chunk_bytes
    if isinstance(identity, str):
        raise ManifestError(f"runtime layout: {identity}")
    try:
        made = processed.take(model, chunk_bytes)
        values = attributes.values(model, servable.provenance.attributes)
        values |= numbers.changed(servable.numbers, made.floats)
        plain.check(values)
    except ManifestError as error:
        raise ManifestError(f"runtime layout: {error}") from None
    served = made.to_serve()
    cost = sum(
        mine.numel()
        for mine, theirs in zip(served.weights.tensors, made.weights.tensors, strict=True)
        if mine is not theirs
    )
    loaded = servable.provenance.attributes
    return _Form(identity, served.weights, None, values, made.state, cost, loaded)


def _become_source(settled: _Settled, stopping: threading.Event) -> Served | NotServed:
    """Check the held weights once more, say what they are, and serve them."""
    affinity.step_aside(background=False)
    content = LazyContent({})
    result = attempt(Step.OFFER, lambda: _unknown(settled) or _offer_best(settled, content))
    if isinstance(result, Failed):
        result = result.reason
    if isinstance(result, str):
        result = NotServed(settled.record, result)
        if not stopping.is_set():
            _say_not_served(result)
    elif isinstance(result, Served):
        _claim(settled, content, stopping)
    return result


def _unknown(settled: _Settled) -> str:
    """Why the content of these weights is not known; empty when it is."""
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


def _offer_best(settled: _Settled, content: LazyContent) -> Served | NotServed | str:
    """Serve the best form whose bytes are as promised. Returns why none is."""
    reasons = list(settled.reasons)
    for form in settled.forms:
        use_device(form.weights.device)
        changed = "" if form.digests is None else _changed(form.weights, form.digests)
        if not changed:
            return _offer(settled, form, content)
        reasons.insert(0, changed)
    return "; ".join(reasons)


def _changed(weights: Weights, promised: tuple[bytes, ...]) -> str:
    """Why these weights cannot be served after all; empty when they can."""
    changed = retain.changed(weights, promised)
    if not changed:
        return ""
    if weights.manifest.layout == "runtime":
        return f"{len(changed)} tensors ({changed[0]} first) have changed since they were pulled"
    return (
        f"post-processing left other bytes in {len(changed)} tensors ({changed[0]} first): set "
        "INT8_CACHE to dram or hbm and let INT8_CACHE_NAME match them"
    )


def _offer(settled: _Settled, form: _Form, content: LazyContent) -> Served | NotServed:
    """Hand out the weights, and announce it everywhere. `content` is what replicas are told about
    the checkpoint; what is known by now is added to it."""
    record, provenance, weights = settled.record, settled.provenance, form.weights
    request = record.request
    worker, role = request.worker, request.role
    content.add(provenance.content.known)
    promised = form.digests
    if promised is None:
        promised = digests.of_weights(weights, weights.manifest.chunks())
    offer = Offer(
        replace(form.identity, content=content),
        weights,
        promised,
        form.attributes,
        settled.backends,
        form.computed,
        loaded=form.loaded,
    )
    worker.membership.update(
        role,
        origin=record.origin,
        carried=record.tried.transports,
        content=known(content),
        identity=form.identity.digest,
        fields=form.identity.fields(),
    )
    endpoint = worker.sources.endpoint(role)
    if endpoint is None or not worker.sources.serve(role, offer, settled.withdrawals):
        # `Sources` publishes the reason, and whether the source comes back.
        not_served = NotServed(record, "its weights were withdrawn before they could be served")
        _report(record, not_served.reason)
        return not_served
    _report(record, "", endpoint, offer)
    _log.info(
        "ready to serve %s of %s%s at %s by %s, generation %d; content %s; originals kept for "
        "peers cost %s%s",
        memory.text(weights.manifest.nbytes),
        request.names.shown,
        " as post-processing left them" if weights.manifest.layout == "runtime" else "",
        endpoint,
        " or ".join(offer.transports),
        worker.membership.generation,
        content_id(content.known),
        memory.text(form.cost_bytes),
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
    request.worker.sources.unshare(request.role, reason)
    request.worker.membership.update(
        request.role,
        state="unavailable",
        reason=reason,
        origin=record.origin,
        storage="",
        held=0,
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
        layout=served.identity.layout if served is not None else "",
        tensors=served.weights.sha256() if served is not None and config.report_tensors else {},
    )
    try:
        report.write(config.report_prefix)
    except OSError as error:
        _log.warning("REPORT_PREFIX: cannot write the report: %s", error)
