"""Host memory that is about to be filled for the first time.

The kernel hands memory out when it is first touched, a page at a time: at 4 KiB a page, the faults
cost more than the bytes on the wire do. `advise` asks for 2 MiB pages instead, which takes the
faults from one in 4 KiB to one in 2 MiB. Most machines give such pages only to those who ask.

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
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

_log = logging.getLogger(__name__)

HUGE_PAGE = 2 * 1024 * 1024
"""Bytes of a large page on x86-64, and on arm64 with pages of 4 KiB."""

_MADV_HUGEPAGE = 14

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


def advise(data: torch.Tensor) -> None:
    """Ask for large pages under a dense host tensor. Contents stay as they are.

    Affects the large pages that lie inside the tensor's memory as a whole, and of these only what
    nobody has touched yet. A neighbour's bytes are never in them, and a page's size is all that
    changes. Does nothing on other devices, other systems, and where the kernel refuses.
    """
    if data.device.type != "cpu":
        return
    begin = data.data_ptr()
    start, end = inner(begin, begin + data.numel() * data.element_size())
    madvise = _madvise()
    if start < end and madvise is not None and madvise(start, end - start, _MADV_HUGEPAGE) != 0:
        _log.debug("no large pages: %s", ctypes.get_errno())


def fresh(nbytes: int) -> torch.Tensor:
    """New host memory: shape [nbytes], uint8, all zeros, none of it touched, on large pages.

    A mapping of its own rather than torch's allocator, which may hand out used memory again and
    zeroes by touching. It goes back to the system when the last tensor in it is gone.
    """
    if nbytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    slack = HUGE_PAGE if nbytes >= HUGE_PAGE else 0
    mapping = mmap.mmap(-1, nbytes + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = torch.frombuffer(mapping, dtype=torch.uint8, count=1).data_ptr()
    data = torch.frombuffer(
        mapping, dtype=torch.uint8, count=nbytes, offset=-begin % HUGE_PAGE if slack else 0
    )
    advise(data)
    return data


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
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    call = ctypes.CDLL(None, use_errno=True).madvise
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    call.restype = ctypes.c_int

    def madvise(start: int, length: int, advice: int) -> int:
        return int(call(start, length, advice))

    return madvise
