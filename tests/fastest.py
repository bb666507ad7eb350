"""Bounds on time that hold on a busy machine as well.

A wait that only keeps a fault from hanging the suite ends after `HANG_S`: generous, since nothing
passes because of it. A bound on speed stays as tight as an idle machine allows. `at_most` leaves
out what the machine kept from us, and of a test that is `fastest_of` some runs the fastest counts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

HANG_S: Final = 120.0
"""How long to wait for what happens in moments, before it counts as a hang. Minutes, because an
interpreter that imports torch takes that long on a core that many share."""


class TooSlowError(AssertionError):
    """Something took longer than it may on a machine that has nothing else to do."""


def took_less(took_s: float, limit_s: float) -> None:
    """Raise `TooSlowError` when something took `limit_s` or more."""
    if took_s >= limit_s:
        raise TooSlowError(f"took {took_s:.2f} s, and at most {limit_s:g} s are allowed")


class Stopwatch:
    """Measures time without the part in which threads were ready to run and others ran instead.

    On an idle machine that is plain time. `pids` are other processes that what is measured waits
    for; this one always counts.
    """

    def __init__(self, *pids: int) -> None:
        self._processes = (*map(str, pids), "self")
        self._delays_s = self._delays()
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Since it was made. The delays of threads that have ended by now are not left out."""
        took_s = time.monotonic() - self._started
        kept_s = sum(
            delay_s - self._delays_s.get(thread, 0.0) for thread, delay_s in self._delays().items()
        )
        return max(0.0, took_s - kept_s)

    def _delays(self) -> dict[Path, float]:
        """Seconds that each thread has waited for a core so far."""
        found: dict[Path, float] = {}
        for process in self._processes:
            for thread in Path("/proc", process, "task").glob("*"):
                with suppress(OSError):  # It has ended meanwhile.
                    # On a core, waiting for one, and how often: see the kernel's sched-stats.
                    waited_ns = (thread / "schedstat").read_text().split()[1]
                    found[thread] = int(waited_ns) / 1e9
        return found


@contextmanager
def at_most(limit_s: float, *pids: int) -> Iterator[None]:
    """Raise `TooSlowError` when the block takes `limit_s` or more by a `Stopwatch`."""
    watch = Stopwatch(*pids)
    yield
    took_less(watch.seconds(), limit_s)


def fastest_of(tries: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Run a test again when it was only too slow: the fastest of `tries` runs counts.

    A busy machine makes some runs slow; a fault of ours makes all of them slow.
    """

    def decorate(test: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            for _ in range(tries - 1):
                with suppress(TooSlowError):
                    return test(*args, **kwargs)
            return test(*args, **kwargs)

        return run

    return decorate
