"""Quantised Llamas in forms that vllm-ascend reads, and what their parameters are in vLLM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from tests.ascend.llama import storage_digests
from tests.ascend.rank import sha256

GROUP: Final = 128
"""Input channels that share a scale of the second level, in W4A8."""

KINDS: Final = {
    **dict.fromkeys(["q_proj", "k_proj", "v_proj", "o_proj"], "W8A8"),
    **dict.fromkeys(["gate_proj", "up_proj"], "W8A8_DYNAMIC"),
    "down_proj": "W4A8_DYNAMIC",
}
"""How the first layer is quantised. The others, embeddings and norms are not."""

_FUSED: Final = {
    "qkv_proj": ["q_proj", "k_proj", "v_proj"],
    "gate_up_proj": ["gate_proj", "up_proj"],
}


def quantise(llama: Path, folder: Path) -> Path:
    """Write a quantised copy of a Llama. The numbers are random, because nobody computes with them.

    Returns `folder`.
    """
    shutil.copytree(llama, folder)
    tensors = load_file(llama / "model.safetensors")
    described = {name: "FLOAT" for name in tensors if name.endswith(".weight")}
    described |= {"version": "1.0.0", "model_quant_type": "W8A8"}
    generator = torch.Generator().manual_seed(5)
    for name in [name for name in tensors if _kind(name)]:
        rows, columns = tensors.pop(name).shape
        prefix, kind = name.removesuffix("weight"), _kind(name)
        for part, tensor in _parts(kind, rows, columns, generator).items():
            tensors[prefix + part] = tensor
            described[prefix + part] = kind
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    description: dict[str, str | int] = {**described, "group_size": GROUP}
    (folder / "quant_model_description.json").write_text(json.dumps(description))
    return folder


def compress(llama: Path, folder: Path) -> Path:
    """Write a copy in the form of LLM Compressor: W8A8 with static scales in attention, and with
    dynamic ones in the rest. Returns `folder`.

    vllm-ascend computes `deq_scale` and drops what it was built as, so a source that keeps nothing
    has these weights only as post-processing left them.
    """
    shutil.copytree(llama, folder)
    tensors = load_file(llama / "model.safetensors")
    for name in [name for name in tensors if ".layers." in name and tensors[name].dim() == 2]:
        wide = tensors.pop(name).float()
        scale = wide.abs().amax(1, keepdim=True) / 127
        tensors[name] = (wide / scale).round().to(torch.int8)
        tensors[f"{name}_scale"] = scale.to(torch.bfloat16)
        if "self_attn" in name:
            tensors[f"{name.removesuffix('weight')}input_scale"] = torch.full(
                (1,), 0.0625, dtype=torch.bfloat16
            )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    weights = eight | {"strategy": "channel", "dynamic": False}
    inputs = {
        "self_attn": eight | {"strategy": "tensor", "dynamic": False},
        "mlp": eight | {"strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            part: {"targets": [f"re:.*{part}.*"], "weights": weights, "input_activations": each}
            for part, each in inputs.items()
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def loaded_digests(folder: Path, llama: Path) -> dict[str, str]:
    """SHA-256 of every parameter's bytes by vLLM's names, before post-processing."""
    plain = storage_digests(llama)
    made = {name: plain[name] for name in plain if not _in_first(name) or "norm" in name}
    tensors = load_file(folder / "model.safetensors")
    return made | {name: sha256(tensor) for name, tensor in _fused(tensors)}


def _fused(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters of the first layer's quantised modules."""
    for name in tensors:
        module, _, part = name.rpartition(".")
        home, _, last = module.rpartition(".")
        if not _in_first(name) or last not in KINDS:
            continue
        whole = next((key for key, value in _FUSED.items() if last in value), last)
        sources = _FUSED.get(whole, [last])
        if last == sources[0]:
            found = [tensors[f"{home}.{source}.{part}"] for source in sources]
            # Of a scale for the whole tensor, vLLM keeps one: they are equal here.
            one = part in ("input_scale", "input_offset")
            yield f"{home}.{whole}.{part}", found[0] if one else torch.cat(found).contiguous()


def _parts(
    kind: str, rows: int, columns: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The tensors of one quantised layer of [rows, columns]."""

    def integers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.randint(-128, 128, shape, generator=generator).to(dtype)

    def scales(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) + 0.5).to(dtype)

    packed = 2 if kind == "W4A8_DYNAMIC" else 1
    parts = {
        "weight": integers(torch.int8, rows // packed, columns),
        "weight_scale": scales(torch.bfloat16, rows, 1),
        "weight_offset": torch.zeros(rows, 1, dtype=torch.bfloat16),
    }
    if kind == "W8A8":
        parts["input_scale"] = torch.full((1,), 0.25, dtype=torch.bfloat16)
        parts["input_offset"] = torch.full((1,), 3, dtype=torch.int8)
        parts["quant_bias"] = integers(torch.int32, rows)
        parts["deq_scale"] = scales(torch.float32, rows)
    if kind == "W4A8_DYNAMIC":
        parts["weight_scale_second"] = scales(torch.bfloat16, rows, columns // GROUP)
        parts["weight_offset_second"] = torch.zeros(rows, columns // GROUP, dtype=torch.bfloat16)
        # Layers that divide their input among ranks have sixteen columns.
        parts["scale_bias"] = scales(torch.float32, rows, 16)
    return parts


def _in_first(name: str) -> bool:
    return name.startswith("model.layers.0.")


def _kind(name: str) -> str:
    return KINDS.get(name.split(".")[-2], "") if _in_first(name) else ""
