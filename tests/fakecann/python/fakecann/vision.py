"""Lets torchvision be imported beside torch for CPU.

The package index has it built for CUDA only. Its own library cannot be loaded here, and its import
asks for two operators that come from there: they get a declaration, and no implementation.
"""

from __future__ import annotations

import torch

_library: torch.library.Library | None = None


def declare() -> None:
    """Declare the operators, before anybody imports torchvision."""
    global _library
    if torch.version.cuda is not None:
        return
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
