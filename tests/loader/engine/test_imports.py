"""A module's body runs within what was asked for, and the module does not know."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from netloader.engine.imports import ImportWatch


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    return tmp_path


class Seen:
    def __init__(self) -> None:
        self.events: list[str] = []

    @contextmanager
    def around(self) -> Iterator[None]:
        self.events.append("before")
        try:
            yield
        finally:
            self.events.append("after")


def test_only_watched_modules_are_run_within(place: Path) -> None:
    for name in ("watched_one", "watched_two", "other_one"):
        (place / f"{name}.py").write_text("X = 1\n")
    seen = Seen()
    watch = ImportWatch(["watched_one", "watched_two"], seen.around)
    watch.install()
    watch.install()
    importlib.import_module("other_one")
    assert seen.events == []
    importlib.import_module("watched_one")
    importlib.import_module("watched_one")
    assert seen.events == ["before", "after"]
    assert sys.meta_path.count(watch) == 1


def test_the_module_keeps_its_own_loader(place: Path) -> None:
    (place / "watched_three.py").write_text("X = 1\n")
    (place / "plain_three.py").write_text("X = 1\n")
    ImportWatch(["watched_three"], Seen().around).install()
    watched = importlib.import_module("watched_three")
    plain = importlib.import_module("plain_three")
    assert watched.__spec__ is not None and plain.__spec__ is not None
    assert type(watched.__loader__) is type(plain.__loader__)
    assert type(watched.__spec__.loader) is type(plain.__spec__.loader)
    assert importlib.reload(watched).X == 1


def test_an_error_of_the_body_passes_through(place: Path) -> None:
    (place / "watched_four.py").write_text("raise KeyError('mine')\n")
    seen = Seen()
    ImportWatch(["watched_four"], seen.around).install()
    with pytest.raises(KeyError, match="mine"):
        importlib.import_module("watched_four")
    assert seen.events == ["before", "after"]


def test_other_finders_are_asked_and_those_of_the_old_kind_passed_over(place: Path) -> None:
    class Finder(MetaPathFinder):
        def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
            if fullname != "watched_six":
                return None
            return spec_from_file_location(fullname, place / "elsewhere" / "six.py")

    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "six.py").write_text("X = 6\n")
    seen = Seen()
    sys.meta_path[:0] = [object(), Finder()]  # type: ignore[list-item]
    ImportWatch(["watched_six"], seen.around).install()
    assert importlib.import_module("watched_six").X == 6
    assert seen.events == ["before", "after"]


def test_a_module_that_is_not_there_is_not_there(place: Path) -> None:
    ImportWatch(["watched_five"], Seen().around).install()
    with pytest.raises(ModuleNotFoundError, match="watched_five"):
        importlib.import_module("watched_five")
