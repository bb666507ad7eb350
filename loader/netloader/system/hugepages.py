"""Host memory that is about to be filled for the first time.

The kernel hands memory out when it is first touched, a page at a time: at 4 KiB a page, the faults
cost more than the bytes on the wire do. Pages of 2 MiB take a third of that time where the machine
has such pieces of memory ready. Where it has none they take several times longer: the host of a
virtual machine takes large free pieces back first, and small pages come from what it has left.

Nothing tells the two apart but trying, and a machine can run out of good pieces at any moment. So
`advise` touches the memory itself, a large page at a time, and goes on for only as long as that
takes less than small pages do. What it has not touched is as it was.

`fresh` hands out memory that is certainly untouched, and `PageMap` tells what of a tensor's memory
has been touched, so that moving a tensor nobody has filled yet costs no faults either.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import mmap
import os
import re
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from netloader.system import affinity

_log = logging.getLogger(__name__)

HUGE_PAGE = 2 * 1024 * 1024
"""Bytes of a large page on x86-64, and on arm64 with pages of 4 KiB."""

_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23
"""Touches, and changes nothing (Linux 5.14)."""

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_THREADS = 4

_TRIAL = 4
"""Large pages' worth of memory that is touched on small ones for comparison, once a process."""

_LATEST = 8
_ENOUGH = 2
"""How many large pages tell at most, and at least, whether to go on. Where the host has taken back
its memory, each costs as much as five on small pages: two of them are a hundredth of the load of a
small model. A single one that had to wait for something weighs less than seven good ones."""

_PAGE = mmap.PAGESIZE
_ENTRY_BYTES = 8
_TOP_BYTE = slice(7 if sys.byteorder == "little" else 0, None, _ENTRY_BYTES)
_HAS_MEMORY = bytes(int(top >= 0x40) for top in range(256))
"""By the top byte of a page's entry in /proc/self/pagemap: 1 when the page is present or swapped
out, bits 63 and 62 (Documentation/admin-guide/mm/pagemap.rst in Linux)."""

_ANONYMOUS = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ...p [0-9a-f]+ \S+ 0 *(?:\[heap\]|\[anon[:_].*)?$"
)
"""A line of /proc/self/maps: private memory with no file behind, which reads as zeros until it is
written."""


class LargePages:
    """Touches memory on large pages for as long as that is faster than on small ones.

    The first few blocks are touched on small pages, to know what these cost. All of them are memory
    that would be touched anyway: the trial costs nothing but the difference.
    """

    def __init__(self, touch: Callable[[int, bool], float], threads: int = 1) -> None:
        """`touch(address, large)` touches `HUGE_PAGE` bytes and returns the seconds it took; raises
        `OSError` where that cannot be done. It is called by so many threads at once."""
        self._touch = touch
        self._threads = threads
        self._lock = threading.Lock()
        self._small: list[float] = []
        self._large: list[float] = []
        self._given_up = False

    @property
    def given_up(self) -> bool:
        """Whether large pages turned out slower, or impossible. Stays so."""
        return self._given_up

    def touch(self, blocks: Iterable[int]) -> int:
        """Touch the `HUGE_PAGE` bytes at each of these addresses until large pages are slower.

        Returns how many were touched, on pages of either size.
        """
        before = len(self._small) + len(self._large)
        queue = iter(blocks)
        for block in islice(queue, _TRIAL - len(self._small)):
            self._one(block, large=False)

        def work() -> None:
            while not self._given_up:
                with self._lock:
                    block = next(queue, None)
                if block is None:
                    return
                self._one(block, large=True)

        if self._threads == 1:
            work()
        else:
            with ThreadPoolExecutor(
                self._threads,
                f"{affinity.OURS}pages",
                initializer=lambda: affinity.step_aside(background=False),
            ) as pool:
                for done in [pool.submit(work) for _ in range(self._threads)]:
                    done.result()
        return len(self._small) + len(self._large) - before

    def _one(self, block: int, *, large: bool) -> None:
        if self._given_up:
            return
        try:
            seconds = self._touch(block, large)
        except OSError as error:
            self._given_up = True
            _log.debug("no large pages: %s", error)
            return
        with self._lock:
            (self._large if large else self._small).append(seconds)
            if self._given_up or not is_slower(self._small, self._large):
                return
            self._given_up = True
        _log.debug(
            "no large pages after %d of them: the last took %.2f ms, as many bytes on small pages "
            "%.2f ms",
            len(self._large),
            1e3 * seconds,
            1e3 * median(self._small),
        )


def is_slower(small: Sequence[float], large: Sequence[float]) -> bool:
    """Whether large pages are no longer worth it, by the seconds that as many bytes took on each.

    Those of late count: the first thousand say nothing of what is left.
    """
    latest = large[-_LATEST:]
    return len(latest) >= _ENOUGH and sum(latest) >= len(latest) * median(small)


def advise(*tensors: torch.Tensor, large_pages: LargePages | None = None) -> None:
    """Touch dense host tensors on large pages, where and while these are faster here.

    For memory that will be filled as a whole. Contents stay as they are. Only large pages are
    touched that lie in a tensor as a whole and that nobody has touched yet: a neighbour's bytes are
    never in them. Does nothing on other devices, and where the system cannot tell what is faster.

    `large_pages` remembers what was learnt of them; by default what this process has.
    """
    large_pages = large_pages or _here()
    if large_pages is None or large_pages.given_up:
        return
    with PageMap() as page_map:
        blocks = [
            block
            for data in tensors
            if data.device.type == "cpu"
            for block in _untouched_blocks(data, page_map)
        ]
    if blocks:
        touched = large_pages.touch(blocks)
        _log.debug("touched %d of %d pieces of %d bytes", touched, len(blocks), HUGE_PAGE)


def _untouched_blocks(data: torch.Tensor, page_map: PageMap) -> Iterator[int]:
    """Addresses of the large pages in a tensor's memory that are nobody's yet."""
    begin = data.data_ptr()
    start, end = inner(begin, begin + data.numel() * data.element_size())
    if start >= end:
        return
    free = start
    for first, last in page_map.touched(start, end - start):
        yield from range(free, start + first - HUGE_PAGE + 1, HUGE_PAGE)
        free = -(-(start + last) // HUGE_PAGE) * HUGE_PAGE
    yield from range(free, end, HUGE_PAGE)


def fresh(nbytes: int) -> torch.Tensor:
    """New host memory: shape [nbytes], uint8, all zeros, none of it touched.

    A mapping of its own rather than torch's allocator, which may hand out used memory again and
    zeroes by touching. It begins where a large page can, and goes back to the system when the last
    tensor in it is gone.
    """
    if nbytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    slack = HUGE_PAGE if nbytes >= HUGE_PAGE else 0
    mapping = mmap.mmap(-1, nbytes + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = torch.frombuffer(mapping, dtype=torch.uint8, count=1).data_ptr()
    return torch.frombuffer(
        mapping, dtype=torch.uint8, count=nbytes, offset=-begin % HUGE_PAGE if slack else 0
    )


class PageMap:
    """Which of this process's memory was ever touched. Use as a context manager.

    Where the system does not say (no Linux, no /proc), everything counts as touched. So does all
    memory that was mapped after this was made.
    """

    def __init__(self) -> None:
        self._file = -1
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __enter__(self) -> PageMap:
        try:
            self._file = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            lines = Path("/proc/self/maps").read_bytes().splitlines()
        except OSError as error:
            _log.debug("all memory counts as touched: %s", error)
            return self
        for match in filter(None, map(_ANONYMOUS.match, lines)):
            start, end = (int(group, 16) for group in match.groups())
            if self._ends and start == self._ends[-1]:
                self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def touched(self, begin: int, nbytes: int) -> Iterator[tuple[int, int]]:
        """The parts of `nbytes` at address `begin` that may hold anything but zeros: (first, end).

        Counted from `begin`. Whole pages, but for the ends.
        """
        if nbytes == 0:
            return
        first = begin // _PAGE
        there = self._there(begin, begin + nbytes)
        if there is None:
            yield 0, nbytes
            return
        start = there.find(1)
        while start >= 0:
            end = there.find(0, start)
            end = len(there) if end < 0 else end
            yield (
                max(0, (first + start) * _PAGE - begin),
                min(nbytes, (first + end) * _PAGE - begin),
            )
            start = there.find(1, end)

    def _there(self, begin: int, end: int) -> bytes | None:
        """For each page of a range of addresses 1 or 0: has it memory? None when unknown."""
        at = bisect_right(self._starts, begin) - 1
        if self._file < 0 or at < 0 or end > self._ends[at]:
            return None
        first, count = begin // _PAGE, -(-end // _PAGE) - begin // _PAGE
        try:
            entries = os.pread(self._file, count * _ENTRY_BYTES, first * _ENTRY_BYTES)
        except OSError as error:
            _log.debug("a tensor counts as touched: %s", error)
            return None
        if len(entries) != count * _ENTRY_BYTES:
            return None
        return entries[_TOP_BYTE].translate(_HAS_MEMORY)


def inner(start: int, end: int) -> tuple[int, int]:
    """The part of a range of addresses that consists of whole large pages; may be empty."""
    return -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE


@functools.cache
def _here() -> LargePages | None:
    """This process's. None where large pages are not to be had by asking, or come without."""
    touch = toucher()
    return LargePages(touch, min(_THREADS, len(affinity.original()) or 1)) if touch else None


def toucher() -> Callable[[int, bool], float] | None:
    """What touches memory for `LargePages`; None where the kernel gives none on request.

    It needs Linux 5.14, and raises `OSError` on an older one.
    """
    call = _madvise()
    try:
        on_request = "[madvise]" in _SETTING.read_text()
    except OSError:
        on_request = False
    if call is None or not on_request:
        _log.debug("no large pages: this system has none on request")
        return None

    def touch(address: int, large: bool) -> float:
        if large:
            call(address, HUGE_PAGE, _MADV_HUGEPAGE)
        # Of this thread: what a host does for a fault counts, what neighbours do does not.
        started = time.thread_time()
        call(address, HUGE_PAGE, _MADV_POPULATE_WRITE)
        return time.thread_time() - started

    return touch


@functools.cache
def _madvise() -> Callable[[int, int, int], None] | None:
    """Raises `OSError` when the kernel refuses."""
    if sys.platform != "linux":
        return None
    call = ctypes.CDLL(None, use_errno=True).madvise
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    call.restype = ctypes.c_int

    def madvise(start: int, length: int, advice: int) -> None:
        if call(start, length, advice) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return madvise
