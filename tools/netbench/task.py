"""What is to be loaded, as every process of a benchmark has to know it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from netbench.child import Json
from netbench.models import empty_model
from netbench.shapes import TensorRow, rows_of
from netloader.weights.capture import Weights
from netloader.weights.coalesce import arrange
from netloader.weights.manifest import CHUNK_BYTES

SEED = 1
"""Of the weights that sources hold."""


@dataclass(frozen=True)
class Task:
    """A list of tensors, and the chunks they travel in."""

    shape: str
    nbytes_wanted: int | None = None
    chunk_bytes: int = CHUNK_BYTES

    @cached_property
    def rows(self) -> tuple[TensorRow, ...]:
        """Raises `ShapeError`."""
        return rows_of(self.shape, self.nbytes_wanted)

    @cached_property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self.rows)

    def model(self) -> nn.Module:
        """The empty model."""
        return empty_model(self.rows)

    def lay_out(self, model: nn.Module) -> Weights:
        """The model's weights, laid out as the loader does it before it fills them."""
        return arrange(model, self.chunk_bytes, leave_empty=True)

    def spec(self, **more: object) -> Json:
        """For a child process."""
        return {"task": [self.shape, self.nbytes_wanted, self.chunk_bytes], **more}

    @classmethod
    def of_spec(cls, spec: Json) -> Task:
        return cls(*spec["task"])

    def report(self) -> Json:
        """What every report begins with."""
        return {
            "shape": self.shape,
            "tensors": len(self.rows),
            "bytes": self.nbytes,
            "chunk_bytes": self.chunk_bytes,
        }
