"""`--load-format netloader`: the story of one model being loaded.

    identify    which weights does this rank need
    find        SOURCE of CONFIG_FILE, SOURCE, the mesh
    pull        from many sources at once, until every chunk is verified
    else        from storage, as vLLM always does
    apply       vLLM's own post-processing, on either
    serve       become a source for the next replica

Nothing that goes wrong on the way to a peer stops the start: it costs that peer, and when none is
left storage is read. The model is built once, by vLLM; peers and storage fill the same tensors, so
a pull that was given up leaves nothing behind in vLLM's registries (docs/adr/0003, with the one
exception).
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Generator

import torch
from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from netloader.config import Config
from netloader.describe import describe, role_of
from netloader.errors import ConfigError, IdentityError
from netloader.model_load import ModelLoad
from netloader.poison import LeftoverError
from netloader.registries import Registries
from netloader.transport import backend_for
from netloader.worker import get_worker

_log = logging.getLogger(__name__)


class NetLoader(BaseModelLoader):
    """Loads a model's weights from a peer that holds them, or from storage."""

    def __init__(self, load_config: LoadConfig) -> None:
        """Raises `ConfigError` when a setting is unknown or bad: better now than after minutes."""
        super().__init__(load_config)
        self.config = Config.load(load_config.model_loader_extra_config or {}, os.environ)
        self._load: ModelLoad | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        """Fetch nothing: a peer may have the weights. Storage is read when none has."""

    def load_model(
        self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = ""
    ) -> nn.Module:
        """Build the model, fill it from a peer or from storage, and become a source.

        Raises `ConfigError`, and whatever vLLM raises when storage does not have the weights.
        """
        load = ModelLoad(
            get_worker(self.config, _global_rank()),
            model_config.model,
            role_of(model_config),
            self.load_config.use_tqdm_on_load,
        )
        self._identify(load, vllm_config, model_config)
        self._load = load
        registries = Registries.before(vllm_config)
        try:
            # Builds the model, calls `load_weights` below, then post-processes.
            model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        except LeftoverError as error:
            _log.warning("building the model again, from storage alone: %s", error)
            load.without_peers(str(error))
            registries.restore()
            model = super().load_model(vllm_config, model_config, prefix)
        finally:
            self._load = None
        load.serve(model)
        load.report()
        return model

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Fill `model`; called by `load_model`, or by vLLM to load again in place from storage."""

        def storage(model: nn.Module) -> None:
            self._storage().load_weights(model, model_config)

        if self._load is None:
            self._withdraw(model_config)
            storage(model)
        else:
            self._load.fill(model, storage)

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        """The checkpoint's tensors, for vLLM's `reload_weights`."""
        self._withdraw(model_config)
        yield from self._storage().get_all_weights(model_config, model)

    def _withdraw(self, model_config: ModelConfig) -> None:
        """Before the weights that peers are served are written to."""
        worker = get_worker(self.config, _global_rank())
        worker.withdraw(role_of(model_config), "its weights are being reloaded")

    def _identify(
        self, load: ModelLoad, vllm_config: VllmConfig, model_config: ModelConfig
    ) -> None:
        device = torch.device(self.load_config.device or vllm_config.device_config.device)
        try:
            identity = describe(vllm_config, model_config, self.config)
            load.announce(identity, backend_for(device.type), device.type)
        except ConfigError:
            raise
        except IdentityError as error:
            load.cannot_share = str(error)
        except Exception as error:  # noqa: BLE001
            # This vLLM keeps something elsewhere than we look: it can still load from storage.
            _log.exception("cannot tell which weights %s needs", model_config.model)
            load.cannot_share = f"cannot tell which weights it needs: {error!r}"

    def _storage(self) -> DefaultModelLoader:
        """vLLM's loader for files, with this loader's own settings taken out."""
        plain = dataclasses.replace(
            self.load_config, load_format="auto", model_loader_extra_config={}
        )
        return DefaultModelLoader(plain)


def _global_rank() -> int:
    initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if initialised else 0
