"""Fixtures for tests of the loader."""

from __future__ import annotations

import pytest


@pytest.fixture
def small_window() -> None:
    """What `support.pull_into` does by default."""
