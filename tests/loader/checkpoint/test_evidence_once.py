"""What one process of a host has read, no other reads again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.loader.checkpoint.evidence_files import BOTH, MODEL, Counted, changed, hub, one
from tests.loader.trees import of, write

from netloader.checkpoint.evidence import Reading, WeightFile, full, sample, stamps, wrong_blob
from netloader.checkpoint.hostcache import HostCache


def settled(files: Sequence[WeightFile]) -> HostCache:
    """A cache to which the files are old: it lives in next year."""
    later = max(stamp.ctime_ns for stamp in stamps(files)) / 1e9 + 3e7
    return HostCache(files[0].path.parent / "cache", clock=lambda: later)


@BOTH
def test_what_was_read_once_is_not_read_again(tmp_path: Path, evidence: Callable[..., str]) -> None:
    files = one(tmp_path)
    cache, counted = settled(files), Counted()
    first = evidence(files, cache)
    assert evidence(files, cache, reading=Reading(pread=counted)) == first
    assert not counted.reads


@BOTH
def test_changed_file_is_read_again(tmp_path: Path, evidence: Callable[..., str]) -> None:
    files = one(tmp_path)
    cache = settled(files)
    first = evidence(files, cache)
    files = one(tmp_path, changed(MODEL, "a", 0))
    # Both writes may fall into one tick of the file system's clock.
    os.utime(files[0].path, ns=(1, 1))
    assert evidence(files, cache) != first


def test_other_prefix_order_or_kind_is_another_question(tmp_path: Path) -> None:
    files = of(write(tmp_path / f"{at}.safetensors", {"a": b"%d" % at}) for at in range(2))
    cache = settled(files)
    found = [
        sample(files, cache),
        sample(files[::-1], cache),
        sample([replace(file, prefix="x") for file in files], cache),
        full(files, cache),
    ]
    assert len(set(found)) == 4
    assert found[0] == sample(files, cache)


def test_checked_blob_is_not_read_again(tmp_path: Path) -> None:
    files = hub(tmp_path)
    cache = settled(files)
    blocks: list[int] = []
    assert wrong_blob(files, cache, on_read=blocks.append) is None
    before = len(blocks)
    assert wrong_blob(files, cache, on_read=blocks.append) is None
    assert len(blocks) == before > 0
