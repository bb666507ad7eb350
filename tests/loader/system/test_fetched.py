from __future__ import annotations

from pathlib import Path

import pytest

from netloader.system.fetched import fetched_bytes


@pytest.mark.parametrize(
    ("counters", "found"),
    [
        ("rchar: 9\nread_bytes: 4096\nwrite_bytes: 7\ncancelled_write_bytes: 0\n", 4096),
        ("rchar: 9\nwrite_bytes: 7\n", None),
        ("", None),
    ],
)
def test_only_what_was_fetched_counts(tmp_path: Path, counters: str, found: int | None) -> None:
    file = tmp_path / "io"
    file.write_text(counters)
    assert fetched_bytes(file) == found


def test_a_kernel_that_hides_its_counters_costs_the_figure_alone(tmp_path: Path) -> None:
    assert fetched_bytes(tmp_path / "none") is None
