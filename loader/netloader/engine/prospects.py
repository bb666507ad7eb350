"""What each rank of `vllm serve MODEL FLAGS` would look for: vLLM is asked, no weights are loaded.

vLLM reads the flags, lays out its groups and builds the model, as it does in a worker. Two things
are left out. The groups are drawn and not connected, so one process plays all ranks, one after the
other. Large tensors lie on torch's meta device, so the model takes next to no memory. Evidence of
content is read from the checkpoint's files when a member makes it worth reading, as in a worker.

For a program of its own: vLLM keeps its groups in a module, and one that serves has them already.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, TextIO

import torch
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.distributed.parallel_state import GroupCoordinator
from vllm.engine.arg_utils import EngineArgs, FlexibleArgumentParser
from vllm.model_executor.model_loader.utils import initialize_model

from netloader.config import Config
from netloader.discovery.prospect import Prospect
from netloader.engine import identify, parallel
from netloader.engine.loader import NetLoader
from netloader.engine.registries import Registries
from netloader.errors import ConfigError, IdentityError, NetloaderError, NotAtHand
from netloader.transport import backends_for
from netmesh import Reach, own_host

_FORMAT: Final = "netloader"

_LARGE: Final = 1 << 16
"""Elements of a tensor that is taken for a weight. Maps of experts have some hundred."""

_aten = torch.ops.aten
_MAKERS: Final = frozenset(
    [_aten.empty, _aten.empty_strided, _aten.zeros, _aten.ones, _aten.full, _aten.rand, _aten.randn]
)
"""What makes tensors of a size that is their first argument."""

_DRAWN: Final = "fake"
"""torch's backend for groups that carry nothing."""


def prospects(model_and_flags: Sequence[str], notes: TextIO) -> list[Prospect]:
    """One for each rank of the target model; data-parallel ranks count where experts may be sharded
    over them.

    Everything that vLLM prints goes to `notes`. Raises `NetloaderError` for flags that vLLM
    refuses, and for a model whose needs cannot be told.
    """
    # vLLM's log handlers keep the stream that stands for standard output when they are made.
    with contextlib.redirect_stdout(notes):
        vllm_config = _configured(model_and_flags, notes)
        loader = NetLoader(vllm_config.load_config)
        return [_prospect(loader, vllm_config, rank) for rank in _ranks(vllm_config)]


def _configured(model_and_flags: Sequence[str], notes: TextIO) -> VllmConfig:
    parser: argparse.ArgumentParser = FlexibleArgumentParser(prog="vllm serve")
    EngineArgs.add_cli_args(parser)
    model, *flags = model_and_flags
    try:
        parsed, others = parser.parse_known_args(
            ["--model", model, "--load-format", _FORMAT, *flags]
        )
    except SystemExit as error:
        raise ConfigError("vLLM flags", " ".join(flags), "vLLM says what is allowed") from error
    if others:
        print(f"not about weights, so left to vllm serve: {' '.join(others)}", file=notes)
    parsed.load_format = _FORMAT
    try:
        return EngineArgs.from_cli_args(parsed).create_engine_config()
    except NetloaderError:
        raise
    except Exception as error:
        # Whatever vLLM raises for flags and models that do not fit is the answer.
        raise ConfigError("vLLM flags", " ".join(model_and_flags), str(error)) from error


def _ranks(vllm_config: VllmConfig) -> Iterator[int]:
    """Global ranks: tensor and pipeline ranks of each data-parallel rank that may differ."""
    layout = vllm_config.parallel_config
    replicas = layout.data_parallel_size if vllm_config.model_config.is_moe else 1
    yield from range(replicas * layout.world_size)


def _prospect(loader: NetLoader, vllm_config: VllmConfig, rank: int) -> Prospect:
    model_config, config = vllm_config.model_config, loader.config
    with _groups(vllm_config, rank), set_current_vllm_config(vllm_config):
        registries = Registries.before(vllm_config)
        try:
            model = _built(vllm_config, model_config)
        finally:
            # The next rank builds the same layers.
            registries.restore()
        names = identify.names_of(model_config, config)
        with torch._C.DisableTorchFunction():
            parts = parallel.built(model, vllm_config, model_config)
        identity = replace(identify.identity_of(vllm_config, model_config, names), built=parts)
        with contextlib.suppress(NotAtHand):
            # Without files and without CONTENT nothing is known, and matching says so.
            wanted = identify.wanted(
                loader.storage_config(), model, model_config, config, identify.host_cache()
            )
            identity = replace(identity, content=wanted.content)
    return Prospect(
        identity,
        tuple(one.name for one in backends_for(_device_type(vllm_config), config.transports)),
        config.chunk_bytes,
        _reach(config),
        config.fabric,
    )


def _device_type(vllm_config: VllmConfig) -> str:
    chosen = vllm_config.load_config.device or vllm_config.device_config.device
    return torch.device(chosen).type


def _reach(config: Config) -> Reach:
    settings = config.mesh_settings
    return Reach.of(f"{own_host(settings)}:0", settings.networks)


def _built(vllm_config: VllmConfig, model_config: ModelConfig) -> nn.Module:
    """The model without memory. Raises `IdentityError`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(model_config.dtype)
    try:
        with torch.device("cpu"), _WithoutWeights():  # type: ignore[no-untyped-call]
            model: nn.Module = initialize_model(vllm_config=vllm_config, model_config=model_config)
            return model
    except Exception as error:
        # Models compute with what they allocate while they are built, each in its own way.
        raise IdentityError(
            f"{model_config.model} cannot be built without memory: {error!r}; ask a worker that "
            "runs: match --like MEMBER"
        ) from error
    finally:
        torch.set_default_dtype(before)


class _WithoutWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Large tensors get no memory. Small ones do, because layers compute with them while they are
    built: which rank has which expert is told by their values."""

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        size = args[0] if args and func.overloadpacket in _MAKERS else None
        if isinstance(size, list | tuple) and math.prod(map(int, size)) >= _LARGE:
            kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)


class _DrawnGroup(GroupCoordinator):
    """A group of vLLM's that knows its ranks and connects nothing."""

    def __init__(
        self,
        group_ranks: list[list[int]],
        local_rank: int,
        torch_distributed_backend: object,
        use_device_communicator: bool = False,
        *more: object,
        **others: object,
    ) -> None:
        self.rank = torch.distributed.get_rank()
        self.ranks = next(ranks for ranks in group_ranks if self.rank in ranks)
        self.world_size = len(self.ranks)
        self.rank_in_group = self.ranks.index(self.rank)
        self.local_rank = local_rank
        self.device_group = self.cpu_group = torch.distributed.group.WORLD
        self.device_communicator = None
        self.mq_broadcaster = None
        self.unique_name = str(others.get("group_name") or "drawn")

    def destroy(self) -> None:
        """Nothing is connected."""


@contextlib.contextmanager
def _groups(vllm_config: VllmConfig, rank: int) -> Iterator[None]:
    """vLLM's groups as `rank` sees them."""
    layout = vllm_config.parallel_config
    one_replica = layout.world_size
    size = one_replica * layout.data_parallel_size
    placed, layout.data_parallel_rank = layout.data_parallel_rank, rank // one_replica
    parallel_state.GroupCoordinator = _DrawnGroup
    torch.distributed.init_process_group(_DRAWN, store=FakeStore(), rank=rank, world_size=size)
    try:
        # Not by `init_distributed_environment`, which asks all ranks which host they are on.
        parallel_state._WORLD = parallel_state.init_world_group(list(range(size)), 0, _DRAWN)
        parallel_state._NODE_COUNT = 1
        with set_current_vllm_config(vllm_config):
            parallel_state.initialize_model_parallel(
                layout.tensor_parallel_size,
                layout.pipeline_parallel_size,
                layout.prefill_context_parallel_size,
                layout.decode_context_parallel_size,
                _DRAWN,
            )
        yield
    finally:
        parallel_state.destroy_model_parallel()
        parallel_state.destroy_distributed_environment()
        parallel_state.GroupCoordinator = GroupCoordinator
        layout.data_parallel_rank = placed
