"""The pictures in the documentation say what the screen says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from tests.tools.mesh_inspect.top.pictures import FOLDER, SHOTS, taken
from tests.tools.mesh_inspect.top.playing import text_of


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_there_is_a_file_for_each_picture() -> None:
    assert {file.stem for file in FOLDER.glob("top-*.svg")} == set(SHOTS)


@pytest.mark.parametrize("name", [name for name, shot in SHOTS.items() if not shot.light])
def test_a_picture_is_current(name: str) -> None:
    kept = (FOLDER / f"{name}.svg").read_text()
    told = "if it should be another: python -m tests.tools.mesh_inspect.top.pictures"
    assert text_of(asyncio.run(taken(SHOTS[name]))) == text_of(kept), told
    assert "url(http" not in kept and "@font-face" not in kept
