from __future__ import annotations

import errno
import gc
import mmap
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from netloader.system.hugepages import (
    HUGE_PAGE,
    LargePages,
    PageMap,
    advise,
    fresh,
    inner,
    is_slower,
    toucher,
)

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


class TestIsSlower:
    def test_not_before_there_are_enough(self) -> None:
        assert not is_slower([1.0], [])
        assert not is_slower([1.0], [9.0])

    def test_what_takes_as_long_is_slower(self) -> None:
        assert is_slower([1.0], [1.0, 1.0])
        assert not is_slower([1.0], [0.9, 1.0])

    def test_late_ones_count(self) -> None:
        assert is_slower([1.0], [0.2] * 1000 + [5.0, 5.0])
        assert is_slower([1.0], [0.2, 5.0] * 4)
        assert not is_slower([1.0], [5.0, 5.0] + [0.2] * 8)

    def test_one_alone_does_not_weigh_more_than_many_good_ones(self) -> None:
        assert not is_slower([1.0], [0.2] * 7 + [5.0])

    def test_an_interrupted_small_one_does_not_count(self) -> None:
        assert is_slower([1.0, 1.0, 50.0], [2.0, 2.0])


class Machine:
    """A machine's memory: what a piece of it costs on small pages, and on each next large one."""

    def __init__(self, small: float, large: Iterable[float]) -> None:
        self._small = small
        self._large = iter(large)
        self._lock = threading.Lock()
        self.touched: list[tuple[int, bool]] = []

    def touch(self, address: int, large: bool) -> float:
        with self._lock:
            self.touched.append((address, large))
            return next(self._large) if large else self._small


BLOCKS = range(0, 100 * HUGE_PAGE, HUGE_PAGE)


class TestLargePages:
    def test_where_they_are_faster_everything_is_touched_once(self) -> None:
        machine = Machine(0.7, repeat(0.2))
        large_pages = LargePages(machine.touch)
        assert large_pages.touch(BLOCKS) == len(BLOCKS)
        assert [address for address, _ in machine.touched] == list(BLOCKS)
        assert not large_pages.given_up

    def test_few_are_touched_on_small_pages_and_only_once_in_a_process(self) -> None:
        machine = Machine(0.7, repeat(0.2))
        large_pages = LargePages(machine.touch)
        large_pages.touch(BLOCKS[:2])
        large_pages.touch(BLOCKS[2:])
        large_pages.touch(BLOCKS)
        assert sum(not large for _, large in machine.touched) == 4

    def test_where_they_are_slower_two_are_the_last(self) -> None:
        machine = Machine(0.7, repeat(3.3))
        large_pages = LargePages(machine.touch)
        assert large_pages.touch(BLOCKS) == 6
        assert large_pages.given_up
        assert large_pages.touch(BLOCKS) == 0
        assert len(machine.touched) == 6

    def test_it_ends_when_the_machine_runs_out_of_them(self) -> None:
        machine = Machine(0.7, chain(repeat(0.2, 30), repeat(3.3)))
        large_pages = LargePages(machine.touch)
        assert large_pages.touch(BLOCKS) == 4 + 30 + 2
        assert large_pages.given_up

    def test_one_slow_page_is_no_reason_to_end(self) -> None:
        machine = Machine(0.7, chain(repeat(0.2, 30), [3.3], repeat(0.2)))
        large_pages = LargePages(machine.touch)
        assert large_pages.touch(BLOCKS) == len(BLOCKS)
        assert not large_pages.given_up

    def test_where_all_memory_is_slow_they_are_no_worse(self) -> None:
        large_pages = LargePages(Machine(3.6, repeat(3.3)).touch)
        assert large_pages.touch(BLOCKS) == len(BLOCKS)

    @pytest.mark.parametrize("refused", [0, 4, 20])
    def test_a_kernel_that_refuses_is_asked_no_more(self, refused: int) -> None:
        machine = Machine(0.7, repeat(0.2))

        def touch(address: int, large: bool) -> float:
            if len(machine.touched) == refused:
                raise OSError(errno.EINVAL, "no such advice")
            return machine.touch(address, large)

        large_pages = LargePages(touch)
        assert large_pages.touch(BLOCKS) == refused
        assert large_pages.given_up
        assert large_pages.touch(BLOCKS) == 0

    def test_threads_share_the_work_and_end_together(self) -> None:
        machine = Machine(0.7, repeat(0.2))
        assert LargePages(machine.touch, threads=3).touch(BLOCKS) == len(BLOCKS)
        assert sorted(address for address, _ in machine.touched) == list(BLOCKS)
        machine = Machine(0.7, chain(repeat(0.2, 30), repeat(3.3)))
        # Each may be in the middle of one more.
        assert 36 <= LargePages(machine.touch, threads=3).touch(BLOCKS) <= 36 + 2

    def test_an_error_in_a_thread_is_not_lost(self) -> None:
        def touch(address: int, large: bool) -> float:
            if large:
                raise ValueError("not a refusal")
            return 0.7

        with pytest.raises(ValueError, match="not a refusal"):
            LargePages(touch, threads=2).touch(BLOCKS)


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

    @linux
    def test_only_untouched_whole_pages_are_touched(self) -> None:
        machine = Machine(0.7, repeat(0.2))
        data = fresh(10 * HUGE_PAGE)
        begin = data.data_ptr()
        data[2 * HUGE_PAGE + 5] = 1
        data[7 * HUGE_PAGE - 1 : 7 * HUGE_PAGE + 1] = 1
        advise(data[1:-1], large_pages=LargePages(machine.touch))
        touched = [(address - begin) // HUGE_PAGE for address, _ in machine.touched]
        assert touched == [1, 3, 4, 5, 8]

    @linux
    def test_memory_of_a_file_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(bytes(4 * HUGE_PAGE))
        machine = Machine(0.7, repeat(0.2))
        with path.open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        advise(torch.frombuffer(mapping, dtype=torch.uint8), large_pages=LargePages(machine.touch))
        assert machine.touched == []

    @linux
    def test_the_kernel_touches_what_it_is_told_to(self) -> None:
        touch = toucher()
        if touch is None:
            pytest.skip("this kernel has no large pages on request")
        data = fresh(8 * HUGE_PAGE)
        refused = _large_pages_refused()
        seconds = [touch(data.data_ptr() + number * HUGE_PAGE, number >= 4) for number in range(8)]
        assert min(seconds) > 0
        with PageMap() as page_map:
            assert list(touched(page_map, data)) == [(0, 8 * HUGE_PAGE)]
        assert not data.any()
        # A machine whose free memory is in pieces has none to give, and counts that.
        assert _anonymous_huge(data[4 * HUGE_PAGE :]) > 0 or _large_pages_refused() > refused


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
        held = [fresh(8 << 20) for _ in range(8)]
        places = [data.data_ptr() for data in held]
        assert all(map(_is_mapped, places))
        del held
        # Somebody else's thread may start in between and get one of the places for its stack.
        assert sum(map(_is_mapped, places)) <= 1


@linux
class TestPageMap:
    def test_new_memory_is_untouched(self) -> None:
        data = fresh(10 * PAGE)
        with PageMap() as page_map:
            assert list(touched(page_map, data)) == []

    def test_written_pages_are_found(self) -> None:
        mapping = mmap.mmap(-1, 10 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Joined with a neighbour, it might get a large page, which is touched as a whole.
        with suppress(OSError):
            mapping.madvise(mmap.MADV_NOHUGEPAGE)
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


def _large_pages_refused() -> int:
    """How often this machine had no large page to give."""
    counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counters["thp_fault_fallback"])


def _is_mapped(address: int) -> bool:
    ranges = (line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines())
    bounds = ([int(part, 16) for part in one.split("-")] for one in ranges)
    return any(start <= address < end for start, end in bounds)
