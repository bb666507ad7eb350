"""Reads many small places of many files, in few reads and in parallel.

On network storage a read costs half a millisecond or more, whatever its length. So places near each
other are read together, and many threads wait at once: `os.pread` releases the interpreter.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import xxhash

from netloader.checkpoint.files import Stamp, opened, reported
from netloader.errors import IdentityError

BLOCK: Final = 1024
"""Bytes in one block of a sample."""

WHOLE: Final = 4096
"""Tensors up to this many bytes are read whole: a page costs no more than a part of one."""

MOST_BLOCKS: Final = 8
"""Blocks per tensor, at most, when there are few tensors."""

BUDGET: Final = 1 << 15
"""Blocks of all tensors together, unless there are more tensors than that. This is a quarter of a
second of waiting for 64 threads at 0.5 ms a read, and a quarter of a second of computing."""

PIECE: Final = 1 << 20
"""Bytes in one read when everything is read, or when several blocks are read together."""

GAP: Final = 16 * 1024
"""Largest gap, in bytes, worth reading to join two blocks. With 64 reads under way at 0.5 ms,
another read costs 8 us of waiting and about as much computing. In that time 1 GB/s brings 16 KiB.
"""

DIGEST_BYTES: Final = 16

_MOST_THREADS: Final = 64
_SMALL: Final = GAP
"""Mean bytes per read up to which the cost is waiting, not copying."""

_FEWEST_RUNS: Final = 8
_MOST_RUNS: Final = 256
"""Runs in one task, at least and at most. A thread is not worth starting for fewer. After an error,
the other threads stop at the end of their task."""

Run = tuple[int, int, int, int]
"""One read: index of its first block, index after its last block, offset, bytes to read."""

Pread = Callable[[int, int, int], bytes]
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read. The result does not depend on it."""

    threads: int = _MOST_THREADS
    """At most this many. Each takes up to `PIECE` bytes of memory."""
    pread: Pread | None = None
    """None: `os.pread`."""

    def over(
        self, work: Callable[[_T], _R], items: Sequence[_T], *, small: bool = False
    ) -> list[_R]:
        """Do `work` for every item, several at a time. Raises the first failure's exception.

        small: the work is thousands of waits for storage and little else. Then all threads share
        one core. Only one of them holds the interpreter anyway, and handing it from core to core
        after each read costs more than the reads. 100,000 reads took 1.4 s on one core and 2.3 s to
        3.0 s on two.
        """
        done: dict[int, _R] = {}
        failures: list[BaseException] = []
        todo = deque(enumerate(items))
        core = _core_here() if small else None

        def work_off() -> None:
            while not failures:
                try:
                    index, item = todo.popleft()
                except IndexError:
                    return
                try:
                    done[index] = work(item)
                except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                    failures.append(error)

        def help_out() -> None:
            if core is not None:
                # On other systems, or where this is forbidden, threads stay where they are.
                with suppress(OSError, AttributeError):
                    os.sched_setaffinity(0, {core})
            work_off()

        helpers: list[threading.Thread] = []
        try:
            many = min(self.threads, len(items))
            for _ in range(many if many > 1 else 0):
                helper = threading.Thread(target=help_out, name="netloader-evidence", daemon=True)
                try:
                    helper.start()
                except RuntimeError:
                    # The container limits the number of threads.
                    break
                helpers.append(helper)
            for helper in helpers:
                helper.join()
            # Nothing is left to do, unless no thread could be started.
            work_off()
        finally:
            # After an interrupt nobody wants the rest.
            todo.clear()
        if failures:
            raise failures[0]
        return [done[index] for index in range(len(items))]

    def exactly(self, file: int, seen: Stamp, size: int, offset: int) -> bytes:
        """`size` bytes at `offset`.

        Raises `IdentityError` when the file ends too early or cannot be read.
        """
        pread = self.pread or os.pread
        with reported(seen):
            data = pread(file, size, offset)
            while len(data) < size:
                # A network file system may return fewer bytes than asked for.
                more = pread(file, size - len(data), offset + len(data))
                if not more:
                    raise IdentityError(
                        f"the weight file {seen.path} ends at byte {offset + len(data)}, "
                        f"{size - len(data)} too early"
                    )
                data += more
        return data


@dataclass(frozen=True, slots=True)
class Places:
    """Blocks of one file, by offset, without overlap."""

    begins: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, begin: int, blocks: Iterable[tuple[int, int]]) -> int:
        """Append blocks, given relative to `begin`, and return how many there are now."""
        begins, sizes = self.begins, self.sizes
        for offset, size in blocks:
            begins.append(begin + offset)
            sizes.append(size)
        return len(begins)

    def runs(self) -> Iterator[Run]:
        """The reads, each covering blocks that are near each other."""
        if not self.begins:
            return
        first = 0
        start = end = self.begins[0]
        for index, (begin, size) in enumerate(zip(self.begins, self.sizes, strict=True)):
            if begin - end > GAP or begin + size - start > PIECE:
                if index > first:
                    yield first, index, start, end - start
                first, start = index, begin
            end = begin + size
        yield first, len(self.begins), start, end - start


def blocks_each(tensors: int) -> int:
    """Blocks per tensor, for this many tensors in all."""
    return max(1, min(MOST_BLOCKS, BUDGET // max(1, tensors)))


def sampled(about: bytes, size: int, blocks: int) -> list[tuple[int, int]]:
    """Offset and length of each part to read of a tensor of `size` bytes, ascending.

    The places follow from `about`, so equal tensors are read at equal places wherever they lie.
    Small tensors are read whole. Three blocks or more include the first and the last bytes; the
    other blocks lie one in each of as many equal sections.
    """
    if blocks == 1 and size > WHOLE:
        return [(xxhash.xxh3_64_intdigest(about) % (size - BLOCK + 1), BLOCK)]
    if size <= WHOLE or size <= blocks * BLOCK:
        return [(0, size)] if size else []
    ends = blocks >= 3
    inner = blocks - 2 if ends else blocks
    base, room = (BLOCK, size - 2 * BLOCK) if ends else (0, size)
    play = room // inner - BLOCK + 1
    places = [
        (
            base + index * room // inner + xxhash.xxh3_64_intdigest(about, seed=index) % play,
            BLOCK,
        )
        for index in range(inner)
    ]
    return [(0, BLOCK), *places, (size - BLOCK, BLOCK)] if ends else places


def entire(about: bytes, size: int, blocks: int) -> list[tuple[int, int]]:
    """Like `sampled`, but covers all bytes."""
    return [(at, min(PIECE, size - at)) for at in range(0, size, PIECE)]


Choice = Callable[[bytes, int, int], list[tuple[int, int]]]
"""`sampled` or `entire`."""


def read_blocks(
    files: Sequence[tuple[Stamp, Places]],
    reading: Reading,
    take: Callable[[bytes], bytes] = xxhash.xxh3_128_digest,
    width: int = DIGEST_BYTES,
) -> list[bytearray]:
    """For each file, `take` of every block, `width` bytes each, in the order of the blocks.

    Raises `IdentityError`, naming the file, when a file cannot be read or has changed.
    """
    taken = [bytearray(width * len(places.begins)) for _, places in files]
    runs = [list(places.runs()) for _, places in files]
    # Several tasks per thread, so that all threads end at about the same time.
    many = max(_FEWEST_RUNS, min(_MOST_RUNS, sum(map(len, runs)) // (4 * max(1, reading.threads))))
    tasks = [
        (which, runs[which][at : at + many])
        for which in range(len(files))
        for at in range(0, len(runs[which]), many)
    ]

    def work(task: tuple[int, list[Run]]) -> None:
        which, mine = task
        stamp, places = files[which]
        begins, sizes, out = places.begins, places.sizes, taken[which]
        pread = reading.pread or os.pread
        with opened(stamp) as file, reported(stamp):
            for first, behind, start, length in mine:
                data = pread(file, length, start)
                if len(data) != length:
                    data = reading.exactly(file, stamp, length, start)
                if behind - first == 1:
                    out[first * width : behind * width] = take(data)
                    continue
                for index in range(first, behind):
                    at = begins[index] - start
                    out[index * width : (index + 1) * width] = take(data[at : at + sizes[index]])

    read = sum(length for mine in runs for _, _, _, length in mine)
    reading.over(work, tasks, small=read <= _SMALL * sum(map(len, runs)))
    return taken


def _core_here() -> int | None:
    """The core that the calling thread runs on. The thread only waits from here on."""
    try:
        state = Path("/proc/thread-self/stat").read_text()
        # Field 39. Field 2, a name in brackets, may contain blanks.
        return int(state.rpartition(")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return None
