from __future__ import annotations

import gc
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from netloader import pages
from netloader.pages import HUGE_PAGE, PageMap, advise, fresh, inner

PAGE = mmap.PAGESIZE
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@given(start=st.integers(0, 1 << 47), size=st.integers(0, 1 << 30))
def test_inner_part_is_whole_large_pages_and_no_more(start: int, size: int) -> None:
    first, end = inner(start, start + size)
    if first >= end:
        assert size < 2 * HUGE_PAGE
        return
    assert first % HUGE_PAGE == end % HUGE_PAGE == 0
    assert start <= first < start + HUGE_PAGE
    assert start + size - HUGE_PAGE < end <= start + size


class TestAdvise:
    def test_contents_stay(self) -> None:
        data = torch.arange(5 << 20).to(torch.uint8)
        before = data.clone()
        advise(data)
        assert torch.equal(data, before)

    @pytest.mark.parametrize("shape", [(0,), (1,), (3, 0), (100, 7)])
    def test_small_memory_is_left_alone(self, shape: tuple[int, ...]) -> None:
        advise(torch.zeros(shape))

    def test_other_devices_are_left_alone(self) -> None:
        advise(torch.empty(64 << 20, device="meta"))

    def test_memory_the_kernel_refuses_is_no_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pages, "_madvise", lambda: lambda start, length, advice: -1)
        advise(torch.empty(8 << 20, dtype=torch.uint8))

    @linux
    def test_memory_comes_in_large_pages(self) -> None:
        if "always" not in _thp() and "madvise" not in _thp():
            pytest.skip("this kernel has no large pages on request")
        data = fresh(8 * HUGE_PAGE)
        data.fill_(1)
        assert _anonymous_huge(data) > 0


class TestFresh:
    @pytest.mark.parametrize("nbytes", [0, 1, 4097, HUGE_PAGE, 3 * HUGE_PAGE + 5])
    def test_is_a_storage_of_just_that_size_full_of_zeros(self, nbytes: int) -> None:
        data = fresh(nbytes)
        assert data.shape == (nbytes,) and data.dtype == torch.uint8
        assert not data.any()
        assert data.untyped_storage().nbytes() == nbytes
        assert nbytes < HUGE_PAGE or data.data_ptr() % HUGE_PAGE == 0

    def test_lives_as_long_as_a_part_of_it(self) -> None:
        data = fresh(100_000)
        data.fill_(7)
        part = data[5000:5003]
        del data
        gc.collect()
        assert part.tolist() == [7, 7, 7]

    @linux
    def test_goes_back_to_the_system(self) -> None:
        before = _mapped()
        held = [fresh(8 << 20) for _ in range(8)]
        assert _mapped() - before > 60 << 20
        del held
        assert _mapped() - before < 8 << 20


@linux
class TestPageMap:
    def test_new_memory_is_untouched(self) -> None:
        data = fresh(10 * PAGE)
        with PageMap() as page_map:
            assert list(touched(page_map, data)) == []

    def test_written_pages_are_found(self) -> None:
        mapping = mmap.mmap(-1, 10 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data = torch.frombuffer(mapping, dtype=torch.uint8)
        data[0] = 1
        data[3 * PAGE + 5] = 0
        data[4 * PAGE] = 1
        data[10 * PAGE - 1] = 1
        with PageMap() as page_map:
            assert list(touched(page_map, data)) == [
                (0, PAGE),
                (3 * PAGE, 5 * PAGE),
                (9 * PAGE, 10 * PAGE),
            ]
            assert list(touched(page_map, data[100 : 3 * PAGE + 7])) == [
                (0, PAGE - 100),
                (3 * PAGE - 100, 3 * PAGE - 93),
            ]
            assert list(touched(page_map, data[PAGE : 2 * PAGE])) == []

    def test_nothing_outside_the_ranges_differs_from_zero(self) -> None:
        held = [torch.empty(50_000 + 1000 * number, dtype=torch.uint8) for number in range(50)]
        for number, data in enumerate(held):
            data[number * 500 :: 7777] = 1
        with PageMap() as page_map:
            for data in held:
                left = data.clone()
                for first, end in touched(page_map, data):
                    left[first:end] = 0
                assert not left.any()

    def test_memory_of_a_file_counts_as_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(bytes(range(256)) * 64)
        with path.open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        data = torch.frombuffer(mapping, dtype=torch.uint8)
        with PageMap() as page_map:
            assert list(touched(page_map, data)) == [(0, 16384)]

    def test_shared_memory_counts_as_touched(self) -> None:
        mapping = mmap.mmap(-1, 4 * PAGE)
        data = torch.frombuffer(mapping, dtype=torch.uint8)
        with PageMap() as page_map:
            assert list(touched(page_map, data)) == [(0, 4 * PAGE)]

    def test_memory_mapped_since_counts_as_touched(self) -> None:
        with PageMap() as page_map:
            data = torch.frombuffer(
                mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
                dtype=torch.uint8,
            )
            assert list(touched(page_map, data)) == [(0, 64 << 20)]

    def test_without_a_page_map_everything_counts_as_touched(self) -> None:
        assert list(touched(PageMap(), fresh(PAGE))) == [(0, PAGE)]
        assert list(touched(PageMap(), fresh(0))) == []


def touched(page_map: PageMap, data: torch.Tensor) -> Iterator[tuple[int, int]]:
    return page_map.touched(data.data_ptr(), data.numel())


def _thp() -> str:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    text = path.read_text() if path.exists() else "[never]"
    return text[text.index("[") + 1 : text.index("]")]


def _anonymous_huge(data: torch.Tensor) -> int:
    """KiB of large pages in the mapping that holds `data`."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(part, 16) for part in head.split("-"))
            inside = start <= data.data_ptr() < end
        elif inside and head == "AnonHugePages:":
            return int(line.split()[1])
    return 0


def _mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
