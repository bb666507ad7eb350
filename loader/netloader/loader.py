"""`--load-format netloader`: the story of one model being loaded.

    identify    which weights does this rank need
    find        SOURCE of CONFIG_FILE, SOURCE, the mesh
    pull        from one source after the other, until every chunk is verified
    else        from storage, as vLLM always does
    apply       vLLM's own post-processing, on either
    serve       become a source for the next replica

Nothing that goes wrong on the way to a peer stops the start: it costs that peer, then storage is
read. The model is built once; a pull that was given up leaves nothing behind but tensors that
storage overwrites.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from tqdm.auto import tqdm
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from netloader import attributes, digests, originals
from netloader.advert import Holding
from netloader.attributes import Scalar
from netloader.config import Config, KeepMode
from netloader.describe import describe, role_of
from netloader.errors import IdentityError, ManifestError, TransferError
from netloader.identity import Identity, Role
from netloader.originals import Kept
from netloader.poison import Poison
from netloader.pull import Delivery, Pull
from netloader.report import Report
from netloader.session import Offer
from netloader.source import Source
from netloader.transport import Backend, backend_for
from netloader.weights import Weights, capture
from netloader.worker import Worker, get_worker

_log = logging.getLogger(__name__)


@dataclass
class _Load:
    """One model on its way: what is known of it so far."""

    worker: Worker
    role: Role
    use_tqdm: bool
    identity: Identity | None = None
    backend: Backend | None = None
    source: Source | None = None
    kept: Kept | None = None
    digests: tuple[bytes, ...] = ()
    attributes: dict[str, Scalar] = field(default_factory=dict)
    origin: Literal["storage", "peers"] = "storage"
    nbytes: int = 0
    seconds: float = 0.0
    deliveries: tuple[Delivery, ...] = ()
    skipped: list[str] = field(default_factory=list)
    cannot_serve: str = ""
    """Why this worker will not be a source; empty while nothing speaks against it."""


class NetLoader(BaseModelLoader):
    """Loads a model's weights from a peer that holds them, or from storage."""

    def __init__(self, load_config: LoadConfig) -> None:
        """Raises `ConfigError` when a setting is unknown or bad: better now than after minutes."""
        super().__init__(load_config)
        self.config = Config.load(load_config.model_loader_extra_config or {}, os.environ)
        self._load: _Load | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        """Fetch nothing: a peer may have the weights. Storage is read when none has."""

    def load_model(
        self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = ""
    ) -> nn.Module:
        """Build the model, fill it from a peer or from storage, and become a source."""
        worker = get_worker(self.config, _global_rank())
        load = _Load(worker, role_of(model_config), self.load_config.use_tqdm_on_load)
        self._identify(load, vllm_config, model_config)
        self._load = load
        try:
            model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        finally:
            self._load = None
        _serve(load, model, model_config)
        return model

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Fill `model`; called by `load_model`, or by vLLM to load again in place from storage."""
        load = self._load
        if load is None:
            self._storage().load_weights(model, model_config)
            return
        pull = _pull(load, model)
        if load.origin == "storage":
            self._load_from_storage(load, model, model_config, pull)
        _keep(load, model)

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        """The checkpoint's tensors, for vLLM's `reload_weights`."""
        role = role_of(model_config)
        get_worker(self.config, _global_rank()).withdraw(role, "its weights are being reloaded")
        yield from self._storage().get_all_weights(model_config, model)

    def _identify(self, load: _Load, vllm_config: VllmConfig, model_config: ModelConfig) -> None:
        device = torch.device(self.load_config.device or vllm_config.device_config.device)
        load.backend = backend_for(device.type)
        if load.backend is None:
            load.cannot_serve = f"no transport for {device.type} devices yet"
        try:
            load.identity = describe(vllm_config, model_config, self.config)
        except IdentityError as error:
            load.cannot_serve = str(error)
            return
        load.source = load.worker.listen(load.role)
        if load.source is None:
            load.cannot_serve = "its port cannot be listened on"
        load.worker.announce(
            Holding(
                role=load.role,
                state="loading",
                identity=load.identity.digest,
                fields=load.identity.fields(),
                content={str(kind): text for kind, text in load.identity.content.items()},
                endpoint=load.source.endpoint if load.source is not None else "",
                backend=load.backend.name if load.backend is not None else "",
            )
        )

    def _load_from_storage(
        self, load: _Load, model: nn.Module, model_config: ModelConfig, pull: Pull | None
    ) -> None:
        _log.info("loading %s from storage: %s", model_config.model, _because(load))
        poison = Poison.over(pull.weights, pull.unverified()) if pull is not None else None
        before = attributes.snapshot(model)
        started = time.monotonic()
        self._storage().load_weights(model, model_config)
        load.seconds = time.monotonic() - started
        if poison is not None:
            poison.check_gone(model)
        try:
            load.attributes = attributes.changes(model, before)
        except ManifestError as error:
            load.cannot_serve = str(error)

    def _storage(self) -> DefaultModelLoader:
        """vLLM's loader for files, with this loader's own settings taken out."""
        return DefaultModelLoader(
            dataclasses.replace(self.load_config, load_format="auto", model_loader_extra_config={})
        )


def _pull(load: _Load, model: nn.Module) -> Pull | None:
    """Fill `model` from peers as far as they go; `load.origin` says whether all of it came.

    None when nobody could be asked.
    """
    if load.identity is None or load.backend is None:
        load.skipped.append(load.cannot_serve)
        return None
    try:
        weights = capture(model)
    except ManifestError as error:
        load.skipped.append(str(error))
        return None
    candidates, load.skipped = load.worker.candidates(load.identity, load.backend.name)
    for reason in load.skipped:
        _log.info("not used: %s", reason)
    if not candidates:
        return None
    load.worker.update(load.role, pulling=1)
    with tqdm(
        total=weights.manifest.nbytes,
        unit="B",
        unit_scale=True,
        desc="Pulling weights from peers",
        disable=not load.use_tqdm or load.worker.rank != 0,
    ) as bar:
        pull = Pull(
            load.identity,
            weights,
            load.backend,
            load.worker.security,
            replica=load.worker.name,
            timeout_s=load.worker.config.transfer_timeout_s,
            progress=bar.update,
        )
        started = time.monotonic()
        for candidate in candidates:
            try:
                pull.from_source(candidate)
                attributes.apply(model, pull.attributes)
                load.origin = "peers"
                break
            except (TransferError, ManifestError) as error:
                reason = f"{candidate.found_by}: {error}"
            except Exception as error:  # noqa: BLE001
                # A fault of ours must cost this peer, not the start: storage is still there.
                _log.exception("pulling from %s failed", candidate.endpoint)
                reason = f"{candidate.found_by}: {candidate.endpoint}: {error!r}"
            _log.warning("%s", reason)
            load.skipped.append(reason)
    load.deliveries = tuple(pull.deliveries)
    load.worker.update(load.role, pulling=0)
    if load.origin == "peers":
        load.seconds = time.monotonic() - started
        load.digests = pull.digests
        load.attributes = pull.attributes
        _log.info(
            "pulled %s in %.2f s (%.2f GB/s) from %s",
            _size(pull.nbytes),
            load.seconds,
            pull.nbytes / load.seconds / 1e9,
            ", ".join(delivery.endpoint for delivery in pull.deliveries),
        )
    return pull


def _keep(load: _Load, model: nn.Module) -> None:
    """Between loading and post-processing: take what peers will be served."""
    if load.cannot_serve:
        return
    try:
        weights = capture(model)
    except ManifestError as error:
        load.cannot_serve = str(error)
        return
    load.nbytes = weights.manifest.nbytes
    if load.origin == "storage":
        load.digests = digests.of_weights(weights, weights.manifest.chunks())
    config = load.worker.config
    load.kept = originals.keep(weights, _keep_mode(config, weights), config.int8_cache_name)


def _keep_mode(config: Config, weights: Weights) -> KeepMode:
    """vLLM packs every linear weight on CPU, so a source there has to keep what it loaded."""
    if config.int8_cache is not None:
        return config.int8_cache
    on_cpu = all(data.device.type == "cpu" for data in weights.tensors)
    return KeepMode.DRAM if on_cpu else KeepMode.NO


def _serve(load: _Load, model: nn.Module, model_config: ModelConfig) -> None:
    """After post-processing: become a source, or say why not. Never fails the start."""
    served: Weights | None = None
    try:
        served = _offer(load, model)
    except Exception as error:  # noqa: BLE001
        # The model is loaded and right; not being a source is no reason to lose it.
        _log.exception("this worker cannot be a source")
        load.cannot_serve = f"{error!r}"
    if load.cannot_serve:
        _log.warning("not a source of %s: %s", model_config.model, load.cannot_serve)
        load.worker.update(
            load.role, state="unavailable", reason=load.cannot_serve[:1024], origin=load.origin
        )
    _report(load, model_config, served)


def _offer(load: _Load, model: nn.Module) -> Weights | None:
    kept, load.kept = load.kept, None
    if load.cannot_serve or kept is None:
        return None
    if load.identity is None or load.backend is None or load.source is None:
        return None
    try:
        held = originals.settle(kept, model)
    except ManifestError as error:
        load.cannot_serve = str(error)
        return None
    changed = originals.changed(held.weights, load.digests)
    if changed:
        load.cannot_serve = (
            f"post-processing rewrote {len(changed)} kept tensors in place ({changed[0]} first)"
        )
        return None
    load.worker.update(load.role, origin=load.origin)
    load.worker.serve(
        load.role,
        Offer(load.identity, held.weights, load.digests, load.attributes, load.backend),
    )
    _log.info(
        "ready to serve %s of %s at %s, generation %d; originals kept for peers cost %s",
        _size(held.weights.manifest.nbytes),
        load.identity.model,
        load.source.endpoint,
        load.worker.generation,
        _size(held.extra_bytes),
    )
    return held.weights


def _report(load: _Load, model_config: ModelConfig, served: Weights | None) -> None:
    config = load.worker.config
    if config.report_prefix is None:
        return
    report = Report(
        model=load.identity.model if load.identity is not None else model_config.model,
        role=load.role,
        rank=load.worker.rank,
        origin=load.origin,
        nbytes=load.nbytes,
        seconds=load.seconds,
        endpoint=load.source.endpoint if load.source is not None and served is not None else "",
        deliveries=load.deliveries,
        skipped=tuple(load.skipped),
        tensors=served.sha256() if served is not None and config.report_tensors else {},
    )
    try:
        report.write(config.report_prefix)
    except OSError as error:
        _log.warning("REPORT_PREFIX: cannot write the report: %s", error)


def _because(load: _Load) -> str:
    return "; ".join(load.skipped) or "no source"


def _global_rank() -> int:
    initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if initialised else 0


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"
