"""The task of a benchmark, which all its processes must know: what to load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from netbench.child import Json
from netbench.models import empty_model
from netbench.shapes import TensorRow, rows_of
from netloader.weights.capture import Weights, capture
from netloader.weights.coalesce import arrange
from netloader.weights.formats import may_share_storages
from netloader.weights.manifest import CHUNK_BYTES

SEED = 1
"""Seed of the weights that sources hold."""


@dataclass(frozen=True)
class Task:
    """A list of tensors, and the chunks in which they travel."""

    shape: str
    nbytes_wanted: int | None = None
    chunk_bytes: int = CHUNK_BYTES
    device: str = "cpu"
    """Where the model is, for torch."""

    @cached_property
    def rows(self) -> tuple[TensorRow, ...]:
        """Raises `ShapeError`."""
        return rows_of(self.shape, self.nbytes_wanted)

    @cached_property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.rows)

    def model(self) -> nn.Module:
        """The empty model."""
        return empty_model(self.rows).to(self.device)

    def lay_out(self, model: nn.Module) -> Weights:
        """The model's weights, laid out as the loader does before it fills them."""
        if may_share_storages(self.device):
            return arrange(model, self.chunk_bytes, leave_empty=True)
        return capture(model, chunk_bytes=self.chunk_bytes)

    def spec(self, **more: object) -> Json:
        """The task as JSON, for a child process."""
        return {"task": [self.shape, self.nbytes_wanted, self.chunk_bytes, self.device], **more}

    @classmethod
    def of_spec(cls, spec: Json) -> Task:
        return cls(*spec["task"])

    def report(self) -> Json:
        """The first entries of every report."""
        return {
            "shape": self.shape,
            "tensors": len(self.rows),
            "bytes": self.nbytes,
            "chunk_bytes": self.chunk_bytes,
        }
