"""What is told of the cost of originals, against what the kernel counts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.fastest import HANG_S

MEGABYTES = (200, 24)
"""Of models whose memory is measured: several chunks, and all in one chunk."""


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, int], tuple[int, int]]:
    """By way and megabytes: a process's anonymous memory at the end, and the cost it told."""
    cases = [(way, size) for way in ("auto", "dram", "no") for size in MEGABYTES]
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    printed = subprocess.run(
        [
            *(sys.executable, "-m", "tests.loader.originals_process"),
            *(f"{way}:{size}" for way, size in cases),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=4 * HANG_S,
    ).stdout.splitlines()
    rows = (tuple(map(int, line.split())) for line in printed)
    return {case: (memory, cost) for case, (memory, cost) in zip(cases, rows, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("size", MEGABYTES)
class TestResidentMemory:
    """Against what the kernel counts."""

    def test_what_is_told_is_what_the_process_holds(
        self, measured: dict[tuple[str, int], tuple[int, int]], size: int
    ) -> None:
        memory, cost = measured["dram", size]
        assert cost == pytest.approx(memory - measured["auto", size][0], rel=0.1)
        assert cost > 0.8 * size * 2**20

    def test_one_that_keeps_nothing_needs_what_auto_needs(
        self, measured: dict[tuple[str, int], tuple[int, int]], size: int
    ) -> None:
        memory, cost = measured["no", size]
        assert cost == 0
        assert memory - measured["auto", size][0] < 0.1 * size * 2**20
