"""Build and load tiny models as every rank of many parallel layouts would, in one vLLM process.

A script, run by `test_layouts.py` in a process of its own, because vLLM's state is global. For each
model, layout and rank it prints one line of JSON: what the rank says it holds (`layout.built`), its
manifest, and the SHA-256 of what vLLM's own loader put into it.

The groups are vLLM's own, over torch's fake process group: every rank has its place in them, and
nobody else is there. Building and loading talks to nobody.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, PretrainedConfig
from vllm.config import LoRAConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import destroy_model_parallel, initialize_model_parallel, parallel_state
from vllm.distributed.parallel_state import GroupCoordinator
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.worker.cpu_model_runner import _set_torch_accelerator_to_noop

from netloader.engine import parallel
from netloader.weights.capture import capture
from tests.e2e.forks import fork_instead

_COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
_EXPERTS = 8
"""As many as the largest layout has ranks."""

MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**_COMMON),
    "mixtral": lambda: transformers.MixtralConfig(
        **_COMMON, num_local_experts=_EXPERTS, num_experts_per_tok=2
    ),
    "qwen2-moe": lambda: transformers.Qwen2MoeConfig(
        **_COMMON,
        num_experts=_EXPERTS,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(
        **_COMMON, head_dim=16, num_local_experts=_EXPERTS, num_experts_per_tok=2
    ),
}


@dataclass(frozen=True)
class Layout:
    """One way to spread a model over workers."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    pcp: int = 1
    expert_parallel: bool = False
    placement: str = "linear"
    setting: str = ""
    """One of `SETTINGS`."""

    @property
    def engine(self) -> int:
        """Workers of one engine."""
        return self.tp * self.pp * self.pcp


def _lora(config: VllmConfig) -> None:
    config.lora_config = LoRAConfig(max_lora_rank=8, max_loras=2)


def _length(config: VllmConfig) -> None:
    config.model_config.max_model_len = 32
    config.scheduler_config.max_num_batched_tokens = 64
    config.scheduler_config.max_num_seqs = 2


def _cache(config: VllmConfig) -> None:
    config.cache_config.cache_dtype = "fp8"
    config.cache_config.block_size = 64


def _exchange(config: VllmConfig) -> None:
    config.parallel_config.all2all_backend = "naive"


def _graphs(config: VllmConfig) -> None:
    config.compilation_config.max_cudagraph_capture_size = 16
    config.compilation_config.cudagraph_capture_sizes = [8, 16]


SETTINGS: dict[str, Callable[[VllmConfig], None]] = {
    "lora": _lora,
    "length": _length,
    "kv-cache": _cache,
    "all2all": _exchange,
    "graphs": _graphs,
}
"""What shapes no weights."""


def layouts(name: str) -> Iterator[Layout]:
    """All combinations of 1 and 2 workers a dimension; with experts, with and without EP."""
    # Eight workers are three dimensions at once, which show all that four would.
    workers = 8 if name in ("llama", "mixtral") else 4
    for tp, pp, dp, pcp in itertools.product((1, 2), repeat=4):
        # vLLM cannot load an unquantised GPT-OSS in stages: names of absent layers stay unmapped.
        if tp * pp * dp * pcp > workers or (name == "gpt-oss" and pp > 1):
            continue
        yield Layout(tp, pp, dp, pcp)
        if name != "llama" and tp * dp * pcp > 1:
            yield Layout(tp, pp, dp, pcp, expert_parallel=True)
    for setting in SETTINGS:
        yield Layout(tp=2, dp=2, setting=setting)
    if name == "mixtral":
        yield Layout(tp=2, dp=2, expert_parallel=True, placement="round_robin")


def main() -> None:
    """`layouts.py FOLDER [MODEL ...]`: prints a line for each rank of each layout."""
    if "--forks" in sys.argv:
        sys.argv.remove("--forks")
        fork_instead()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Tiny tensors: a second thread would only wait for a core.
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    names = sys.argv[2:] or list(MODELS)
    for name in names:
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(MODELS[name](), dtype=torch.bfloat16)
        model.save_pretrained(folder / name)
    # As vLLM's own CPU worker does.
    _set_torch_accelerator_to_noop()
    _fake_groups()
    for name in names:
        config = EngineArgs(
            model=str(folder / name),
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype="bfloat16",
            max_model_len=64,
        ).create_engine_config()
        for one in layouts(name):
            for rank in range(one.engine * one.dp):
                row = {"model": name, "layout": asdict(one), "rank": rank}
                print(json.dumps(row | _load(config, one, rank)), flush=True)


def _load(common: VllmConfig, one: Layout, rank: int) -> dict[str, Any]:
    """Build and fill the model as `rank` of the whole layout."""
    config = copy.deepcopy(common)
    sizes = config.parallel_config
    sizes.tensor_parallel_size = one.tp
    sizes.pipeline_parallel_size = one.pp
    sizes.prefill_context_parallel_size = one.pcp
    sizes.data_parallel_size = one.dp
    sizes.enable_expert_parallel = one.expert_parallel
    sizes.expert_placement_strategy = one.placement
    sizes.world_size = one.engine
    sizes.data_parallel_rank = sizes.data_parallel_index = rank // one.engine
    if one.setting:
        SETTINGS[one.setting](config)
    with set_current_vllm_config(config):
        _enter(one, rank)
        with set_default_torch_dtype(torch.bfloat16):
            model = initialize_model(vllm_config=config)
        for parameter in model.parameters():
            # What storage does not fill would be whatever the memory held.
            parameter.data.zero_()
        built = parallel.built(model, config, config.model_config)
        DefaultModelLoader(config.load_config).load_weights(model, config.model_config)
    return {"built": built, **_contents(model)}


def _enter(one: Layout, rank: int) -> None:
    """Take the place of `rank` in the groups that vLLM makes for this layout."""
    size = one.engine * one.dp
    destroy_model_parallel()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    parallel_state._WORLD = _quiet_group([list(range(size))], 0, "fake", group_name="world")
    initialize_model_parallel(one.tp, one.pp, one.pcp, 1, "fake")


def _fake_groups() -> None:
    """Groups that are alone in the process, and start no communication of their own."""
    new_group = torch.distributed.new_group

    def fake_new_group(ranks: list[int] | None = None, *_: object, **__: object) -> object:
        return new_group(ranks, backend="fake")

    torch.distributed.new_group = fake_new_group
    parallel_state.init_model_parallel_group = _quiet_group


def _quiet_group(
    group_ranks: list[list[int]], local_rank: int, backend: str, **options: Any
) -> GroupCoordinator:
    return GroupCoordinator(
        group_ranks=group_ranks,
        local_rank=local_rank,
        torch_distributed_backend=backend,
        use_device_communicator=False,
        group_name=options.get("group_name"),
    )


def _contents(model: nn.Module) -> dict[str, str]:
    weights = capture(model)
    together = hashlib.sha256()
    for name, digest in sorted(weights.sha256().items()):
        together.update(f"{name} {digest}\n".encode())
    return {"manifest": weights.manifest.hash, "bytes": together.hexdigest()}


if __name__ == "__main__":
    main()
