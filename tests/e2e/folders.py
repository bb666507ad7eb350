"""Copies of checkpoints that differ in a file, a setting or the way they are cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"


def copied(model: Path, to: Path, *, without: str = "") -> Path:
    """A copy of a checkpoint, without the files of one pattern."""
    shutil.copytree(model, to, ignore=shutil.ignore_patterns(without) if without else None)
    return to


def configured(model: Path, to: Path, **changes: object) -> Path:
    """A copy with changes in its config."""
    copied(model, to)
    path = to / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return to


def tensors_of(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def sharded(model: Path, to: Path, files: int) -> Path:
    """A copy whose tensors are spread over several files, with an index."""
    copied(model, to, without="*.safetensors")
    tensors = tensors_of(model)
    where = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[number::files]}
        save_file(part, to / name, metadata={"format": "pt"})
        where |= dict.fromkeys(part, name)
    (to / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return to


def consolidated(model: Path, weights: Path) -> Path:
    """Put a consolidated file with the weights of another checkpoint beside those of `model`."""
    shutil.copy(weights / "model.safetensors", model / "consolidated.safetensors")
    return model
