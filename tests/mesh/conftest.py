"""What several files of the mesh's tests start with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .started import Start, starting


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts members that share a directory and closes them afterwards."""
    with starting(tmp_path / "netmesh") as start:
        yield start
