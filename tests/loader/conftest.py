"""Fixtures for tests of the loader."""

from __future__ import annotations

import pytest
from tests.loader.support import SMALL_WINDOW

from netloader.replica import schedule


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source never has all of a toy model in flight, as it has not of a real one."""
    monkeypatch.setattr(schedule, "MAX_WINDOW", SMALL_WINDOW)
