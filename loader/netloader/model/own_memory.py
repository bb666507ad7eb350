"""Where a model's tensors lie, and which of them another tensor is a part of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from netloader.model.nodes import Name, View


@dataclass(frozen=True)
class OwnMemory:
    """Where a model's tensors lie."""

    starts: list[int]
    ends: list[int]
    names: list[Name]

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> OwnMemory:
        spans: dict[int, tuple[int, Name]] = {}
        for name, tensor in tensors.items():
            try:
                start, end = _span(tensor)
            except (NotImplementedError, RuntimeError):
                continue  # No memory of its own, as with wrappers: the manifest says so.
            if start < end:
                spans.setdefault(start, (end, Name(name)))
        starts = sorted(spans)
        return cls(starts, [spans[at][0] for at in starts], [spans[at][1] for at in starts])

    def find(self, tensor: torch.Tensor) -> View | None:
        """The tensor of the model that `tensor` is a part of."""
        start, end = _span(tensor)
        at = bisect_right(self.starts, start) - 1
        if at < 0 or end > self.ends[at]:
            return None
        return View(self.names[at], start - self.starts[at])


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses from the first element to the end of the last one."""
    start = tensor.data_ptr()
    if not start and tensor.numel():
        raise RuntimeError("no memory of its own")
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in sizes)
    return start, start + (last + 1) * tensor.element_size() if tensor.numel() else start
