"""Watched connections: when a member's shell would notice that one broke.

The figures are those of the ZeroMQ shell. A process that ends closes its connections at once. TCP
keepalive notices a host or path that is cut (3 s idle, then 3 probes 1 s apart). A connect is given
up after 3 s, and a link that is down is retried with pauses of up to 2 s. A broken link is reported
once until it has worked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from netmesh.core.events import Event, LinkLost
from netmesh.core.records import MemberId
from netsim.network import Network
from netsim.process import Fate, Process

CLOSED_S = 0.001
"""Time until a process learns from its kernel that a peer closed."""
KEEPALIVE_S = 6.0
CONNECT_S = 3.0
RETRY_S = 2.0


class Ground(Protocol):
    """What the links need of the world."""

    network: Network
    processes: dict[MemberId, Process]

    def after(self, delay: float, action: Callable[..., None], *args: object) -> None: ...
    def give(self, process: Process, event: Event) -> None: ...


class WatchLinks:
    """The watched links of all processes."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._watchers: dict[MemberId, dict[int, Process]] = {}
        """Watching processes by watched member."""
        self._reported: set[tuple[int, MemberId]] = set()
        self.lost = 0
        """Links reported as broken."""

    def watch(self, process: Process, ids: frozenset[MemberId]) -> None:
        """Make these the links that `process` watches."""
        # Sorted, because a set of strings has another order in every Python process.
        for gone in sorted(process.watching - ids):
            process.links.pop(gone, None)
            self._watchers[gone].pop(process.index, None)
            self._reported.discard((process.index, gone))
        new = sorted(ids - process.watching)
        process.watching = ids
        for member in new:
            self._watchers.setdefault(member, {})[process.index] = process
            self._connect(process, member)

    def ended(self, member: MemberId) -> None:
        """The process at that address closed its sockets."""
        self._break(member, CLOSED_S)

    def cut(self) -> None:
        """Hosts or paths went down somewhere. Affected processes notice through keepalive."""
        for watchers in self._watchers.values():
            for process in watchers.values():
                for member in process.links:
                    if not self._alive(process, member):
                        self._ground.after(KEEPALIVE_S, self._expired, process, member)

    def _break(self, member: MemberId, delay: float) -> None:
        for process in list(self._watchers.get(member, {}).values()):
            if process.links.pop(member, None) is not None:
                self._ground.after(delay, self._report, process, member)
                self._ground.after(RETRY_S, self._connect, process, member)

    def _expired(self, process: Process, member: MemberId) -> None:
        if member in process.links and not self._alive(process, member):
            del process.links[member]
            self._report(process, member)
            self._ground.after(RETRY_S, self._connect, process, member)

    def _alive(self, process: Process, member: MemberId) -> bool:
        """True when the kernels at both ends still talk."""
        peer = self._ground.processes.get(member)
        there = peer is not None and peer.fate is not Fate.VANISHED
        return there and self._ground.network.both_ways(process.id, member)

    def _connect(self, process: Process, member: MemberId) -> None:
        if process.fate.ended or member not in process.watching or member in process.links:
            return
        ground = self._ground
        peer = ground.processes.get(member)
        if peer is None or peer.fate in (Fate.CRASHED, Fate.DEPARTED):
            wait = CLOSED_S
        elif not self._alive(process, member):
            wait = CONNECT_S
        else:
            process.links[member] = peer.index
            self._reported.discard((process.index, member))
            return
        ground.after(wait, self._report, process, member)
        ground.after(wait + RETRY_S, self._connect, process, member)

    def _report(self, process: Process, member: MemberId) -> None:
        key = (process.index, member)
        if process.fate.ended or member not in process.watching or key in self._reported:
            return
        self._reported.add(key)
        self.lost += 1
        self._ground.give(process, LinkLost(member))
