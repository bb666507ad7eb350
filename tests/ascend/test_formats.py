"""FRACTAL_NZ: memory holds the bytes of the format, and the conversion back restores a tensor."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
import torch_npu

from tests.ascend.nz import to_fractal

ND, NZ = 2, 29
SHAPES = [(16, 16), (64, 96), (50, 70), (17, 33), (2, 40, 33), (2, 3, 16, 5), (15, 2)]
TYPES = [(torch.float16, np.float16), (torch.bfloat16, np.int16), (torch.float32, np.float32)]
TYPES += [(torch.int8, np.int8)]


@pytest.fixture(autouse=True)
def internal_formats() -> None:
    torch.npu.config.allow_internal_format = True


def stored_bytes(tensor: torch.Tensor) -> bytes:
    torch.npu.synchronize()
    storage = tensor.untyped_storage()
    return ctypes.string_at(storage.data_ptr(), storage.nbytes())


def example(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()) % 119 - 50).reshape(shape).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "same_size"), TYPES, ids=lambda value: str(value))
def test_bytes_are_those_of_the_format(
    shape: tuple[int, ...], dtype: torch.dtype, same_size: type
) -> None:
    host = example(shape, dtype)
    cast = torch_npu.npu_format_cast(host.to("npu:0"), NZ)
    assert int(torch_npu.get_npu_format(cast)) == NZ
    raw = host.view(torch.int16) if dtype == torch.bfloat16 else host
    wanted = to_fractal(raw.numpy().astype(same_size, copy=False))
    assert stored_bytes(cast)[: len(wanted)] == wanted


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [dtype for dtype, _ in TYPES], ids=str)
def test_the_way_back_gives_the_same_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    host = example(shape, dtype)
    cast = torch_npu.npu_format_cast(host.to("npu:0"), NZ)
    back = torch_npu.npu_format_cast(cast, ND)
    # Rows and columns are called ND, or NCHW with four dimensions.
    assert int(torch_npu.get_npu_format(back)) != NZ
    assert torch.equal(back.cpu(), host)
    assert torch.equal(cast.cpu(), host)


def test_the_model_puts_an_element_where_the_formula_says() -> None:
    matrix = np.arange(40 * 50, dtype=np.int16).reshape(40, 50)
    fractal = np.frombuffer(to_fractal(matrix), dtype=np.int16)
    for m, n in ((0, 0), (1, 0), (15, 15), (16, 0), (0, 16), (39, 49)):
        place = ((n // 16 * 3 + m // 16) * 16 + m % 16) * 16 + n % 16
        assert fractal[place] == matrix[m, n]


def test_writing_into_it_by_an_operator_is_refused() -> None:
    cast = torch_npu.npu_format_cast(torch.ones(32, 32, dtype=torch.float16).to("npu:0"), NZ)
    with pytest.raises(NotImplementedError, match="FRACTAL_NZ"):
        cast.mul_(2)
