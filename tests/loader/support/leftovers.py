"""What a test must not leave behind: threads and descriptors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.loader.support.waiting import until


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    """Of the whole process, Gloo's and ZeroMQ's included."""
    return len(list(Path("/proc/self/task").iterdir()))


def settle() -> None:
    """Wait until the threads of sessions that are over have ended, and Gloo's are gone."""
    until(lambda: not any(map(_moves_bytes, threading.enumerate())))
    last = -1
    while last != (now := threads()):
        last = now
        time.sleep(0.02)


def _moves_bytes(thread: threading.Thread) -> bool:
    return thread.name.startswith(("netloader-session-", "netloader-pull-"))


def leaves_nothing(once: Callable[[], object], times: int) -> None:
    """Assert that all but the first of `times` leave no threads and no descriptors."""
    once()
    settle()
    descriptors_before, threads_before = descriptors(), threads()
    for _ in range(times):
        once()
    settle()
    # ZeroMQ's thread closes the last connections.
    until(lambda: descriptors() <= descriptors_before)
    until(lambda: threads() <= threads_before)
