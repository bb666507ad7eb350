"""`--load-format netloader`: the story of one model being loaded.

    plan        which weights does this rank need, as far as the config tells: say so in the mesh
    build       vLLM builds the model, which tells the rest
    fill        from many peers at once, until every chunk is verified; else from storage
    apply       vLLM's own post-processing, on either
    finish      weights that peers have only as that leaves them take the place of dummies
    serve       become a source for the next replica

No failure of a peer stops the start: the loader gives up that peer, and reads storage when no peer
is left. vLLM builds the model once. Peers and storage fill the same tensors, so an abandoned pull
leaves nothing behind in vLLM's registries (docs/adr/0003 has the one exception).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Generator, Iterator, Mapping
from typing import NoReturn

import torch
from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor import model_loader
from vllm.model_executor.model_loader import get_model_cls, weight_utils
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from netloader.checkpoint import opened
from netloader.checkpoint.hostcache import HostCache
from netloader.checkpoint.wanted import Files, Wanted
from netloader.config import Config, variables
from netloader.engine import identify, parallel, runtime, sample, versions
from netloader.engine.registries import Registries
from netloader.engine.storage import StorageLoader
from netloader.errors import ConfigError, IdentityError
from netloader.identity.identity import Fields, Identity
from netloader.system import affinity, heap
from netloader.system.memory import Available
from netloader.upstream.group import OrderedCarrier, carrier_for
from netloader.weights.poison import LeftoverError
from netloader.worker.loading.adopt import Prepared, spoilt
from netloader.worker.loading.build import build
from netloader.worker.loading.fill import Filled, fill
from netloader.worker.loading.finish import Complete, finish, made_elsewhere
from netloader.worker.loading.plan import BuildAgain, Planned, Unshared, plan
from netloader.worker.loading.request import LoadRequest
from netloader.worker.loading.serve import serve
from netloader.worker.process import Worker
from netloader.worker.workers import WORKERS

_log = logging.getLogger(__name__)

_NAME = "netloader"

_SOME_VALUES: tuple[object, ...] = (True, 1, None, "", {})
"""At least one of them is valid, whatever type of value a setting takes."""


class NetLoader(BaseModelLoader):
    """Loads a model's weights from a peer that holds them, or from storage."""

    def __init__(self, load_config: LoadConfig) -> None:
        """Raises `ConfigError` when a setting is unknown or bad: better now than after minutes.

        Errors that vLLM's storage loader raises about its own settings pass through unchanged.
        """
        super().__init__(load_config)
        self.config = Config.load(
            load_config.model_loader_extra_config or {}, os.environ, self._is_for_storage
        )
        _warn_of_variables()
        if self._storage_class(self.config.storage_format) is StorageLoader:
            self._storage()
        self._steps: _Steps | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        """Fetch nothing: a peer may have the weights. Storage is read when none has."""

    def load_model(
        self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = ""
    ) -> nn.Module:
        """Build the model, fill it from a peer or from storage, and become a source.

        Raises `ConfigError`, `NothingToLoadError` when neither peers nor storage have the weights,
        and whatever vLLM raises when storage cannot be read.
        """
        role = identify.role_of(model_config)
        worker = WORKERS.claim(self.config, parallel.position(vllm_config), role)
        try:
            model = self._load(worker, vllm_config, model_config, prefix)
        except BaseException:
            WORKERS.release(worker, role)
            raise
        WORKERS.follow(worker, role, model)
        return model

    def _load(
        self, worker: Worker, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str
    ) -> nn.Module:
        storage = self._storage()
        files = opened.Opened()
        planned = plan(
            LoadRequest(
                worker,
                _VllmModel(self, vllm_config, model_config, storage, files),
                identify.names_of(model_config, self.config),
                identify.role_of(model_config),
                weight_utils.enable_tqdm(self.load_config.use_tqdm_on_load),
            )
        )
        if type(storage).load_model is not BaseModelLoader.load_model:
            # This loader makes models in its own way, without a moment in which peers could fill
            # them.
            model: nn.Module = storage.load_model(vllm_config, model_config, prefix)
            reason = f"STORAGE_FORMAT {self.config.storage_format} builds the model itself"
            serve(made_elsewhere(planned, reason), model)
            return model
        with opened.watching(files), heap.only_new_garbage():
            model, complete = self._build(planned, vllm_config, model_config, prefix)
        serve(complete, model)
        return model

    def _build(
        self,
        planned: Planned | Unshared,
        vllm_config: VllmConfig,
        model_config: ModelConfig,
        prefix: str,
    ) -> tuple[nn.Module, Complete]:
        """What vLLM does with any loader: build, fill (`load_weights` below), post-process."""
        self._steps = steps = _Steps(planned)
        registries = Registries.before(vllm_config)
        try:
            with contextlib.suppress(LeftoverError):
                return self._build_once(steps, vllm_config, model_config, prefix)
            # Outside the handler: the error refers to the first model, and memory may not hold two.
            registries.restore()
            return self._build_once(steps, vllm_config, model_config, prefix)
        finally:
            self._steps = None

    def _build_once(
        self, steps: _Steps, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str
    ) -> tuple[nn.Module, Complete]:
        """Raises `LeftoverError` when the model must be built again."""
        with steps.post_processing():
            model = super().load_model(vllm_config, model_config, prefix)
        return model, steps.finish(model)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Fill `model`. Called by `load_model`, or by vLLM to reload in place from storage."""
        if self._steps is not None:
            self._steps.fill(model)
            return
        with _reloading(model, model_config):
            self._storage().load_weights(model, model_config)

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        """The checkpoint's tensors, for vLLM's `reload_weights`."""
        with _reloading(model, model_config):
            yield from self._storage().get_all_weights(model_config, model)

    def storage_config(self) -> LoadConfig:
        """The configuration of vLLM's storage loader: the operator's settings without ours."""
        return dataclasses.replace(
            self.load_config,
            load_format=self.config.storage_format,
            model_loader_extra_config=self.config.storage_extra_config,
        )

    def _storage(self) -> BaseModelLoader:
        """vLLM's loader for files. Raises that loader's own errors about its settings."""
        return self._storage_class(self.config.storage_format)(self.storage_config())

    def _storage_class(self, load_format: str) -> type[BaseModelLoader]:
        formats: Mapping[str, type[BaseModelLoader]] = model_loader._LOAD_FORMAT_TO_MODEL_LOADER
        found = formats.get(load_format) if load_format != _NAME else None
        if found is None:
            known = ", ".join(sorted(formats.keys() - {_NAME}))
            raise ConfigError("STORAGE_FORMAT", load_format, f"one of {known}")
        return StorageLoader if found is DefaultModelLoader else found

    def _is_for_storage(self, key: str) -> bool:
        """Whether vLLM's storage loader has a setting of this name. The loader itself is asked: it
        refuses unknown names, whatever the value."""
        extra = self.load_config.model_loader_extra_config
        load_format = os.environ.get("NETLOADER_STORAGE_FORMAT") or "auto"
        if isinstance(extra, Mapping):
            load_format = str(extra.get("STORAGE_FORMAT", load_format))
        made = self._storage_class(load_format)
        for value in _SOME_VALUES:
            try:
                made(
                    dataclasses.replace(
                        self.load_config,
                        load_format=load_format,
                        model_loader_extra_config={key: value},
                    )
                )
            except (ValueError, TypeError):
                continue
            return True
        return False


class _Steps:
    """Hands the value of one step to the next through vLLM's `load_model`, which calls
    `load_weights` halfway and does not return its result."""

    def __init__(self, planned: Planned | Unshared) -> None:
        self._planned = planned
        self._filled: Filled | Prepared | None = None
        """None until `load_weights` was called."""

    def fill(self, model: nn.Module) -> None:
        """Raises `LeftoverError` when the model must be built again; call `fill` once more then."""
        built = build(self._planned, model)
        filled = built if isinstance(built, BuildAgain) else fill(built, model)
        if isinstance(filled, BuildAgain):
            self._again(filled)
        self._filled = filled

    @contextlib.contextmanager
    def post_processing(self) -> Iterator[None]:
        """Covers all that vLLM does. If it fails after `fill` has left dummies, raises
        `LeftoverError`."""
        try:
            yield
        except Exception as error:
            if isinstance(error, LeftoverError) or not isinstance(self._filled, Prepared):
                raise
            _log.info("vLLM cannot post-process dummies", exc_info=True)
            again = spoilt(self._filled, error)
        else:
            return
        self._again(again)

    def finish(self, model: nn.Module) -> Complete:
        """After post-processing. Raises `LeftoverError` as `fill` does."""
        assert self._filled is not None, "vLLM has loaded a model without calling load_weights"
        complete = finish(self._filled, model)
        if isinstance(complete, BuildAgain):
            self._again(complete)
        return complete

    def _again(self, step: BuildAgain) -> NoReturn:
        _log.warning("building the model again, from storage alone: %s", step.reason)
        self._planned, self._filled = step.plan, None
        raise LeftoverError(step.reason)


@functools.cache
def _warn_of_variables() -> None:
    """Once: vLLM makes a loader more than once in a process."""
    for line in variables.told(os.environ, (versions.ANY_VLLM, affinity.ENVIRONMENT)):
        _log.warning("%s", line)


@dataclasses.dataclass(frozen=True)
class _VllmModel:
    """vLLM's side of one load (`EngineModel`)."""

    loader: NetLoader
    vllm_config: VllmConfig
    model_config: ModelConfig
    storage: BaseModelLoader
    files: opened.Opened

    def identity(self) -> Identity:
        return identify.identity_of(
            self.vllm_config,
            self.model_config,
            identify.names_of(self.model_config, self.loader.config),
        )

    def device_type(self) -> str:
        chosen = self.loader.load_config.device or self.vllm_config.device_config.device
        return torch.device(chosen).type

    def built_parts(self, model: nn.Module) -> Fields:
        return parallel.built(model, self.vllm_config, self.model_config)

    def processed_parts(self, model: nn.Module) -> Fields:
        return runtime.parts(model, self.vllm_config, self.device_type())

    def wanted(self, model: nn.Module) -> Wanted:
        if not isinstance(self.storage, StorageLoader):
            raise IdentityError(
                f"STORAGE_FORMAT {self.loader.config.storage_format} does not say which files it "
                "reads"
            )
        return identify.wanted(
            self.loader.storage_config(),
            model,
            self.model_config,
            self.loader.config,
            self.cache,
        )

    def wanted_by_class(self) -> Wanted:
        if not isinstance(self.storage, StorageLoader):
            raise IdentityError("nobody says which files storage reads")
        return identify.wanted(
            self.loader.storage_config(),
            get_model_cls(self.model_config),
            self.model_config,
            self.loader.config,
            self.cache,
        )

    def load_from_storage(self, model: nn.Module) -> None:
        self.storage.load_weights(model, self.model_config)

    def share_read(self) -> float:
        return self.storage.share_read if isinstance(self.storage, StorageLoader) else 0.0

    def upstream_carrier(self) -> OrderedCarrier | None:
        return carrier_for(self.device_type())

    def load_sample(self, model: nn.Module, files: Files) -> int:
        return sample.load_sample(model, files)

    def files_read(self) -> Files | None:
        return self.storage.read if isinstance(self.storage, StorageLoader) else None

    def commit(self, model: nn.Module) -> str | None:
        return identify.commit_of(model, self.model_config, self.loader.storage_config())

    def opened_beyond(self, covered: Files | None) -> list[str]:
        paths = covered.paths if covered is not None else frozenset()
        folders = covered.folders if covered is not None else frozenset()
        return [str(path) for path in self.files.beyond(paths, folders)]

    def host_memory(self) -> tuple[Available | None, int]:
        return identify.host_memory(self.vllm_config, self.model_config)

    @property
    def cache(self) -> HostCache:
        return identify.host_cache()


@contextlib.contextmanager
def _reloading(model: nn.Module, model_config: ModelConfig) -> Iterator[None]:
    """Covers the time in which the weights that peers are served are overwritten."""
    worker = WORKERS.worker_of(model)
    if worker is None:  # Another loader has made this model: nobody is served its weights.
        yield
        return
    role = identify.role_of(model_config)
    worker.sources.withdraw(role, "its weights are being reloaded")
    try:
        yield
    except Exception as error:
        # For good: nobody knows what the model holds now.
        worker.sources.withdraw(role, f"its weights could not be reloaded: {error}")
        raise
    worker.sources.resume(role, model_config.model)
