"""Which weights does this vLLM worker need? Reads vLLM's configuration into an `Identity`.

Computed before anything is loaded: post-processing rewrites `hf_config.quantization_config`.
"""

from __future__ import annotations

import logging
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import vllm.version
from vllm.config import ModelConfig, VllmConfig
from vllm.config.utils import normalize_value
from vllm.distributed import (
    get_dp_group,
    get_pp_group,
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
)

from netloader.config import Config
from netloader.content import cache_commit, commit_evidence, local_evidence
from netloader.errors import IdentityError
from netloader.identity import Evidence, Identity, Parallel, Role

_log = logging.getLogger(__name__)


def role_of(model_config: ModelConfig) -> Role:
    """vLLM loads the draft of speculative decoding through the same loader."""
    return "draft" if model_config.runner_type == "draft" else "target"


def describe(vllm_config: VllmConfig, model_config: ModelConfig, config: Config) -> Identity:
    """The identity of the weights that `model_config` needs on this rank.

    Raises `IdentityError` when nothing at all is known about the checkpoint's content.
    """
    hf_config = model_config.hf_config
    role = role_of(model_config)
    content = _content(model_config, vllm_config.load_config.download_dir, config)
    if not content:
        raise IdentityError(
            f"nothing is known about the content of {model_config.model}: no weight files at hand "
            "and no resolved commit"
        )
    return Identity(
        # MODEL names the target; a draft keeps the name vLLM knows it by.
        model=(config.model if role == "target" else None) or model_config.model,
        architecture=",".join(getattr(hf_config, "architectures", None) or ()),
        dtype=str(model_config.dtype).removeprefix("torch."),
        quantization=model_config.quantization or "",
        quantization_config=_quantization(model_config),
        config=_config(model_config),
        parallel=_parallel(vllm_config, model_config),
        vllm_version=vllm.version.__version__,
        role=role,
        placement=_placement(vllm_config, model_config),
        content=content,
    )


def _parallel(vllm_config: VllmConfig, model_config: ModelConfig) -> Parallel:
    parallel = vllm_config.parallel_config
    tp_size, tp_rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
    pp = get_pp_group()
    ep_size, ep_rank = 1, 0
    if model_config.is_moe and parallel.enable_expert_parallel:
        dp_size = parallel.data_parallel_size
        dp_rank = get_dp_group().rank_in_group if dp_size > 1 else 0
        pcp_size = parallel.prefill_context_parallel_size
        pcp_rank = _pcp_rank() if pcp_size > 1 else 0
        ep_size = dp_size * pcp_size * tp_size
        ep_rank = (dp_rank * pcp_size + pcp_rank) * tp_size + tp_rank
    return Parallel(
        tp_size=tp_size,
        tp_rank=tp_rank,
        pp_size=pp.world_size,
        pp_rank=pp.rank_in_group,
        ep_size=ep_size,
        ep_rank=ep_rank,
    )


def _pcp_rank() -> int:
    from vllm.distributed import get_pcp_group

    return int(get_pcp_group().rank_in_group)


def _placement(vllm_config: VllmConfig, model_config: ModelConfig) -> str:
    parallel = vllm_config.parallel_config
    if not (model_config.is_moe and parallel.enable_expert_parallel):
        return ""
    redundant = parallel.eplb_config.num_redundant_experts if parallel.enable_eplb else 0
    return f"{parallel.expert_placement_strategy}+{redundant}"


def _content(
    model_config: ModelConfig, download_dir: str | None, config: Config
) -> dict[Evidence, str]:
    full = config.digest == "full"
    if Path(model_config.model).is_dir():
        return local_evidence(model_config.model, full=full)
    snapshot = _cached_snapshot(model_config, download_dir)
    found = local_evidence(str(snapshot), full=full) if snapshot is not None else {}
    if Evidence.COMMIT not in found:
        commit = cache_commit(snapshot) if snapshot is not None else None
        if commit is not None:
            found[Evidence.COMMIT] = commit
        else:
            resolved = getattr(model_config.hf_config, "_commit_hash", None)
            found |= commit_evidence(model_config.model, resolved)
    return found


def _cached_snapshot(model_config: ModelConfig, download_dir: str | None) -> Path | None:
    """Where the Hugging Face cache holds this repository's revision, if it does. Offline."""
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(
            model_config.model,
            "config.json",
            cache_dir=download_dir,
            revision=model_config.revision,
        )
    except ValueError as error:
        # A name that is no repository id (a URL, say).
        _log.debug("%s is not in the Hugging Face cache: %s", model_config.model, error)
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _quantization(model_config: ModelConfig) -> str:
    """Digest of how weights are quantised: by the checkpoint, and by what the operator added."""
    checkpoint = getattr(model_config.hf_config, "quantization_config", None)
    added = getattr(model_config, "quantization_config", None)
    if checkpoint is None and added is None:
        return ""
    return _digest([_plain(checkpoint), normalize_value(added)])


def _config(model_config: ModelConfig) -> str:
    """Digest of the config after `--hf-overrides`, without what says nothing about weights."""
    values = {
        key: value
        for key, value in _plain(model_config.hf_config).items()
        if key not in _NOT_ABOUT_WEIGHTS
    }
    return _digest(values)


_NOT_ABOUT_WEIGHTS = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "quantization_config"}
)
"""Where the config came from; quantisation has a field of its own."""


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def _digest(value: Any) -> str:
    text = orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return blake2b(text, digest_size=16).hexdigest()
