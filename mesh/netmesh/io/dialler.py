"""Plain TCP connects on the poll loop, which ask whether a kernel still accepts there.

A refused connect means a dead process, a silent one a dead host or network. An accepted connect
means that the kernel is alive, although its process may be stuck. Nothing is sent.

A process that is being killed loses its sockets one after another, the listening one last. A member
that learns of the first loss and connects at once may still be accepted. So an accepted connect is
watched for a moment. If the other side greets, it is alive; if it cuts the connection, the dialler
connects again.
"""

from __future__ import annotations

import errno
import heapq
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from netmesh.address import Locate, numeric_address
from netmesh.core.events import DialOutcome
from netmesh.core.records import MemberId
from netmesh.io.reactor import Reactor

MAX_OPEN = 32
"""Connects in flight. Triage needs a few; a burst waits in the queue."""

MAX_WAITING = 512
"""Connects that wait. Beyond this bound the answer is UNKNOWN at once."""

NOT_TRIED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN))
"""What this host lacks: descriptors or memory."""

SETTLE_S = 0.05
"""How long an accepted connect is watched. ZeroMQ's own thread greets within a millisecond, even
while the process holds the interpreter. A stopped process does not greet, and costs this wait."""

MAX_CUT = 3
"""After this many cut connects in a row, the kernel counts as accepting."""


@dataclass(slots=True, eq=False)
class _Attempt:
    member: MemberId
    limit: float
    """When the caller needs an answer at the latest."""
    cut: int = 0
    deadline: float = field(init=False)
    sock: socket.socket | None = None
    accepted: bool = False

    def __post_init__(self) -> None:
        self.deadline = self.limit


class Dialler:
    """Starts connects and reports each outcome exactly once, from the reactor or `expire`.

    `report` is called on the owner's thread, never from inside `dial`.
    """

    def __init__(
        self,
        reactor: Reactor,
        report: Callable[[MemberId, DialOutcome], None],
        counters: Counter[str],
        clock: Callable[[], float],
        *,
        max_open: int = MAX_OPEN,
        max_waiting: int = MAX_WAITING,
        make_socket: Callable[[int, int], socket.socket] = socket.socket,
        locate: Locate = numeric_address,
    ) -> None:
        self._max_open = max_open
        self._max_waiting = max_waiting
        self._make_socket = make_socket
        self._locate = locate
        self._reactor = reactor
        self._report = report
        self._counters = counters
        self._clock = clock
        self._open: set[_Attempt] = set()
        self._deadlines: list[tuple[float, int, _Attempt]] = []
        self._timers = 0
        self._waiting: deque[tuple[MemberId, float]] = deque()
        self._done: deque[tuple[MemberId, DialOutcome]] = deque()

    def dial(self, member: MemberId, timeout_s: float) -> None:
        """Start (or queue) a connect to `member`; SILENT after `timeout_s` without an answer."""
        if len(self._open) < self._max_open:
            self._start(_Attempt(member, self._clock() + timeout_s))
        elif len(self._waiting) < self._max_waiting:
            self._waiting.append((member, timeout_s))
        else:
            self._counters["dropped.dial"] += 1
            self._done.append((member, DialOutcome.UNKNOWN))

    def deadline(self) -> float:
        """When `expire` has something to do (monotonic seconds; infinity: never)."""
        if self._done:
            return 0.0
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def expire(self) -> None:
        """Report connects whose time is over, and start waiting ones."""
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            due, _, dial = heapq.heappop(self._deadlines)
            if dial in self._open and due == dial.deadline:  # else it has ended or has moved
                self._finish(dial, DialOutcome.CONNECTED if dial.accepted else DialOutcome.SILENT)
        while self._waiting and len(self._open) < self._max_open:
            member, timeout_s = self._waiting.popleft()
            self._start(_Attempt(member, now + timeout_s))
        while self._done:
            member, outcome = self._done.popleft()
            self._counters[f"dial.{outcome.value}"] += 1
            self._report(member, outcome)

    def close(self) -> None:
        for dial in list(self._open):
            self._forget(dial)
        self._waiting.clear()

    def _start(self, dial: _Attempt) -> None:
        address = self._locate(dial.member)
        if address is None:
            self._counters["dropped.bad_address"] += 1
            self._finish(dial, DialOutcome.SILENT)
            return
        family = socket.AF_INET6 if address.is_v6 else socket.AF_INET
        try:
            dial.sock = self._make_socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:  # no descriptor left, which says nothing about the member
            self._counters["error.dial"] += 1
            self._finish(dial, DialOutcome.UNKNOWN)
            return
        try:
            error = dial.sock.connect_ex((address.host, address.port))
        except OSError as failed:  # an address that this host cannot represent
            error = failed.errno or errno.EADDRNOTAVAIL
        if error not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._finish(dial, _failure(error, dial))
            return
        self._open.add(dial)
        self._reactor.add(dial.sock.fileno(), lambda: self._connected(dial), writable=True)
        self._set_timer(dial)

    def _connected(self, dial: _Attempt) -> None:
        assert dial.sock is not None
        error = dial.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._finish(dial, _failure(error, dial))
            return
        if dial.sock.getsockname() == dial.sock.getpeername():
            # On one host the kernel may pick the dialled port as our own, and TCP then connects
            # to itself. Nobody listens there.
            self._finish(dial, DialOutcome.REFUSED)
            return
        dial.accepted = True
        dial.deadline = self._clock() + SETTLE_S
        self._set_timer(dial)
        self._reactor.remove(dial.sock.fileno())
        self._reactor.add(dial.sock.fileno(), lambda: self._settled(dial))

    def _settled(self, dial: _Attempt) -> None:
        assert dial.sock is not None
        try:
            greeted = bool(dial.sock.recv(1))
        except OSError:
            greeted = False
        if greeted or dial.cut == MAX_CUT:
            self._finish(dial, DialOutcome.CONNECTED)
            return
        # Cut: the port was closing, or a server just replaced its sockets. Only another connect
        # can tell the two apart.
        self._forget(dial)
        self._start(_Attempt(dial.member, dial.limit, dial.cut + 1))

    def _set_timer(self, dial: _Attempt) -> None:
        self._timers += 1  # breaks ties, because dials have no order
        heapq.heappush(self._deadlines, (dial.deadline, self._timers, dial))

    def _finish(self, dial: _Attempt, outcome: DialOutcome) -> None:
        self._forget(dial)
        self._done.append((dial.member, outcome))

    def _forget(self, dial: _Attempt) -> None:
        if dial in self._open:
            self._open.discard(dial)
            assert dial.sock is not None
            self._reactor.remove(dial.sock.fileno())
        if dial.sock is not None:
            dial.sock.close()
            dial.sock = None


def _failure(error: int, dial: _Attempt) -> DialOutcome:
    if error == errno.ECONNREFUSED:
        return DialOutcome.REFUSED
    # For IPv4, EADDRNOTAVAIL means that no local port is free; for IPv6, that there is no address
    # to connect from. The second would hide a member that nobody can reach for ever.
    no_port = error == errno.EADDRNOTAVAIL and not dial.member.startswith("[")
    return DialOutcome.UNKNOWN if no_port or error in NOT_TRIED else DialOutcome.SILENT
