"""Bounds, and what several promises are tested with."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch
from tests.fastest import HANG_S, Stopwatch, at_most
from tests.loader.transport.carriers import Carrier, GroupPair, started
from torch._C._distributed_c10d import Store

from netloader.transport import Backend, Group, Pending, Rendezvous, TransportError, join

LATE_S = HANG_S
"""A timeout that no test may reach."""


PROMPT_S = 1.0
"""Bound of what has to happen at once: moments, on a machine that is not busy."""


KIB, MIB = 1 << 10, 1 << 20


def fails(pending: Pending, timeout_s: float = LATE_S, limit_s: float = PROMPT_S) -> str:
    """Wait for a transfer that must fail at once. Returns why it did."""
    with at_most(limit_s), pytest.raises(TransportError) as caught:
        pending.wait(timeout_s)
    return str(caught.value)


def moved(pair: GroupPair, data: torch.Tensor, target: torch.Tensor, tag: int = 1) -> None:
    arriving = pair.replica.recv(target, tag)
    pair.source.send(data, tag).wait(LATE_S)
    arriving.wait(LATE_S)


def has_heard(carrier: Carrier, group: Group) -> None:
    """Check that this end knows of the other's abort."""
    with at_most(PROMPT_S), pytest.raises(TransportError):
        group.recv(carrier.zeros(1), 999).wait(LATE_S)


class LeavingBackend:
    """Comes to the rendezvous and opens nothing."""

    name = "leaving"
    connections = 0

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        raise TransportError("changed its mind")


class SilentBackend:
    """Comes to the rendezvous and says nothing until `leave`."""

    name = "silent"
    connections = 0

    def __init__(self) -> None:
        self.leave = threading.Event()

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        self.leave.wait(LATE_S)
        raise TransportError("was silent")


def meeting(
    source: Backend, replica: Backend, timeout_s: float = LATE_S, secret: str = ""
) -> tuple[Group | None, Group | None, float]:
    """What each end gets at a rendezvous, and by a stopwatch the seconds that it took both."""
    rendezvous = Rendezvous("127.0.0.1", timeout_s)
    watch = Stopwatch()
    opening = started(lambda: rendezvous.open(source))
    joining = started(
        lambda: join("127.0.0.1", rendezvous.port, secret or rendezvous.secret, replica, timeout_s)
    )
    groups: list[Group | None] = []
    for end in (opening, joining):
        error = end.exception(LATE_S)
        assert error is None or isinstance(error, TransportError), error
        groups.append(None if error else end.result())
    return groups[0], groups[1], watch.seconds()
