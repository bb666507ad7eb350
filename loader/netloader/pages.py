"""Host memory that is about to be filled for the first time.

The kernel hands memory out when it is first touched, a page at a time: at 4 KiB a page, the faults
cost more than the bytes on the wire do. `advise` asks for 2 MiB pages instead, which takes the
faults from one in 4 KiB to one in 2 MiB. Most machines give such pages only to those who ask.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from collections.abc import Callable

import torch

_log = logging.getLogger(__name__)

HUGE_PAGE = 2 * 1024 * 1024
"""Bytes of a large page on x86-64, and on arm64 with pages of 4 KiB."""

_MADV_HUGEPAGE = 14


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
