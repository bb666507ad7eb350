from __future__ import annotations

from pathlib import Path

import pytest
from tests.forked import start_loader


@pytest.mark.slow
def test_a_process_that_ends_right_after_a_pull_ends_well(tmp_path: Path) -> None:
    """Its session and its stream are still closing their groups then."""
    for number in range(4):
        log = tmp_path / str(number)
        with (
            log.open("wb") as errors,
            start_loader("tests.loader.system.pull_and_end", stderr=errors) as process,
        ):
            status = process.wait()
        said = log.read_text()
        assert status == 0, said[-2000:]
        assert "terminate called" not in said
