"""Where this worker stands in the parallel layout of its model, in parts that peers must share.

`planned` reads vLLM's groups before a model is built. `built` adds what the built model says, and
its result decides. A part that only one of two workers has counts as different.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

import vllm.version
from torch import nn
from torch.distributed import ProcessGroup
from vllm.config import ModelConfig, VllmConfig
from vllm.distributed import parallel_state
from vllm.distributed.parallel_state import GroupCoordinator

from netloader.engine import versions
from netloader.errors import IdentityError
from netloader.model.shards import shards
from netloader.worker.position import EnginePlace, Position, Rank

_GROUPS: Final = {
    "dp": "get_dp_group",
    "pcp": "get_pcp_group",
    "dcp": "get_dcp_group",
    "ep": "get_ep_group",
    "etp": "get_etp_group",
    "edp": "get_engram_dp_group",
}
"""vLLM's groups beyond tensor and pipeline parallelism. Not every version has each of them."""

_OVER_EXPERTS: Final = frozenset({"dp", "pcp"})
"""Groups that shard experts, with and without expert parallelism."""


def position(vllm_config: VllmConfig) -> Position:
    """Which of the deployment's workers this process is."""
    parallel, world = vllm_config.parallel_config, _world()
    if world is None:
        return Position()
    return Position.of(
        Rank(world.rank, world.local_rank),
        EnginePlace(
            parallel.data_parallel_index,
            parallel.data_parallel_rank_local or 0,
            parallel.world_size,
            # vLLM sets it to 1 for each engine of a dense model.
            shares_world=parallel.data_parallel_size > 1,
        ),
    )


def planned(vllm_config: VllmConfig, model_config: ModelConfig) -> dict[str, str | int]:
    """Ranks and sizes in vLLM's groups: `tp_size`, `tp_rank`, and likewise pp and ep.

    A worker knows these before its model is built. They do not suffice to share weights: see
    `built`.
    """
    tp, pp = parallel_state.get_tp_group(), parallel_state.get_pp_group()
    ep = _group("ep") if _has_expert_parallelism(vllm_config, model_config) else None
    return {
        "tp_size": tp.world_size,
        "tp_rank": tp.rank_in_group,
        "pp_size": pp.world_size,
        "pp_rank": pp.rank_in_group,
        "ep_size": ep.world_size if ep is not None else 1,
        "ep_rank": ep.rank_in_group if ep is not None else 0,
    }


def built(
    model: nn.Module, vllm_config: VllmConfig, model_config: ModelConfig
) -> dict[str, str | int]:
    """What two workers must agree on, apart from content and configuration, to share weights.

    `planned`, and: `shards` and `shard.CLASS` of the built modules; `code.PACKAGE`, versions of the
    packages that define them; `byte_order`; for a model with experts, how they are placed; and rank
    and size in each further group over which this model may be sharded. Those are the groups that
    its modules refer to or know a rank in, and for experts data and prefill-context parallelism.
    Data-parallel ranks of a dense model have equal parts.

    Call `built` when `model` is built and still empty. Raises `IdentityError` when an expert map
    given by file cannot be read.
    """
    read = shards(model)
    parts = planned(vllm_config, model_config)
    parts |= {"shards": read.digest, "byte_order": sys.byteorder}
    parts |= {f"shard.{name}": words for name, words in read.parts.items()}
    parts |= {f"code.{name}": version for name, version in _code(model).items()}
    names = set(read.groups | _referred(model))
    if model_config.is_moe or "ep" in names:
        names |= _OVER_EXPERTS
        parts |= _placement(vllm_config, model_config)
    names.update(_engram())
    for name in sorted(names & _GROUPS.keys() - {"ep"}):
        group = _group(name)
        parts[f"{name}_size"] = group.world_size if group is not None else 1
        parts[f"{name}_rank"] = group.rank_in_group if group is not None else 0
    return parts


def _has_expert_parallelism(vllm_config: VllmConfig, model_config: ModelConfig) -> bool:
    return bool(model_config.is_moe and vllm_config.parallel_config.enable_expert_parallel)


def _group(name: str) -> GroupCoordinator | None:
    """None when this vLLM has no such group or did not make it."""
    get = versions.later(parallel_state, _GROUPS[name])
    try:
        return get() if callable(get) else None
    except AssertionError:
        # vLLM raises this for a group that was not made, such as EP for dense models.
        return None


def _engram() -> Iterator[str]:
    """Groups beside TP that exist only for models that shard their embedding tables over them."""
    if _group("edp") is not None:
        yield "edp"
    if _group("etp") is not None and _group("etp") is not parallel_state.get_tp_group():
        yield "etp"


def _referred(model: nn.Module) -> set[str]:
    """Groups that modules hold a reference to; all groups when a module holds an unknown one."""
    shared = parallel_state.get_tp_group(), parallel_state.get_pp_group()
    ordinary = {id(part) for group in (*shared, _world()) for part in _parts(group)}
    known = {id(part): name for name in _GROUPS for part in _parts(_group(name))}
    found: set[str] = set()
    # Each type is looked at once: a model has tens of thousands of attributes of some fifty types.
    types: dict[type, bool] = {}
    for module in model.modules():
        for value in vars(module).values():
            kind = type(value)
            if kind not in types:
                types[kind] = issubclass(kind, (GroupCoordinator, ProcessGroup))
            if types[kind] and id(value) not in ordinary:
                found |= {known[id(value)]} if id(value) in known else set(_GROUPS)
    return found


def _world() -> GroupCoordinator | None:
    try:
        return parallel_state.get_world_group()
    except AssertionError:
        return None


def _parts(group: GroupCoordinator | None) -> tuple[object, ...]:
    """A group, and the torch groups in it."""
    if group is None:
        return ()
    return tuple(
        part
        for part in (group, *(getattr(group, name, None) for name in ("device_group", "cpu_group")))
        if part is not None
    )


def _placement(vllm_config: VllmConfig, model_config: ModelConfig) -> dict[str, str | int]:
    """Which experts land on which rank, as far as the configuration chooses."""
    parallel = vllm_config.parallel_config
    if not _has_expert_parallelism(vllm_config, model_config):
        return {"expert_placement": "none", "redundant_experts": 0, "expert_map_file": "none"}
    redundant = parallel.eplb_config.num_redundant_experts if parallel.enable_eplb else 0
    return {
        "expert_placement": str(parallel.expert_placement_strategy),
        "redundant_experts": redundant,
        "expert_map_file": expert_map_file(vllm_config.additional_config),
    }


def expert_map_file(additional_config: object) -> str:
    """Digest of the file that vLLM Ascend's `additional_config` takes an expert map from.

    `none` when it names no file. Raises `IdentityError` when the file cannot be read.
    """
    if not isinstance(additional_config, Mapping):
        return "none"
    # Older versions have the map at the top level.
    inner = additional_config.get("eplb_config")
    path = inner.get("expert_map_path") if isinstance(inner, Mapping) else None
    path = path or additional_config.get("expert_map_path")
    if not path:
        return "none"
    try:
        return blake2b(Path(str(path)).read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise IdentityError(f"expert_map_path: cannot read {path}: {error}") from error


def _code(model: nn.Module) -> dict[str, str]:
    """Versions of all packages that define classes of `model`: vLLM's, and every other."""
    packages = {
        base.__module__.partition(".")[0]
        for kind in {type(module) for module in model.modules()}
        for base in kind.__mro__
    }
    versions = {"vllm": vllm.version.__version__}
    for package in sorted(packages - {"torch", "vllm"} - sys.stdlib_module_names):
        versions[package] = _version(package)
    return versions


@lru_cache(maxsize=256)
def _version(package: str) -> str:
    """Version of the distribution that provides a top-level package; `unknown` where none does."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # Its distribution has another name. This comes last, because it reads the file list of
        # every distribution.
        names = importlib.metadata.packages_distributions().get(package, ())
    return importlib.metadata.version(names[0]) if names else "unknown"
