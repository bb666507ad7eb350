"""Host memory that is about to be filled for the first time.

The kernel hands memory out page by page when it is first touched. With pages of 4 KiB, the faults
cost more than the bytes on the wire. Pages of 2 MiB take a third of that time if the machine has
such pieces of memory ready. If it has none, they take several times longer: the host of a virtual
machine takes back large free pieces first, and small pages come from the rest.

Only trying tells the two cases apart, and a machine can run out of good pieces at any moment. So
`advise` touches the memory itself, one large page at a time, and goes on only while that is faster
than small pages. Memory that it has not touched stays as it was.

`fresh` returns memory that is certainly untouched. `PageMap` shows which parts of a tensor's memory
have been touched, so that moving a tensor that is not filled yet costs no faults either.
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
"""Touches memory without changing it (Linux 5.14)."""

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_THREADS = 4

_TRIAL = 4
"""Units of `HUGE_PAGE` bytes touched on small pages for comparison, once per process."""

_LATEST = 8
_ENOUGH = 2
"""How many large pages decide whether to go on, at most and at least. If the host has taken back
its memory, each costs as much as five on small pages: two take a hundredth of a small model's load.
A single page that had to wait for something weighs less than seven good ones."""

_PAGE = mmap.PAGESIZE
_ENTRY_BYTES = 8
_TOP_BYTE = slice(7 if sys.byteorder == "little" else 0, None, _ENTRY_BYTES)
_HAS_MEMORY = bytes(int(top >= 0x40) for top in range(256))
"""By the top byte of a page's entry in /proc/self/pagemap: 1 if the page is present (bit 63) or
swapped out (bit 62). Source: Documentation/admin-guide/mm/pagemap.rst in Linux."""

_ANONYMOUS = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ...p [0-9a-f]+ \S+ 0 *(?:\[heap\]|\[anon[:_].*)?$"
)
"""A line of /proc/self/maps for private memory without a file, which reads as zeros until it is
written."""


class LargePages:
    """Touches memory on large pages for as long as that is faster than on small ones.

    The first few blocks are touched on small pages to measure their cost. All blocks would be
    touched anyway, so the trial costs only the difference.
    """

    def __init__(self, touch: Callable[[int, bool], float], threads: int = 1) -> None:
        """`touch(address, large)` touches `HUGE_PAGE` bytes and returns the seconds that took, or
        raises `OSError` if that is impossible. Up to `threads` threads call it at once."""
        self._touch = touch
        self._threads = threads
        self._lock = threading.Lock()
        self._small: list[float] = []
        self._large: list[float] = []
        self._given_up = False

    @property
    def given_up(self) -> bool:
        """Whether large pages turned out slower or impossible. Once True, it stays True."""
        return self._given_up

    def touch(self, blocks: Iterable[int]) -> int:
        """Touch the `HUGE_PAGE` bytes at each of these addresses until large pages are slower.

        Returns the number touched, on pages of either size.
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
    """Whether large pages no longer pay, by the seconds that equal amounts took on each size.

    Only the latest count: the first thousand say nothing about the memory that is left.
    """
    latest = large[-_LATEST:]
    return len(latest) >= _ENOUGH and sum(latest) >= len(latest) * median(small)


def advise(*tensors: torch.Tensor, large_pages: LargePages | None = None) -> None:
    """Touch dense host tensors on large pages, as long as these are faster here.

    For memory that will be filled completely. Contents stay as they are. Touches only large pages
    that lie entirely within a tensor and are untouched so far, so they never hold a neighbour's
    bytes. Does nothing on other devices, or if the system cannot tell which size is faster.

    `large_pages` remembers what was learnt about them; the default belongs to this process.
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
    """Addresses of the large pages in a tensor's memory that are untouched so far."""
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

    Uses a separate mapping, because torch's allocator may reuse memory and zeroes it by touching.
    The mapping's tensor starts where a large page can. The memory goes back to the system when the
    last tensor in it is gone.
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
    """Knows which of this process's memory was ever touched. Use as a context manager.

    If the system does not say (no Linux, no /proc), everything counts as touched. So does all
    memory that was mapped after this object was made.
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

        Offsets count from `begin`. Parts are whole pages, except at the ends.
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
        """For each page in a range of addresses: 1 if it has memory, else 0. None when unknown."""
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
    """This process's pages. None if asking for large pages is impossible or needless."""
    touch = toucher()
    return LargePages(touch, min(_THREADS, len(affinity.original()) or 1)) if touch else None


def toucher() -> Callable[[int, bool], float] | None:
    """A function that touches memory for `LargePages`; None if the kernel gives none on request.

    The function needs Linux 5.14 and raises `OSError` on older versions.
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
        # This thread's time: it includes the host's work on a fault, not the neighbours' work.
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
