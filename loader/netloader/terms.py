"""Terms that several rooms share: closed sets of values."""

from __future__ import annotations

from enum import StrEnum


class KeepMode(StrEnum):
    """Where a source keeps the originals of tensors that post-processing rewrites."""

    HBM = "hbm"
    """On the model's device. On CPU this is the same as `dram`."""
    DRAM = "dram"
    """In host memory."""
    NO = "no"
    """Nowhere: a model whose originals do not survive post-processing cannot be served."""
