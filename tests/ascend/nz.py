"""FRACTAL_NZ in numpy: an independent model that the emulation's bytes are checked against."""

from __future__ import annotations

import numpy as np

_ROWS = 16
_ACROSS = {1: 32}
"""Columns of a block, by the bytes of an element: 16 unless listed. So says torch_npu, by the shape
that it gives the memory (`torch_npu.get_storage_size`)."""


def to_fractal(matrix: np.ndarray) -> bytes:
    """The bytes of an array [..., m, n] as blocks of 16 rows, padded with zeros."""
    across = _ACROSS.get(matrix.itemsize, 16)
    *batch, m, n = matrix.shape
    padding = [(0, 0)] * len(batch) + [(0, -m % _ROWS), (0, -n % across)]
    padded = np.pad(matrix, padding)
    blocks = padded.reshape(*batch, padded.shape[-2] // _ROWS, _ROWS, -1, across)
    # [..., n1, m1, m0, n0]: columns of blocks, then blocks from top to bottom, then their rows.
    order = [*range(len(batch)), *(len(batch) + axis for axis in (2, 0, 1, 3))]
    return np.ascontiguousarray(blocks.transpose(order)).tobytes()
