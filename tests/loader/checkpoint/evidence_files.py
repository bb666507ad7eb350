"""Small checkpoints, and both kinds of evidence that read their tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.loader.trees import Tensors, of, snapshot, write

from netloader.checkpoint.evidence import WeightFile, full, sample

MODEL: Tensors = {"a": bytes(range(256)) * 400, "b": b"small", "empty": b""}
BOTH = pytest.mark.parametrize("evidence", [sample, full])
Of = Callable[[Sequence[WeightFile]], str]


def one(path: Path, tensors: Tensors = MODEL, **metadata: str) -> list[WeightFile]:
    return of([write(path / "model.safetensors", tensors, **metadata)])


def changed(tensors: Tensors, name: str, at: int) -> Tensors:
    data = bytearray(tensors[name])
    data[at] ^= 1
    return {**tensors, name: bytes(data)}


class Counted:
    """`os.pread` that says how often and how much."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __call__(self, file: int, size: int, offset: int) -> bytes:
        self.reads.append(size)
        return os.pread(file, size, offset)


def hub(root: Path, tensors: Tensors = MODEL, **given: str) -> list[WeightFile]:
    return snapshot(root, {"model.safetensors": write(root / "file", tensors)}, **given)
