"""The inside of the poll loop: handlers of readable sockets, and what happens if one raises."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import zmq

Pollable = zmq.Socket[bytes] | int
"""A ZeroMQ socket, or the file descriptor of a plain one."""


class Reactor:
    """Calls handlers on the owner's thread. An exception loses only the event that raised it."""

    def __init__(self, counters: Counter[str], log: logging.Logger) -> None:
        self._poller = zmq.Poller()
        self._handlers: dict[Pollable, Callable[[], None]] = {}
        self._counters = counters
        self._log = log

    def __len__(self) -> int:
        """How many sources are polled."""
        return len(self._handlers)

    def add(self, source: Pollable, handler: Callable[[], None], *, writable: bool = False) -> None:
        """Call `handler` whenever `source` is readable (or `writable`), until removed."""
        self._poller.register(source, zmq.POLLOUT if writable else zmq.POLLIN)
        self._handlers[source] = handler

    def remove(self, source: Pollable) -> None:
        """Call before closing `source`."""
        self._poller.unregister(source)
        del self._handlers[source]

    def poll(self, timeout_s: float) -> None:
        """Wait for at most `timeout_s` seconds, then run the handlers of what became ready."""
        milliseconds = min(max(timeout_s, 0.0), 60.0) * 1000.0
        # Rounded up, because a timer would otherwise spin through its last millisecond.
        for source, _ in self._poller.poll(int(milliseconds + 0.999)):
            handler = self._handlers.get(source)
            if handler is not None:  # else an earlier handler of this round closed it
                self.guard("handler", handler)

    def guard(self, where: str, action: Callable[[], None]) -> bool:
        """Run `action`; False when it raised. Errors are counted and logged.

        One bad message must neither end a mesh nor fill a disk. So the 1st, 2nd, 4th, 8th ...
        error is logged with its traceback.
        """
        try:
            action()
        except Exception:  # noqa: BLE001 - counted and logged; the loop goes on whatever it was
            name = f"error.{where}"
            self._counters[name] += 1
            count = self._counters[name]
            if count & (count - 1) == 0:
                self._log.exception("mesh: %s failed (%d times so far); going on", where, count)
            return False
        return True
