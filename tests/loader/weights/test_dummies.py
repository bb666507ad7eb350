from __future__ import annotations

import pytest
import torch
from torch import nn

from netloader.weights import dummies

DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.int64,
    torch.uint8,
    torch.bool,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_floats_are_one_and_all_else_is_zero(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.full((6, 4), 3).to(dtype).t(), requires_grad=False)
    model.register_buffer("table", torch.arange(3))
    dummies.fill(model)
    expected = 1.0 if dtype.is_floating_point else 0.0
    assert model.weight.float().unique().tolist() == [expected]
    assert model.get_buffer("table").tolist() == [0, 1, 2]
