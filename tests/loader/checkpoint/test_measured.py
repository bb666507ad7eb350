from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netloader.checkpoint import measured
from netloader.checkpoint.files import Stamp
from netloader.checkpoint.hostcache import HostCache

GIB = 1 << 30
HERE = (Stamp("a", "/a", GIB, 1, 1, 1, device=5),)
SAME_DISK = (Stamp("b", "/b", 1, 2, 2, 2, device=5),)
OTHER_DISK = (replace(HERE[0], device=6),)


@pytest.fixture
def cache(tmp_path: Path) -> HostCache:
    return HostCache(tmp_path / "cache")


def test_half_of_the_latest_rate_is_relied_on_for_files_of_the_same_disk(cache: HostCache) -> None:
    assert measured.rate(cache, HERE) is None
    measured.remember(cache, HERE, GIB, GIB, 1.0)
    assert measured.rate(cache, HERE) == GIB / 2
    measured.remember(cache, SAME_DISK, GIB, GIB, 4.0)
    assert measured.rate(cache, HERE) == measured.rate(cache, SAME_DISK) == GIB / 8
    assert measured.rate(cache, OTHER_DISK) is None


def test_what_was_read_beyond_the_weights_brought_none(cache: HostCache) -> None:
    measured.remember(cache, HERE, GIB, 2 * GIB, 1.0)
    assert measured.rate(cache, HERE) == GIB / 2


def test_bytes_that_were_in_memory_count_nothing(cache: HostCache) -> None:
    measured.remember(cache, HERE, GIB, GIB // 2, 1.0)
    assert measured.rate(cache, HERE) == GIB / 4


@pytest.mark.parametrize(
    ("fetched", "seconds"), [(GIB // 2 - 1, 1.0), (0, 1.0), (None, 1.0), (GIB, 0.0)]
)
def test_a_load_from_memory_is_no_measurement(
    cache: HostCache, fetched: int | None, seconds: float
) -> None:
    measured.remember(cache, HERE, GIB, GIB, 1.0)
    measured.remember(cache, HERE, GIB, fetched, seconds)
    assert measured.rate(cache, HERE) == GIB / 2


def test_without_a_folder_nothing_is_known(tmp_path: Path) -> None:
    measured.remember(None, HERE, GIB, GIB, 1.0)
    assert measured.rate(None, HERE) is None
    (tmp_path / "cache").write_text("a file of somebody else")
    blocked = HostCache(tmp_path / "cache")
    measured.remember(blocked, HERE, GIB, GIB, 1.0)
    assert measured.rate(blocked, HERE) is None
