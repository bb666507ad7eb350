"""Tiny random checkpoints of every architecture and quantisation that vLLM's CPU build runs.

Weights are random, and so are packed integers: what a model says with them does not matter here,
only that every tensor and every scale is another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PretrainedConfig

_COMMON: Final = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}

_GROUP: Final = 32
"""Input columns that share a scale."""

_PER_INT: Final = 8
"""Four-bit values in an int32."""

Tensors = dict[str, torch.Tensor]
Quantise = Callable[[str, torch.Tensor], Tensors]
"""From the name of a linear layer and its weight, shape [out, in], to the tensors instead of it."""


@dataclass(frozen=True)
class Architecture:
    """One kind of checkpoint, and how vLLM is told to run it."""

    config: Callable[[], PretrainedConfig]
    quantise: Quantise | None = None
    quantised: re.Pattern[str] = re.compile(r"_proj$")
    """Linear layers that are, by their names."""
    quantization_config: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's engine."""
    finish: Callable[[Path], None] = lambda folder: None
    """Adds what `save_pretrained` does not write."""

    def make(self, folder: Path) -> Path:
        """Write the checkpoint. Equal bytes each time."""
        torch.manual_seed(7)
        config = self.config()
        make = (
            AutoModelForCausalLM if config.model_type != "xlm-roberta" else transformers.AutoModel
        )
        make.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        if self.quantise is not None:
            _replace_weights(folder, self.quantise, self.quantised)
            _change_config(folder, quantization_config=dict(self.quantization_config))
        self.finish(folder)
        return folder


def _replace_weights(folder: Path, quantise: Quantise, which: re.Pattern[str]) -> None:
    file = folder / "model.safetensors"
    made: Tensors = {}
    for name, tensor in load_file(file).items():
        layer = name.removesuffix(".weight")
        if layer != name and which.search(layer):
            made |= {f"{layer}.{key}": value for key, value in quantise(layer, tensor).items()}
        else:
            made[name] = tensor
    save_file(made, file, {"format": "pt"})


def _change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _packed(rows: int, columns: int) -> torch.Tensor:
    return torch.randint(-(1 << 31), 1 << 31, (rows, columns)).to(torch.int32)


def _scales(*shape: int) -> torch.Tensor:
    return (torch.rand(shape) / 100 + 0.001).to(torch.bfloat16)


def _gptq(_: str, weight: torch.Tensor) -> Tensors:
    out, into = weight.shape
    return {
        "qweight": _packed(into // _PER_INT, out),
        # Zero points of 8, stored less one: symmetric.
        "qzeros": torch.full((into // _GROUP, out // _PER_INT), 0x77777777, dtype=torch.int32),
        "scales": _scales(into // _GROUP, out),
        "g_idx": torch.arange(into, dtype=torch.int32) // _GROUP,
    }


def _gptq_with_bias(layer: str, weight: torch.Tensor) -> Tensors:
    return _gptq(layer, weight) | {"bias": torch.rand(weight.shape[0]).to(torch.bfloat16)}


def _awq(_: str, weight: torch.Tensor) -> Tensors:
    out, into = weight.shape
    return {
        "qweight": _packed(into, out // _PER_INT),
        "qzeros": _packed(into // _GROUP, out // _PER_INT),
        "scales": _scales(into // _GROUP, out),
    }


def _int8(_: str, weight: torch.Tensor) -> Tensors:
    return {
        "weight": torch.randint(-128, 128, weight.shape).to(torch.int8),
        "weight_scale": _scales(weight.shape[0], 1),
    }


def _fp8(_: str, weight: torch.Tensor) -> Tensors:
    return {
        "weight": weight.to(torch.float8_e4m3fn),
        "weight_scale": _scales(weight.shape[0], 1),
    }


def _int4(_: str, weight: torch.Tensor) -> Tensors:
    out, into = weight.shape
    return {
        "weight_packed": _packed(out, into // _PER_INT),
        "weight_scale": _scales(out, into // _GROUP),
        "weight_shape": torch.tensor([out, into]),
    }


def _compressed(
    form: str, weights: Mapping[str, object], inputs: Mapping[str, object] | None
) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }


def _by_channel(kind: str, **more: object) -> dict[str, object]:
    of = {"num_bits": 8, "type": kind, "symmetric": True, "dynamic": False}
    return of | {"strategy": "channel"} | more


_GPTQ: Final = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": _GROUP,
    "desc_act": False,
    "sym": True,
    "lm_head": False,
}
_AWQ: Final = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": _GROUP,
    "zero_point": True,
    "version": "gemm",
}


def _llama(**changes: object) -> Callable[[], PretrainedConfig]:
    return lambda: transformers.LlamaConfig(**(_COMMON | changes))


def _qwen2_moe() -> PretrainedConfig:
    return transformers.Qwen2MoeConfig(
        **_COMMON,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        shared_expert_intermediate_size=128,
    )


def _gptq_experts(folder: Path) -> None:
    """Quantise the experts alone, and give each a bias, which no configuration mentions."""
    _replace_weights(folder, _gptq_with_bias, re.compile(r"\.experts\.\d+\.\w+_proj$"))
    _change_config(
        folder,
        # Attention and the shared expert stay as they are.
        quantization_config=_GPTQ | {"dynamic": {"-:.*(self_attn|shared_expert|gate$).*": {}}},
    )


def _bge_m3(folder: Path) -> None:
    """The two heads, in files of their own that no index names, and the class that loads them."""
    torch.save({"weight": torch.rand(1, 128), "bias": torch.rand(1)}, folder / "sparse_linear.pt")
    torch.save(
        {"weight": torch.rand(128, 128), "bias": torch.rand(128)}, folder / "colbert_linear.pt"
    )
    _change_config(folder, architectures=["BgeM3EmbeddingModel"])


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "llama": Architecture(_llama()),
    "llama-tied": Architecture(_llama(tie_word_embeddings=True)),
    "qwen3": Architecture(lambda: transformers.Qwen3Config(**_COMMON, head_dim=32)),
    "gemma2": Architecture(lambda: transformers.Gemma2Config(**_COMMON, head_dim=32)),
    "gemma3": Architecture(lambda: transformers.Gemma3TextConfig(**_COMMON, head_dim=32)),
    "phi3": Architecture(lambda: transformers.Phi3Config(**_COMMON, pad_token_id=0)),
    "opt": Architecture(
        lambda: transformers.OPTConfig(
            hidden_size=128,
            ffn_dim=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=320,
            max_position_embeddings=256,
            word_embed_proj_dim=128,
        )
    ),
    "mixtral": Architecture(
        lambda: transformers.MixtralConfig(**_COMMON, num_local_experts=4, num_experts_per_tok=2)
    ),
    "qwen2-moe": Architecture(_qwen2_moe),
    "gpt-oss": Architecture(
        lambda: transformers.GptOssConfig(
            **_COMMON, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=32
        )
    ),
    "deepseek-mla": Architecture(
        lambda: transformers.DeepseekV2Config(
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
        )
    ),
    "llama-gptq": Architecture(_llama(), _gptq, quantization_config=_GPTQ),
    "llama-awq": Architecture(_llama(), _awq, quantization_config=_AWQ),
    "llama-w8a8": Architecture(
        _llama(),
        _int8,
        quantization_config=_compressed(
            "int-quantized",
            _by_channel("int"),
            _by_channel("int", strategy="token", dynamic=True),
        ),
    ),
    "llama-fp8": Architecture(
        _llama(),
        _fp8,
        quantization_config=_compressed(
            "float-quantized",
            _by_channel("float"),
            _by_channel("float", strategy="token", dynamic=True),
        ),
    ),
    "llama-w4a16": Architecture(
        _llama(),
        _int4,
        quantization_config=_compressed(
            "pack-quantized",
            _by_channel("int", num_bits=4, strategy="group", group_size=_GROUP),
            None,
        ),
    ),
    "bge-m3": Architecture(
        lambda: transformers.XLMRobertaConfig(
            **{key: value for key, value in _COMMON.items() if key != "num_key_value_heads"},
            type_vocab_size=1,
        ),
        engine={"runner": "pooling"},
        finish=_bge_m3,
    ),
    "gptq-moe": Architecture(_qwen2_moe, finish=_gptq_experts),
}
"""By name: what runs on a CPU, and two that had other weights than storage gives once, without a
word: `gptq-moe`, whose post-processing reads a set that `load_weights` fills, and `bge-m3`, with
weights beside the usual files."""
