"""The poll loop's inside: who is called when which socket is readable, and what if that raises."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import zmq

Pollable = zmq.Socket[bytes] | int
"""A ZeroMQ socket, or the file descriptor of a plain one."""


class Reactor:
    """Calls handlers on the owner's thread. An exception costs the one event that raised it."""

    def __init__(self, counters: Counter[str], log: logging.Logger) -> None:
        self._poller = zmq.Poller()
        self._handlers: dict[Pollable, Callable[[], None]] = {}
        self._counters = counters
        self._log = log

    def __len__(self) -> int:
        """How many sources are polled."""
        return len(self._handlers)

    def add(self, source: Pollable, handler: Callable[[], None], *, writable: bool = False) -> None:
        """Call *handler* whenever *source* is readable (or *writable*), until removed."""
        self._poller.register(source, zmq.POLLOUT if writable else zmq.POLLIN)
        self._handlers[source] = handler

    def remove(self, source: Pollable) -> None:
        """Call before closing *source*."""
        self._poller.unregister(source)
        del self._handlers[source]

    def poll(self, timeout_s: float) -> None:
        """Wait for at most *timeout_s* seconds, then run what became ready."""
        milliseconds = min(max(timeout_s, 0.0), 60.0) * 1000.0
        # Rounded up: a timer would otherwise spin through its last millisecond.
        for source, _ in self._poller.poll(int(milliseconds + 0.999)):
            handler = self._handlers.get(source)
            if handler is not None:  # else an earlier handler of this round closed it
                self.guard("handler", handler)

    def guard(self, where: str, action: Callable[[], None]) -> bool:
        """Run *action*; False when it raised, which is counted and logged.

        One bad message must not end a mesh, nor fill a disk: the first error and then every
        power of two is logged with its traceback.
        """
        try:
            action()
        except Exception:  # noqa: BLE001 - whatever it was, the loop goes on; it is counted
            name = f"error.{where}"
            self._counters[name] += 1
            count = self._counters[name]
            if count & (count - 1) == 0:
                self._log.exception("mesh: %s failed (%d times so far); going on", where, count)
            return False
        return True
