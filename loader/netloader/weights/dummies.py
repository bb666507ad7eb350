"""Harmless values for a model that is post-processed before its weights come.

Post-processing divides by scales, indexes by integers and looks for values below zero, which mean
"not in the checkpoint". Ones and zeros survive all of this, unlike what lay in the memory before.
"""

from __future__ import annotations

import torch
from torch import nn

from netloader.weights.formats import flat_bytes


def fill(model: nn.Module) -> None:
    """Fill every parameter of `model`: floats with 1, all others with 0. Buffers stay."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                flat_bytes(parameter).zero_()
            elif parameter.element_size() > 1:
                parameter.fill_(1)
            else:
                # Not every device computes with numbers of 8 bits.
                one = torch.ones((), dtype=torch.float32, device="cpu").to(parameter.dtype)
                flat_bytes(parameter).fill_(int(one.view(torch.uint8)))
