"""Load tiny models of many architectures in one vLLM process: from storage, then from that source.

A script, run by `test_architectures.py` in a process of its own, because vLLM's state is global.
For each architecture it prints one line of JSON with everything that may differ between a model
that was loaded and one that was pulled: tensors after post-processing, plain attributes of all
modules, and vLLM's registries.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from vllm.config import set_current_vllm_config
from vllm.distributed import (
    destroy_model_parallel,
    init_distributed_environment,
    initialize_model_parallel,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.model_loader import get_model
from vllm.plugins import load_general_plugins
from vllm.v1.worker.cpu_model_runner import _set_torch_accelerator_to_noop

import netloader.worker
from netloader import attributes
from netloader.config import Config
from netloader.poison import LeftoverError, Poison
from netloader.transport.base import Pending, TransportError
from netloader.transport.gloo import GlooGroup
from netloader.worker import Worker, _Process
from tests.e2e.servers import free_port

_COMMON = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}

ARCHITECTURES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**_COMMON),
    "llama-tied": lambda: transformers.LlamaConfig(**_COMMON, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**_COMMON, head_dim=32),
    "gemma2": lambda: transformers.Gemma2Config(**_COMMON, head_dim=32),
    "phi3": lambda: transformers.Phi3Config(**_COMMON, pad_token_id=0),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=128,
        ffn_dim=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=320,
        max_position_embeddings=256,
        word_embed_proj_dim=128,
    ),
    "mixtral": lambda: transformers.MixtralConfig(
        **_COMMON, num_local_experts=4, num_experts_per_tok=2
    ),
    "qwen2-moe": lambda: transformers.Qwen2MoeConfig(
        **_COMMON,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        shared_expert_intermediate_size=128,
    ),
    "deepseek-mla": lambda: transformers.DeepseekV2Config(
        **(_COMMON | {"num_key_value_heads": 4}),
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=64,
        v_head_dim=64,
        q_lora_rank=None,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    ),
}


def main() -> None:
    """`architectures.py FOLDER [NAME ...]`: prints `{"name": ..., ...}` lines."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = Path(sys.argv[1])
    load_general_plugins()
    # As vLLM's own CPU worker does.
    _set_torch_accelerator_to_noop()
    init_distributed_environment(1, 0, f"tcp://127.0.0.1:{free_port()}", 0, "gloo")
    for name in sys.argv[2:] or ARCHITECTURES:
        model_dir = _make(folder / name, ARCHITECTURES[name]())
        print(json.dumps({"name": name, **_compare(model_dir, folder)}), flush=True)


_CHUNK_BYTES = 128 * 1024
"""Tiny models, so tiny chunks: several of each kind, and something to lose half-way."""


def _make(folder: Path, config: PretrainedConfig) -> Path:
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def _compare(model_dir: Path, folder: Path) -> dict[str, Any]:
    stored = _Loaded(model_dir, folder / "stored.", [])
    pulled = _Loaded(model_dir, folder / "pulled.", [stored.endpoint])
    with _broken_after(3):
        fallen = _Loaded(model_dir, folder / "fallen.", [stored.endpoint])
    with _broken_after(3), _leftovers():
        rebuilt = _Loaded(model_dir, folder / "rebuilt.", [stored.endpoint])
    found = {
        "served": bool(stored.endpoint),
        "origins": [one.report["origin"] for one in (stored, pulled, fallen, rebuilt)],
        "fetched_by_fallen": sum(one["nbytes"] for one in fallen.report["deliveries"]),
        "skipped": fallen.report["skipped"],
        "skipped_by_rebuilt": rebuilt.report["skipped"],
        "nbytes": stored.report["nbytes"],
    }
    for label, other in (("pulled", pulled), ("fallen", fallen), ("rebuilt", rebuilt)):
        found[label] = {
            "tensors": _differing(stored.tensors, other.tensors),
            "attributes": _differing(stored.attributes, other.attributes),
            "registries": _differing(stored.registries, other.registries),
        }
    for one in (stored, pulled, fallen, rebuilt):
        one.worker.close()
    return found


class _Loaded:
    """One model, loaded through the plugin by a worker of its own."""

    def __init__(self, model_dir: Path, prefix: Path, sources: list[str]) -> None:
        extra = {
            "MESH": False,
            "REPORT_PREFIX": str(prefix),
            "SOURCE": [{"device_id": 0, "sources": sources}],
            # A source that broke would be asked again.
            "SOURCE_TIMEOUT": 0,
        }
        config = EngineArgs(
            model=str(model_dir),
            load_format="netloader",
            model_loader_extra_config=extra,
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype="bfloat16",
            max_model_len=64,
        ).create_engine_config()
        # Stands for another process: a worker never pulls from itself.
        tiny = Config.load(extra, {}).model_copy(update={"chunk_bytes": _CHUNK_BYTES})
        netloader.worker._current = _Process(os.getpid(), Worker(tiny, 0))
        with set_current_vllm_config(config):
            # Anew for each: vLLM makes the expert-parallel group only for a model with experts.
            destroy_model_parallel()
            initialize_model_parallel(1, 1)
            model = get_model(vllm_config=config)
        current = netloader.worker._current
        assert current is not None
        self.worker = current.worker
        self.report = json.loads(Path(f"{prefix}0.json").read_text())
        self.endpoint = str(self.report["endpoint"])
        self.tensors = _digests(model)
        self.attributes = {
            f"{module}.{key}": repr(value)
            for module, values in attributes.snapshot(model).items()
            for key, value in values.items()
            if isinstance(value, attributes.Scalar)
        }
        compilation = config.compilation_config
        self.registries = {
            "static_forward_context": sorted(compilation.static_forward_context),
            "static_all_moe_layers": list(compilation.static_all_moe_layers),
            "ropes": len(rotary_embedding._ROPE_DICT),
        }
        # Keep the model: its tensors are what the worker serves.
        self.model = model


def _digests(model: nn.Module) -> dict[str, str]:
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {
        name: hashlib.sha256(
            tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        ).hexdigest()
        for name, tensor in tensors
        if tensor.numel()
    }


def _differing(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


@contextmanager
def _leftovers() -> Iterator[None]:
    """Let the check after the next storage load find a tensor that storage did not fill."""
    check = Poison.check_gone

    def find_some(self: Poison, model: nn.Module) -> None:
        Poison.check_gone = check  # type: ignore[method-assign]
        raise LeftoverError("found on purpose")

    Poison.check_gone = find_some  # type: ignore[method-assign]
    try:
        yield
    finally:
        Poison.check_gone = check  # type: ignore[method-assign]


@contextmanager
def _broken_after(sends: int) -> Iterator[None]:
    """Break every process group whose sender starts one more chunk after `sends` in all."""
    original = GlooGroup.send
    left = itertools.count(sends, -1)

    def send(group: GlooGroup, data: torch.Tensor, tag: int) -> Pending:
        if next(left) <= 0:
            raise TransportError("broken on purpose")
        return original(group, data, tag)

    GlooGroup.send = send  # type: ignore[method-assign]
    try:
        yield
    finally:
        GlooGroup.send = original  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
