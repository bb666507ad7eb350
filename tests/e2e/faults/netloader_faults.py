"""Faults in what a process sends to replicas, for end-to-end tests.

Nothing of the product is replaced, and nothing in it knows of this. Chunks leave a source by
`socket.sendmsg`, one call for each chunk of less than 8 MiB. Python tells an audit hook of each
call before it is made, and lets the hook fail the call.

This is one more vLLM plugin as well: put the folder on `PYTHONPATH` and set
`FAULT_KILL_AFTER_SENDS=n`. The process then ends by SIGKILL when it starts to send its n-th chunk,
counted from when the file `FAULT_ARMED_BY` exists.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_told: list[Callable[[], object]] = []
"""Called before each send. An audit hook stays for good, so one hook serves all."""

_hooked = False


def before_each_send(tell: Callable[[], object]) -> None:
    """Call `tell` before each send of this process, from now on. What it raises fails the send."""
    global _hooked
    _told.append(tell)
    if not _hooked:
        _hooked = True
        sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.sendmsg":
        for tell in _told:
            tell()


@contextmanager
def broken_after(sends: int) -> Iterator[None]:
    """Fail each send after the first `sends` of this process."""
    left = itertools.count(sends, -1)

    def fail() -> None:
        if next(left) <= 0:
            raise ConnectionError("broken on purpose")

    before_each_send(fail)
    try:
        yield
    finally:
        _told.remove(fail)


def install() -> None:
    """vLLM's plugin entry; called in every process of an engine."""
    limit = int(os.environ.get("FAULT_KILL_AFTER_SENDS", "0"))
    if limit <= 0:
        return
    armed_by = Path(os.environ["FAULT_ARMED_BY"])
    count = itertools.count(1)

    def die() -> None:
        if armed_by.exists() and next(count) >= limit:
            os.kill(os.getpid(), signal.SIGKILL)

    before_each_send(die)
