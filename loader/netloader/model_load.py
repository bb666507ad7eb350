"""One model on its way into a worker: what is known of it, and each step of its story.

`loader.py` tells the story; this is what happens in each sentence. Every step decides what its
failure costs: a peer, being a source, or, for settings only, the start. None but a bad setting
stops a worker that storage can still serve.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import nn
from tqdm.auto import tqdm

from netloader import attributes, digests, originals
from netloader.advert import Holding
from netloader.arena import arrange, zero_gaps
from netloader.attributes import Scalar
from netloader.config import Config, KeepMode
from netloader.errors import ManifestError, NoSourceLeft
from netloader.identity import Identity, Role
from netloader.originals import Kept
from netloader.poison import LeftoverError, Poison
from netloader.pull import Delivery, Pull
from netloader.report import Report
from netloader.session import Offer
from netloader.source import Source
from netloader.transport import Backend
from netloader.weights import Weights, capture
from netloader.worker import Worker

_log = logging.getLogger(__name__)


class Storage(Protocol):
    """Fills a model the ordinary way."""

    def __call__(self, model: nn.Module) -> None: ...


@dataclass
class ModelLoad:
    """One model being loaded by one worker."""

    worker: Worker
    model_name: str
    """As the operator wrote it; `identity.model` is what peers must share."""
    role: Role
    use_tqdm: bool
    identity: Identity | None = None
    backend: Backend | None = None
    source: Source | None = None
    cannot_share: str = ""
    """Why neither peers are asked nor served; empty while nothing speaks against it."""
    origin: Literal["storage", "peers"] = "storage"
    seconds: float = 0.0
    """Of the step that filled the tensors."""
    nbytes: int = 0
    deliveries: tuple[Delivery, ...] = ()
    skipped: list[str] = field(default_factory=list)
    """Why each source that was not used was not."""
    _attributes: dict[str, Scalar] = field(default_factory=dict)
    _digests: tuple[bytes, ...] = ()
    _kept: Kept | None = None
    _served: Weights | None = None
    _ask_peers: bool = True

    def announce(self, identity: Identity, backend: Backend | None, device_type: str) -> None:
        """Say in the mesh that these weights are being loaded, and listen for those who want them.

        Raises `ConfigError` for a `LISTEN_PORT` that leaves the range.
        """
        self.identity = identity
        self.backend = backend
        self.source = self.worker.listen(self.role)
        if backend is None:
            self.cannot_share = f"no transport for {device_type} devices yet"
        self.worker.announce(
            Holding(
                role=self.role,
                state="loading",
                identity=identity.digest,
                fields=identity.fields(),
                content={str(kind): text for kind, text in identity.content.items()},
                endpoint=self.source.endpoint if self.source is not None else "",
                backend=backend.name if backend is not None else "",
                chunk_bytes=self.worker.config.chunk_bytes,
            )
        )

    def without_peers(self, reason: str) -> None:
        """Fill the next model from storage alone."""
        self.skipped.append(reason)
        self._ask_peers = False

    def fill(self, model: nn.Module, storage: Storage) -> None:
        """Fill `model` from peers, else from storage, and hold on to what peers will be served."""
        weights = self._arrange(model)
        pull = self._pull(model, weights) if self._ask_peers and weights is not None else None
        if self.origin == "storage":
            if weights is not None:
                weights.put_back_all()
            self._from_storage(model, storage, pull)
        try:
            self._keep(model)
        except ManifestError as error:
            self.cannot_share = str(error)
        except Exception as error:  # noqa: BLE001
            # The weights are in place; what fails here only keeps them from others.
            _log.exception("cannot prepare to serve peers")
            self.cannot_share = repr(error)

    def serve(self, model: nn.Module) -> None:
        """After post-processing: become a source, or say why not."""
        try:
            self._offer(model)
        except ManifestError as error:
            self.cannot_share = str(error)
        except Exception as error:  # noqa: BLE001
            # The model is loaded and right; not being a source is no reason to lose it.
            _log.exception("this worker cannot be a source")
            self.cannot_share = repr(error)
        if self.cannot_share:
            _log.warning("not a source of %s: %s", self.model_name, self.cannot_share)
            self.worker.update(
                self.role, state="unavailable", reason=self.cannot_share[:1024], origin=self.origin
            )

    def report(self) -> None:
        """Write the record that `REPORT_PREFIX` asks for."""
        config = self.worker.config
        if config.report_prefix is None:
            return
        served = self._served
        report = Report(
            model=self.identity.model if self.identity is not None else self.model_name,
            role=self.role,
            rank=self.worker.rank,
            origin=self.origin,
            nbytes=self.nbytes,
            seconds=self.seconds,
            endpoint=self.source.endpoint if self.source is not None and served is not None else "",
            deliveries=self.deliveries,
            skipped=tuple(self.skipped),
            tensors=served.sha256() if served is not None and config.report_tensors else {},
        )
        try:
            report.write(config.report_prefix)
        except OSError as error:
            _log.warning("REPORT_PREFIX: cannot write the report: %s", error)

    def _arrange(self, model: nn.Module) -> Weights | None:
        """Lay the empty model out as chunks travel. None when its tensors cannot travel.

        What little it holds must be put back before storage fills it. Raises `LeftoverError`.
        """
        if self.cannot_share or self.identity is None or self.backend is None:
            self.skipped.append(self.cannot_share)
            return None
        try:
            return arrange(model, self.worker.config.chunk_bytes, leave_empty=True)
        except ManifestError as error:
            self.skipped.append(str(error))
            return None
        except Exception as error:
            # Some of what the model held may be lost: it has to be built again.
            _log.exception("cannot lay out the model's tensors")
            self.cannot_share = f"its tensors cannot be laid out: {error!r}"
            raise LeftoverError(self.cannot_share) from error

    def _pull(self, model: nn.Module, weights: Weights) -> Pull | None:
        """Fill `model` from peers as far as they go; `origin` says whether all of it came.

        None when nobody could be asked.
        """
        if self.identity is None or self.backend is None:
            return None
        try:
            candidates, found = self.worker.candidates(self.identity, self.backend.name)
            self.skipped += found
        except Exception as error:  # noqa: BLE001
            # Nothing was received yet, and storage needs no peers.
            _log.exception("looking for peers failed")
            self.skipped.append(repr(error))
            return None
        for reason in self.skipped:
            _log.info("not used: %s", reason)
        if not candidates:
            return None
        with tqdm(
            total=weights.manifest.nbytes,
            unit="B",
            unit_scale=True,
            desc="Pulling weights from peers",
            disable=not self.use_tqdm or self.worker.rank != 0,
        ) as bar:
            config = self.worker.config
            pull = Pull(
                self.identity,
                weights,
                self.backend,
                lambda: self.worker.security,
                replica=self.worker.name,
                timeout_s=config.transfer_timeout_s,
                max_sources=config.max_sources,
                verify=config.verify,
                progress=bar.update,
                on_lie=lambda process: self.worker.accuse(self.role, process),
                on_sources=lambda count: self.worker.update(self.role, pulling=count),
            )
            self._run(pull, self.identity, self.backend, model)
        return pull

    def _run(self, pull: Pull, identity: Identity, backend: Backend, model: nn.Module) -> None:
        """Fetch what the peers have, and say how that went."""
        started = time.monotonic()
        try:
            pull.run(
                lambda: self.worker.find(identity, backend.name),
                self.worker.config.source_timeout_s,
            )
            attributes.apply(model, pull.attributes)
            self.origin = "peers"
        except NoSourceLeft as error:
            _log.warning("%s", error.reason)
            self.skipped += [*map(str, pull.failures), error.reason]
        except ManifestError as error:
            self.skipped.append(str(error))
        except Exception as error:  # noqa: BLE001
            # A fault of ours must cost the peers, not the start: storage is still there.
            _log.exception("pulling failed")
            self.skipped.append(repr(error))
        else:
            self.skipped += map(str, pull.failures)
        self.deliveries = pull.deliveries
        if self.origin == "peers":
            self.seconds = time.monotonic() - started
            self._digests, self._attributes = pull.digests, dict(pull.attributes)
            _log.info(
                "pulled %s in %.2f s (%.2f GB/s) from %s",
                _size(pull.nbytes),
                self.seconds,
                pull.nbytes / self.seconds / 1e9,
                ", ".join(
                    f"{delivery.endpoint} ({_size(delivery.nbytes)})"
                    for delivery in pull.deliveries
                ),
            )

    def _from_storage(self, model: nn.Module, storage: Storage, pull: Pull | None) -> None:
        _log.info(
            "loading %s from storage: %s", self.model_name, "; ".join(self.skipped) or "no source"
        )
        poison = Poison.over(pull.weights, pull.unverified()) if pull is not None else None
        before = attributes.snapshot(model)
        started = time.monotonic()
        storage(model)
        self.seconds = time.monotonic() - started
        if poison is not None:
            poison.check_gone(model)
        try:
            self._attributes = attributes.changes(model, before)
        except ManifestError as error:
            self.cannot_share = self.cannot_share or str(error)

    def _keep(self, model: nn.Module) -> None:
        """Between loading and post-processing: take what peers will be served."""
        weights = capture(model, chunk_bytes=self.worker.config.chunk_bytes)
        self.nbytes = weights.manifest.nbytes
        if self.cannot_share:
            return
        if self.origin == "storage":
            zero_gaps(weights)
            self._digests = digests.of_weights(weights, weights.manifest.chunks())
        config = self.worker.config
        self._kept = originals.keep(weights, _keep_mode(config, weights), config.int8_cache_name)

    def _offer(self, model: nn.Module) -> None:
        kept, self._kept = self._kept, None
        if self.cannot_share or kept is None or self.identity is None or self.backend is None:
            return
        if self.source is None:
            raise ManifestError("its port cannot be listened on")
        held = originals.settle(kept, model)
        changed = originals.changed(held.weights, self._digests)
        if changed:
            raise ManifestError(
                f"post-processing rewrote {len(changed)} tensors in place ({changed[0]} first)"
            )
        self.worker.update(self.role, origin=self.origin)
        self.worker.serve(
            self.role,
            Offer(self.identity, held.weights, self._digests, self._attributes, self.backend),
        )
        self._served = held.weights
        _log.info(
            "ready to serve %s of %s at %s, generation %d; originals kept for peers cost %s",
            _size(held.weights.manifest.nbytes),
            self.identity.model,
            self.source.endpoint,
            self.worker.generation,
            _size(held.extra_bytes),
        )


def _keep_mode(config: Config, weights: Weights) -> KeepMode:
    """vLLM packs linear weights on most CPUs, so a source there has to keep what it loaded."""
    if config.int8_cache is not None:
        return config.int8_cache
    on_cpu = all(data.device.type == "cpu" for data in weights.tensors)
    return KeepMode.DRAM if on_cpu else KeepMode.NO


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"
