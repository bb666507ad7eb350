"""Plain TCP connects on the poll loop: the question "does a kernel still accept there?".

A refused connect is a dead process, a silent one a dead host or network, an accepted one a kernel
that is alive although its process may be stuck. Nothing is sent.
"""

from __future__ import annotations

import errno
import heapq
import socket
from collections import Counter, deque
from collections.abc import Callable

from netmesh.bootstrap.address import Address, numeric_address
from netmesh.core.events import DialOutcome
from netmesh.core.records import MemberId
from netmesh.io.reactor import Reactor

MAX_OPEN = 32
"""Connects in flight. Triage needs a few; a burst waits its turn in the queue."""

MAX_WAITING = 512
"""Connects that wait. Beyond it the answer is SILENT at once: the truth is that we cannot tell."""


class Dialler:
    """Starts connects and reports each outcome exactly once, from the reactor or ``expire``.

    *report* is called on the owner's thread, never from inside ``dial``.
    """

    def __init__(
        self,
        reactor: Reactor,
        report: Callable[[MemberId, DialOutcome], None],
        counters: Counter[str],
    ) -> None:
        self._reactor = reactor
        self._report = report
        self._counters = counters
        self._open: dict[int, tuple[socket.socket, MemberId]] = {}
        self._deadlines: list[tuple[float, int, int, socket.socket]] = []
        self._started = 0
        self._waiting: deque[tuple[MemberId, float]] = deque()
        self._done: deque[tuple[MemberId, DialOutcome]] = deque()

    def dial(self, member: MemberId, timeout_s: float, now: float) -> None:
        """Start (or queue) a connect to *member*; SILENT after *timeout_s* without an answer."""
        if len(self._open) < MAX_OPEN:
            self._start(member, timeout_s, now)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((member, timeout_s))
        else:
            self._counters["dropped.dial"] += 1
            self._done.append((member, DialOutcome.SILENT))

    def _finished(self, descriptor: int) -> None:
        sock, member = self._open[descriptor]
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._forget(descriptor)
        self._report(member, _outcome(error))

    def deadline(self) -> float:
        """When ``expire`` has something to do (monotonic seconds; infinity: never)."""
        if self._done:
            return 0.0
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def expire(self, now: float) -> None:
        """Report connects that ran out of time and start those that waited."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, descriptor, sock = heapq.heappop(self._deadlines)
            if self._open.get(descriptor, (None,))[0] is sock:  # else done, number recycled
                member = self._open[descriptor][1]
                self._forget(descriptor)
                self._done.append((member, DialOutcome.SILENT))
        while self._waiting and len(self._open) < MAX_OPEN:
            self._start(*self._waiting.popleft(), now)
        while self._done:
            self._report(*self._done.popleft())

    def close(self) -> None:
        for descriptor in list(self._open):
            self._forget(descriptor)
        self._waiting.clear()

    def _start(self, member: MemberId, timeout_s: float, now: float) -> None:
        address: Address | None = numeric_address(member)
        if address is None:
            self._counters["dropped.bad_address"] += 1
            self._done.append((member, DialOutcome.SILENT))
            return
        family = socket.AF_INET6 if address.is_v6 else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:  # no descriptor left: says nothing about the member
            self._counters["error.dial"] += 1
            self._done.append((member, DialOutcome.SILENT))
            return
        error = sock.connect_ex((address.host, address.port))
        if error in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._open[sock.fileno()] = (sock, member)
            descriptor = sock.fileno()
            self._reactor.add(descriptor, lambda: self._finished(descriptor), writable=True)
            self._started += 1  # breaks ties: sockets have no order
            heapq.heappush(self._deadlines, (now + timeout_s, self._started, descriptor, sock))
            return
        sock.close()
        self._done.append((member, _outcome(error)))

    def _forget(self, descriptor: int) -> None:
        sock, _ = self._open.pop(descriptor)
        self._reactor.remove(descriptor)
        sock.close()


def _outcome(error: int) -> DialOutcome:
    if error == 0:
        return DialOutcome.CONNECTED
    # Anything but a refusal (no route, local limits) leaves open whether the process lives.
    return DialOutcome.REFUSED if error == errno.ECONNREFUSED else DialOutcome.SILENT
