"""Filling the built model from peers, as far as they go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from netloader.checkpoint import measured
from netloader.discovery.candidate import Candidate
from netloader.errors import ManifestError, NoSourceLeft
from netloader.identity.identity import Identity
from netloader.model import attributes, buffers
from netloader.replica.observer import Intake, PullObserver
from netloader.replica.pull import Pull
from netloader.replica.request import Request
from netloader.system import memory, tracing
from netloader.telemetry import PullResult
from netloader.weights.capture import DigestKind, Weights
from netloader.weights.manifest import Piece
from netloader.worker.loading.bar import Bar
from netloader.worker.loading.build import Built
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.feeds import Feeds
from netloader.worker.loading.plan import Tried
from netloader.worker.loading.provenance import Provenance, learnt
from netloader.worker.loading.sharing import Sharing, shares
from netloader.worker.loading.sought import sought_by
from netloader.worker.loading.waiting import ReadStorage, SourceWait

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that peers have filled completely."""

    provenance: Provenance
    digests: tuple[bytes, ...]
    """By chunk id, as promised by the sources and verified here."""
    digest_kind: DigestKind | None
    """How the sources computed them."""
    seconds: float
    tried: Tried


@dataclass(frozen=True, slots=True)
class NotPulled:
    """A model that storage must fill."""

    unverified: tuple[Piece, ...]
    """Parts of its tensors that may hold unverified bytes."""
    tried: Tried
    began: float
    """When looking for peers began, in seconds of `time.monotonic`."""
    may_ask: bool = True
    """Whether peers may have the weights in another form."""


def pull(built: Built, model: nn.Module) -> Pulled | NotPulled:
    """Fetch what peers have as it was loaded."""
    began = time.monotonic()
    if not built.from_peers:
        return NotPulled((), built.tried, began, may_ask=False)
    with tracing.span("discover"):
        found = attempt(Step.FIND, lambda: _candidates(built))
    if isinstance(found, Failed):
        return NotPulled((), built.tried.but(found.reason), began, may_ask=False)
    candidates, tried = found
    for reason in tried.skipped:
        _log.info("not used: %s", reason)
    # A worker without files can only wait for a peer.
    must_wait = built.wanted.files is None and built.request.worker.peers.may_come
    waits = SourceWait(sought_by(built))
    if not candidates and not must_wait:
        move = attempt(Step.FIND, waits.wait)
        if isinstance(move, Failed):
            return NotPulled((), tried.but(move.reason), began, may_ask=False)
        tried = replace(tried, waited=waits.waited)
        if isinstance(move, ReadStorage):
            return NotPulled((), tried.but(*move.reasons), began)
        began = time.monotonic()
        if move.only_processed:
            return NotPulled((), tried, began)

    def finish(one: Pull) -> None:
        buffers.check_equal(built.arrangement.buffers, one.computed)
        attributes.apply(model, one.attributes)

    goal = Goal(built, built.identity, built.arrangement.weights, finish, began)
    return fetch(goal, Step.PULL, tried, waits, must_wait=must_wait)


@dataclass(frozen=True, slots=True)
class Goal:
    """What to fetch from peers."""

    built: Built
    identity: Identity
    """Of the wanted weights."""
    weights: Weights
    """The tensors to fill."""
    finish: Callable[[Pull], None]
    """Checks and sets what travels beside the tensors, once all have arrived."""
    began: float
    """When looking for peers began, in seconds of `time.monotonic`."""


def fetch(
    goal: Goal,
    step: Step,
    tried: Tried,
    waits: SourceWait | None = None,
    *,
    must_wait: bool = False,
) -> Pulled | NotPulled:
    """Pull until everything has come and is finished, or no source is left. With `waits`, whoever
    reads storage for several workers may still become a source."""
    request = goal.built.request
    worker, role = request.worker, request.role
    sharing = Sharing(worker, goal.identity, goal.built.backends, goal.weights)
    feeds = Feeds(worker.progress, role)
    bar = Bar(
        "Pulling weights from peers", goal.weights.manifest.nbytes, shown=request.shows_progress
    )

    def looked(intake: Intake) -> None:
        feeds.looked(intake)
        bar.at(intake.held, _sources(len(intake.brought)))

    one = Pull(
        goal.weights,
        request_for(goal.built, goal.identity),
        worker.config.pull_settings,
        sharing.observer(
            PullObserver(
                accused=lambda process: worker.accusations.add(role, process),
                looked=looked,
                ended=lambda how, unfinished: worker.telemetry.stream_ended(
                    type(how).__name__.lower(), unfinished
                ),
            )
        ),
    )
    failed, seconds = _run(one, goal, step, waits, must_wait=must_wait)
    bar.end(_sources(len(one.deliveries)))
    if waits is not None:
        tried = replace(tried, waited=waits.waited)
    pulled = _outcome(one, goal, tried, failed, seconds)
    if isinstance(pulled, NotPulled):
        sharing.stop()  # Storage will write to the tensors.
        feeds.given_up()
    return pulled


def _sources(count: int) -> str:
    if not count:
        return "no source"
    return "1 source" if count == 1 else f"{count} sources"


def request_for(built: Built, identity: Identity) -> Request:
    """What sources of these weights are asked for."""
    worker = built.request.worker
    serves = shares(worker, identity.layout)
    return Request(
        identity,
        built.backends,
        lambda: worker.sources.security,
        worker.membership.name,
        worker.config.fabric,
        (serves and worker.sources.endpoint(built.request.role)) or "",
        worker.membership.reaches,
    )


def _candidates(built: Built) -> tuple[tuple[Candidate, ...], Tried]:
    candidates, skipped = built.request.worker.peers.candidates(built.identity, built.transports)
    if any(candidate.listed for candidate in candidates):
        # The mesh does not say what a listed source knows about its content, so say all that we
        # know.
        built.wanted.content.make_all()
    return candidates, built.tried.but(*skipped)


def _run(
    one: Pull, goal: Goal, step: Step, waits: SourceWait | None, *, must_wait: bool
) -> tuple[Failed | None, float]:
    """What failed, if anything did, and the seconds that it took."""
    started = time.monotonic()
    telemetry = goal.built.request.worker.telemetry
    telemetry.pull_started()

    def run() -> None:
        peers = goal.built.request.worker.peers
        files = goal.built.wanted.files
        stamps = files.stamps if files is not None else ()
        spent_s = started - goal.began
        with tracing.span("pull", bytes=goal.weights.manifest.nbytes):
            while True:
                try:
                    one.run(
                        lambda: peers.find(goal.identity, goal.built.transports),
                        wait_for_one=must_wait,
                        has_storage=files is not None,
                        storage_rate=measured.rate(goal.built.request.engine.cache, stamps),
                        spent_s=spent_s,
                    )
                    break
                except NoSourceLeft:
                    # What has come stays. Another worker may be reading the rest.
                    move = waits.wait() if waits is not None else ReadStorage()
                    if isinstance(move, ReadStorage) or move.only_processed:
                        raise
                    spent_s = 0.0
        with tracing.span("apply"):
            goal.finish(one)

    failed = attempt(step, run)
    seconds = time.monotonic() - started
    telemetry.pull_ended(_result(failed), seconds)
    for delivery in one.deliveries:
        telemetry.delivered(delivery.transport, delivery.nbytes)
    return failed, seconds


def _outcome(
    one: Pull, goal: Goal, tried: Tried, failed: Failed | None, seconds: float
) -> Pulled | NotPulled:
    skipped = (*tried.skipped, *map(str, one.failures))
    tried = replace(tried, skipped=skipped, deliveries=tried.deliveries + one.deliveries)
    if isinstance(failed, Failed):
        if failed.kind is NoSourceLeft:
            _log.warning("%s", failed.reason)
        return NotPulled(one.unverified(), tried.but(failed.reason), goal.began)
    _log.info(
        "pulled %s in %.2f s (%.2f GB/s) from %s%s",
        memory.text(one.nbytes),
        seconds,
        one.nbytes / seconds / 1e9,
        ", ".join(
            f"{delivery.endpoint} ({memory.text(delivery.nbytes)} by {delivery.transport})"
            for delivery in one.deliveries
        ),
        tried.after,
    )
    content = learnt(goal.identity, one.content)
    provenance = Provenance(content, dict(one.attributes), dict(one.computed))
    return Pulled(provenance, one.digests, one.digest_kind, seconds, tried)


def _result(failed: Failed | None) -> PullResult:
    if not isinstance(failed, Failed):
        return PullResult.COMPLETE
    if issubclass(failed.kind, NoSourceLeft):
        return PullResult.NO_SOURCE_LEFT
    return PullResult.MISMATCH if issubclass(failed.kind, ManifestError) else PullResult.FAULT
