"""A file that was changed or replaced since it was read is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.loader.checkpoint.evidence_files import MODEL, one
from tests.loader.trees import of, write

from netloader.checkpoint.evidence import changed_since, stamps


def test_unchanged_files_are_unchanged(tmp_path: Path) -> None:
    assert changed_since(stamps(one(tmp_path))) is None


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    times = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(path)


def linked_elsewhere(path: Path) -> None:
    other = path.with_name("other")
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize("change", [rewritten, replaced, linked_elsewhere, Path.unlink])
def test_first_changed_file_is_named(tmp_path: Path, change: Callable[[Path], None]) -> None:
    files = of(write(tmp_path / f"{at}.safetensors", MODEL) for at in range(3))
    before = stamps(files)
    change(files[1].path)
    assert str(files[1].path) in (changed_since(before) or "")


@pytest.mark.parametrize("way", ["there/model", "sub/../model", "up/model", "there/twice"])
def test_stamps_know_the_file_behind_every_link(tmp_path: Path, way: str) -> None:
    real = write(tmp_path / "real" / "model", MODEL).resolve()
    (tmp_path / "there").symlink_to("real")
    (tmp_path / "real" / "once").symlink_to("model")
    (tmp_path / "real" / "twice").symlink_to("../there/once")
    (tmp_path / "real" / "deep").mkdir()
    (tmp_path / "sub").symlink_to("real/deep")
    (tmp_path / "up").symlink_to("sub/..")
    (stamp,) = stamps(of([tmp_path / way]))
    assert stamp.real == str(real) == os.path.realpath(tmp_path / way)
