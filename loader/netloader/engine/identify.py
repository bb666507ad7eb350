"""Which weights does this vLLM worker need? Reads vLLM's configuration into an `Identity`.

The identity is made before anything is built or loaded, because post-processing rewrites
`hf_config.quantization_config`. `parallel.py` later adds what only the built model knows. `wanted`
adds the content of the checkpoint's files, which is read only when a peer makes it worth knowing.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.config.utils import normalize_value

from netloader.checkpoint import evidence
from netloader.checkpoint import wanted as wanted_of
from netloader.checkpoint.hostcache import HostCache
from netloader.checkpoint.wanted import Files, Wanted
from netloader.config import Config
from netloader.engine import parallel, storage, versions
from netloader.errors import NotAtHand
from netloader.identity import model_config as parts_of
from netloader.identity.identity import Identity, Names, Role
from netloader.system import memory
from netloader.system.memory import Available
from netmesh import user_directory


def role_of(model_config: ModelConfig) -> Role:
    """vLLM loads the draft of speculative decoding through the same loader."""
    return "draft" if model_config.runner_type == "draft" else "target"


def names_of(model_config: ModelConfig, config: Config) -> Names:
    """The names of this model."""
    # MODEL names the target; a draft keeps the name vLLM knows it by.
    chosen = config.model if role_of(model_config) == "target" else None
    return Names(chosen or "", known_as(model_config.model), model_config.model)


def known_as(model: str) -> str:
    """The name that people know: `org/name` for a snapshot in a Hub cache, else the path itself.

    With HF_HUB_OFFLINE vLLM replaces the repository's id by the snapshot's path.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    for place in (folder.absolute(), folder.resolve()):
        commit = evidence.cache_commit(place)
        if commit is not None:
            return commit.rpartition("@")[0]
    return str(folder.absolute())


def identity_of(vllm_config: VllmConfig, model_config: ModelConfig, names: Names) -> Identity:
    """The identity of the weights that `model_config` needs on this rank, as far as it is known
    before the model is built.

    Raises `IdentityError` when the config cannot be compared with a peer's.
    """
    hf_config = model_config.hf_config
    return Identity(
        names=names,
        architecture=",".join(getattr(hf_config, "architectures", None) or ()),
        dtype=str(model_config.dtype).removeprefix("torch."),
        quantization=model_config.quantization or "",
        config=parts_of.parts(hf_config.to_dict(), _added_quantization(model_config)),
        built=parallel.planned(vllm_config, model_config),
        role=role_of(model_config),
    )


def _added_quantization(model_config: ModelConfig) -> object:
    """The quantisation that the operator adds to what the checkpoint says."""
    added = versions.later(model_config, "quantization_config")
    return None if added is None else normalize_value(added)


def wanted(
    load_config: LoadConfig,
    model: nn.Module,
    model_config: ModelConfig,
    config: Config,
    cache: HostCache | None,
) -> Wanted:
    """What the checkpoint of a built model holds, as vLLM would read it.

    Reads only directories so far. Raises `IdentityError` when vLLM cannot be asked which files it
    reads, `NotAtHand` when nothing at all is known about their content.
    """
    files: Files | None = None
    absent = ""
    try:
        files = storage.ask(load_config, model, model_config)
    except NotAtHand as error:
        absent = str(error)
    # CONTENT names the target's weights, as MODEL does.
    demanded = config.content_demanded if role_of(model_config) == "target" else {}
    commit = commit_of(model, model_config, load_config)
    made = wanted_of.want(files, absent, commit, demanded, cache, full=config.digest == "full")
    if made is None:
        raise NotAtHand(
            f"nothing is known about the content of {model_config.model}: {absent}; it lies in no "
            "Hub cache that knows its commit, and CONTENT is not set"
        )
    return made


def commit_of(model: nn.Module, model_config: ModelConfig, load_config: LoadConfig) -> str | None:
    """`org/name@commit` of the snapshot, when this checkpoint is exactly one whole snapshot.

    The Hub's cache gives the commit of this repository; the config may come from another one. A
    model that takes weights from further repositories or revisions has no single commit.
    """
    secondary = getattr(model, "secondary_weights", None) or ()
    here = (model_config.model, model_config.revision)
    if any((source.model_or_path, source.revision) != here for source in secondary):
        return None
    folder = storage.local_folder(
        model_config.model, model_config.revision, load_config.download_dir
    )
    if folder is None:
        return None
    return evidence.cache_commit(folder.absolute()) or evidence.cache_commit(folder.resolve())


def host_cache() -> HostCache:
    """A cache of what this user's workers have read from checkpoints on this host."""
    return HostCache(user_directory("netloader"))


def host_memory(vllm_config: VllmConfig, model_config: ModelConfig) -> tuple[Available | None, int]:
    """The host memory that this worker may still take, and how much of it vLLM needs besides
    weights.

    On accelerators the KV cache lies in device memory.
    """
    if vllm_config.device_config.device_type != "cpu":
        return memory.available(), 0
    cache, layout = vllm_config.cache_config, vllm_config.parallel_config
    sharers = layout.tensor_parallel_size * layout.pipeline_parallel_size
    if cache.kv_cache_memory_bytes is not None:
        return memory.available(sharers=sharers), cache.kv_cache_memory_bytes
    # vLLM takes what is left of its share of the machine, and starts only with room for one
    # request.
    row = 2 * model_config.get_num_kv_heads(layout) * model_config.get_head_size()
    tokens = model_config.get_num_layers(layout) * model_config.max_model_len
    utilization = cache.gpu_memory_utilization
    return (
        memory.available(sharers=sharers, utilization=utilization),
        row * tokens * model_config.dtype.itemsize,
    )
