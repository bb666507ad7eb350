"""Gloo: host memory over TCP, on `LANES` connections at once.

One Gloo connection is driven by one thread on either side and fills one core; two move more where
there are two. So a group opens a connection per lane, each with an event loop of its own, and a
large message travels in halves, one on each. What goes where follows from a message's size and tag
alone, so both ends decide alike without a word, and messages of one tag keep their order on every
lane they use.

Gloo wakes who waits for a message that has not begun when its connection breaks, not for one of
which a part is here. So the last bytes of every part travel as a message of their own, and those
are waited for first: a receiver hears at once that its peer has died. A sender may still wait for
its timeout.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import torch
from torch._C._distributed_c10d import ProcessGroupGloo, Store, Work

from netloader.errors import TransportError
from netloader.transport import send_buffers
from netloader.transport.base import REPLICA, SOURCE, Group, Pending

_log = logging.getLogger(__name__)

LANES: Final = 2
"""Connections of a group. Two fill two cores; more moved nothing more where it was measured."""

STRIPE_FROM: Final = 8 * 1024 * 1024
"""Bytes from which a message is halved. Below, a second message's fixed cost (0.1..0.2 ms) eats
what the second lane brings; there every other tag takes the other lane."""

_ALIGNMENT: Final = 4096
"""Halves begin on a page, so that the lanes never write the same one."""

_TAIL: Final = 64
"""Bytes of the message of its own that ends each part."""

_ABORT_TAGS: Final = range(1 << 28, 1 << 29)
"""Tags that no chunk has: their ids end far below. One is drawn at random, so that a peer cannot
have posted the counterpart."""

_ABORT_WAIT: Final = timedelta(milliseconds=1)


def stripes(nbytes: int, tag: int) -> Iterator[tuple[int, slice]]:
    """How a message travels: lanes, and which of its bytes each carries. The same at both ends."""
    if nbytes < STRIPE_FROM:
        yield tag % LANES, slice(0, nbytes)
        return
    bounds = [nbytes * lane // LANES // _ALIGNMENT * _ALIGNMENT for lane in range(LANES)]
    yield from enumerate(map(slice, bounds, [*bounds[1:], nbytes]))


class GlooPending:
    """A Gloo send or receive under way, on one lane or both."""

    def __init__(self, group: GlooGroup, works: list[Work], data: torch.Tensor) -> None:
        self._group = group
        self._works = works
        self._data = data  # Gloo holds the address only: this keeps the memory alive.

    def wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        try:
            for work in self._works:
                left = max(0.001, deadline - time.monotonic())  # Zero would mean: for ever.
                work.wait(timedelta(seconds=left))
        except RuntimeError as error:
            # The other lane may be well, and would go on with half of a message.
            self._group.abort()
            raise TransportError(_first_line(error)) from None


class GlooGroup:
    """A two-rank Gloo group. One lane's error breaks all of it."""

    # torch's stub of ProcessGroupGloo lacks send and recv.
    def __init__(self, group: Any, peer: int) -> None:
        """`group` has a context per lane, and uses the one numbered tag modulo `LANES`."""
        self._group = group
        self._peer = peer
        self._aborting = threading.Lock()

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(self._alive().send, data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(self._alive().recv, data, tag)

    def abort(self) -> None:
        # ProcessGroupGloo.abort() does nothing, and a pending transfer keeps the connection open
        # after the group is gone. A wait that times out closes it, and wakes whoever else waits.
        with self._aborting:  # Who comes second may not return before the lanes are closed either.
            group, self._group = self._group, None
            if group is None:
                return
            for lane in range(LANES):
                try:
                    # A send, because a message longer than what was posted for it would terminate
                    # the process that receives it.
                    tag = _lane_tag(secrets.choice(_ABORT_TAGS), lane)
                    never = group.send([torch.empty(1, dtype=torch.uint8)], self._peer, tag)
                    never.wait(_ABORT_WAIT)
                except RuntimeError as closed:
                    _log.debug("lane %d aborted: %s", lane, _first_line(closed))

    def _start(self, transfer: Any, data: torch.Tensor, tag: int) -> Pending:
        bodies: list[Work] = []
        tails: list[Work] = []
        try:
            for lane, part in stripes(data.numel(), tag):
                whole = data[part]
                middle = max(0, whole.numel() - _TAIL)
                if middle:
                    bodies.append(transfer([whole[:middle]], self._peer, _lane_tag(tag, lane)))
                tails.append(transfer([whole[middle:]], self._peer, _lane_tag(tag, lane)))
        except RuntimeError as error:
            self.abort()
            raise TransportError(_first_line(error)) from None
        return GlooPending(self, tails + bodies, data)

    def _alive(self) -> Any:
        if self._group is None:
            raise TransportError("the group was aborted")
        return self._group


class GlooBackend:
    """Opens Gloo groups on one address, so that nothing listens wider than it has to."""

    name = "gloo"

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timeout
        # These run collectives, of which there are none: each lane's device has a thread that
        # moves its bytes.
        options._threads = 1
        overheard = send_buffers.Overheard(store)
        first = send_buffers.first_free()
        try:
            # Each device becomes a context, with keys of its own in the store.
            options._devices = [ProcessGroupGloo.create_device(hostname=host) for _ in range(LANES)]
            group = ProcessGroupGloo(overheard, rank, 2, options)
        except RuntimeError as error:
            raise TransportError(_first_line(error)) from None
        local = send_buffers.shorten(host, overheard.mine, overheard.theirs, first, LANES)
        _log.debug("%d of %d connections are to a process of this host", local, LANES)
        return GlooGroup(group, REPLICA if rank == SOURCE else SOURCE)


def _lane_tag(tag: int, lane: int) -> int:
    """ProcessGroupGloo takes the context whose number is the tag modulo their count."""
    return tag * LANES + lane


def _first_line(error: RuntimeError) -> str:
    """torch appends a C++ stack or a joke; the first sentence says what happened."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
