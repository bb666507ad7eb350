"""A checkpoint of very many tensors, on storage that answers slowly."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.fastest import at_most
from tests.loader.checkpoint.evidence_files import Counted
from tests.loader.trees import of, sparse

from netloader.checkpoint.blocks import Reading
from netloader.checkpoint.evidence import sample

FILES = 8
SMALL, LARGE = 8192, 1 << 20
"""Bytes of a tensor: some lie close enough to be read together, others are read one by one."""
ANSWER_S = 0.0005
"""What a read costs on network storage that is near."""


class Slow(Counted):
    """Storage that takes its time for each read."""

    def __init__(self) -> None:
        super().__init__()
        self._never = threading.Event()

    def __call__(self, file: int, size: int, offset: int) -> bytes:
        self._never.wait(ANSWER_S)
        return super().__call__(file, size, offset)


@pytest.mark.parametrize(
    ("count", "tensor_bytes", "bound_s"),
    [
        (20_000, SMALL, 5.0),
        pytest.param(20_000, LARGE, 5.0, marks=pytest.mark.soak),
        pytest.param(90_000, SMALL, 15.0, marks=pytest.mark.soak),
        pytest.param(90_000, LARGE, 15.0, marks=pytest.mark.soak),
    ],
)
def test_reads_are_few_or_wait_together(
    tmp_path: Path, count: int, tensor_bytes: int, bound_s: float
) -> None:
    files = of(
        sparse(
            tmp_path / f"model-{part}.safetensors",
            [f"layers.{number}.experts.{part}.weight" for number in range(count // FILES)],
            tensor_bytes,
        )
        for part in range(FILES)
    )
    slow = Slow()
    with at_most(bound_s):
        assert sample(files, reading=Reading(pread=slow))
    if tensor_bytes == SMALL:
        assert len(slow.reads) < count / 50
    else:
        assert count < len(slow.reads) < 1.1 * count
