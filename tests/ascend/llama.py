"""What a Llama's parameters are in vLLM, computed from its files without vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.ascend.rank import sha256

_VOCABULARY_STEP = 64
"""vLLM pads the vocabulary to a multiple of this, with zeros."""


def storage_digests(folder: Path, rank: int = 0, ranks: int = 1) -> dict[str, str]:
    """SHA-256 of every parameter's bytes on one rank, by vLLM's names."""
    files = load_file(folder / "model.safetensors")
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]

    def rows(*names: str) -> torch.Tensor:
        """Each rank has a part of the rows of each, one below the other."""
        return torch.cat([files[f"{name}.weight"].chunk(ranks)[rank] for name in names])

    def columns(name: str) -> torch.Tensor:
        return files[f"{name}.weight"].chunk(ranks, dim=1)[rank]

    def words(name: str) -> torch.Tensor:
        whole = files[f"{name}.weight"]
        missing = -whole.shape[0] % _VOCABULARY_STEP
        return torch.nn.functional.pad(whole, (0, 0, 0, missing)).chunk(ranks)[rank]

    made = {
        "model.embed_tokens": words("model.embed_tokens"),
        "lm_head": words("lm_head"),
        "model.norm": files["model.norm.weight"],
    }
    for number in range(layers):
        layer = f"model.layers.{number}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        made |= {
            f"{attention}.qkv_proj": rows(*(f"{attention}.{part}_proj" for part in "qkv")),
            f"{attention}.o_proj": columns(f"{attention}.o_proj"),
            f"{mlp}.gate_up_proj": rows(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            f"{mlp}.down_proj": columns(f"{mlp}.down_proj"),
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            made[f"{layer}.{norm}"] = files[f"{layer}.{norm}.weight"]
    return {f"{name}.weight": sha256(tensor.contiguous()) for name, tensor in made.items()}
