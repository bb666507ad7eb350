"""Filling the built model from a server of vLLM Ascend's own Netloader, before storage is read.

Such a server is named in `SOURCE` and is asked last: after every peer whose bytes can be verified,
and only where `UPSTREAM` allows it. Nothing that it sends proves itself. It may hold another
checkpoint under the same name, and it sends what post-processing has left, which for some models is
not what was loaded. So a sample of this worker's own files is loaded over what came, and nothing
may change by that. This finds other checkpoints, other orders and other layouts. It cannot prove
every byte, so the worker serves no peers afterwards.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from netloader.errors import TransferError
from netloader.model import attributes, buffers
from netloader.replica.observer import Intake
from netloader.replica.probe import Kind, look
from netloader.replica.pull import Delivery
from netloader.replica.upstream import UpstreamRequest, pull_upstream
from netloader.system import memory
from netloader.upstream.admission import is_loopback
from netloader.upstream.group import OrderedCarrier
from netloader.weights import digests
from netloader.weights.capture import Weights, capture
from netloader.weights.manifest import Piece
from netloader.worker.loading.bar import Bar
from netloader.worker.loading.build import Built
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.feeds import Feeds
from netloader.worker.loading.plan import Tried
from netloader.worker.loading.pull import NotPulled

_log = logging.getLogger(__name__)

_OURS = "is a source of Netloader Mesh, and was asked before"


@dataclass(frozen=True, slots=True)
class Taken:
    """A model that an upstream server has filled."""

    provenance: str
    """Why peers are not served these weights."""
    seconds: float
    tried: Tried


def take(built: Built, model: nn.Module, before: NotPulled) -> Taken | NotPulled:
    """Fetch what an upstream server has, if the operator allows it. `before` is what is left of the
    pull from peers."""
    worker = built.request.worker
    endpoints = worker.peers.listed(built.request.role)
    if not worker.config.upstream.pulls or not built.from_peers or not endpoints:
        return before
    carrier = attempt(Step.FIND, built.request.engine.upstream_carrier)
    if isinstance(carrier, Failed):
        return replace(before, tried=before.tried.but(f"upstream: {carrier.reason}"))
    reason = _impossible(built, carrier)
    if carrier is None or reason:
        return replace(before, tried=before.tried.but(f"upstream: {reason}"))
    return _Attempts(built, model, carrier, before).run(endpoints)


def _impossible(built: Built, carrier: OrderedCarrier | None) -> str:
    if carrier is None:
        return "its transfers need an NPU"
    if built.wanted.files is None:
        return "this worker has no weight files to compare with what its servers send"
    return ""


class _Attempts:
    """Asks one server after the other until one has filled the model."""

    def __init__(
        self, built: Built, model: nn.Module, carrier: OrderedCarrier, before: NotPulled
    ) -> None:
        self._built = built
        self._model = model
        self._carrier = carrier
        self._before = before
        self._tried = before.tried
        self._unverified = before.unverified

    def run(self, endpoints: tuple[str, ...]) -> Taken | NotPulled:
        budget_s = self._built.request.worker.config.pull_settings.peer_budget_s
        for endpoint in endpoints:
            started = time.monotonic()
            if started - self._before.began >= budget_s:
                late = f"upstream: source {endpoint}: not asked after {budget_s:g} s (PEER_BUDGET)"
                self._tried = self._tried.but(late)
                break
            wrong = self._barred(endpoint) or self._fill(endpoint) or self._compare()
            seconds = time.monotonic() - started
            if not wrong:
                return self._taken(endpoint, seconds)
            if wrong == _OURS:
                continue
            _log.warning("upstream: source %s: %s", endpoint, wrong)
            self._tried = self._tried.but(f"upstream: source {endpoint}: {wrong}")
        return replace(self._before, unverified=self._unverified, tried=self._tried)

    def _barred(self, endpoint: str) -> str:
        config = self._built.request.worker.config
        host = endpoint.rpartition(":")[0].strip("[]")
        if config.has_key or config.mesh_settings.insecure or is_loopback(host):
            return ""  # With a key, `UPSTREAM_INSECURE` is set: the settings were checked.
        return "without a cluster key, only servers on this host are asked (MESH_INSECURE)"

    def _fill(self, endpoint: str) -> str:
        """Receive from one server. Returns why that failed; empty when it did not."""
        built, config = self._built, self._built.request.worker.config
        handshake = config.pull_settings.handshake
        weights = built.arrangement.weights
        request = UpstreamRequest(
            built.request.worker.position.part,
            built.identity.names.given,
            int(built.identity.built.get("tp_size", 1)),
            int(built.identity.built.get("pp_size", 1)),
            built.request.role == "draft",
            self._carrier,
            config.pull_settings.timeout_s,
            config.pull_settings.rendezvous_timeout_s,
            config.mesh_settings.port_range,
        )

        def receive() -> str:
            # A server serves one replica after the other, and says nothing meanwhile.
            patience_s = max(handshake.greeting_timeout_s, config.pull_settings.source_timeout_s)
            if look(endpoint, handshake.connect_timeout_s, patience_s) is not Kind.UPSTREAM:
                return _OURS
            # Buffers do not travel.
            weights.put_back_all()
            self._spoil(weights)
            bar = Bar(
                "Pulling weights from upstream's Netloader",
                weights.manifest.nbytes,
                shown=built.request.shows_progress,
            )
            feeds = Feeds(built.request.worker.progress, built.request.role)
            came, looked_at = 0, time.monotonic()

            def progress(nbytes: int) -> None:
                nonlocal came, looked_at
                came += nbytes
                now = time.monotonic()
                if now - looked_at >= config.pull_settings.look_s:
                    looked_at = now
                    # It is no member: no generation is known.
                    feeds.looked(Intake(came, {(endpoint, 0): came}))
                    bar.at(came, endpoint)

            try:
                pull_upstream(endpoint, weights, request, progress)
            finally:
                feeds.looked(Intake(came, over=True))
                bar.at(came, endpoint)
                bar.end(endpoint)
            return ""

        def outcome() -> str:
            try:
                return receive()
            except TransferError as error:
                return error.reason

        received = attempt(Step.PULL, outcome)
        return received.reason if isinstance(received, Failed) else received

    def _spoil(self, weights: Weights) -> None:
        """From here on any tensor may hold bytes that nobody has verified."""
        self._unverified = tuple(
            Piece(number, 0, tensor.nbytes)
            for number, tensor in enumerate(weights.manifest.tensors)
            if tensor.nbytes
        )

    def _compare(self) -> str:
        """Load a sample of this worker's files. Returns what that changed; empty for nothing."""
        built, model = self._built, self._model
        weights, files = built.arrangement.weights, built.wanted.files
        assert files is not None, "nobody is asked without files"

        def compare() -> str:
            chunks = weights.manifest.chunks()
            with torch._C.DisableTorchFunction():
                had = attributes.snapshot(model)
            received = digests.of_weights(weights, chunks)
            nbytes = built.request.engine.load_sample(model, files)
            with torch._C.DisableTorchFunction():
                found = attributes.changes(model, had)
                computed = buffers.snapshot(model)
            if (
                capture(model, chunk_bytes=weights.manifest.chunk_bytes).manifest
                != weights.manifest
            ):
                return "its tensors changed while they were compared with this worker's files"
            if found or computed != built.arrangement.buffers:
                return "the checkpoint also fills what upstream does not send"
            for chunk, now in zip(chunks, digests.of_weights(weights, chunks), strict=True):
                if now != received[chunk.id]:
                    name = weights.manifest.tensors[chunk.pieces[0].tensor].name
                    return (
                        f"sent other weights than this worker's files hold ({name} or its "
                        "neighbours): another checkpoint, or weights that post-processing changed"
                    )
            _log.info("compared a sample of %s with this worker's files", memory.text(nbytes))
            return ""

        compared = attempt(Step.PULL, compare)
        return compared.reason if isinstance(compared, Failed) else compared

    def _taken(self, endpoint: str, seconds: float) -> Taken:
        nbytes = self._built.arrangement.weights.manifest.nbytes
        _log.warning(
            "pulled %s in %.2f s from vLLM Ascend's own Netloader at %s: compared by a sample only",
            memory.text(nbytes),
            seconds,
            endpoint,
        )
        delivery = Delivery(endpoint, "upstream", nbytes, seconds)
        tried = replace(self._tried, deliveries=(*self._tried.deliveries, delivery))
        reason = (
            f"its weights came from vLLM Ascend's own Netloader at {endpoint}, and only a sample "
            "of them was compared with this worker's files"
        )
        return Taken(reason, seconds, tried)
