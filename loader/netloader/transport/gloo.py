"""Gloo: host memory over TCP, on several connections at once (`stripes.py`).

If a connection breaks before a message has begun, Gloo wakes the thread that waits for it. If the
connection breaks halfway through, Gloo leaves the thread blocked until its timeout. So the last
bytes of every part travel as a message of their own, which the receiver waits for first: it hears
at once that its peer has died. A sender may still wait for its timeout.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final

import torch
from torch._C._distributed_c10d import ProcessGroupGloo, Store, Work

from netloader.errors import TransportError
from netloader.transport import send_buffers
from netloader.transport.base import RANKS, Group, Pending, aborted, failed, peer_of
from netloader.transport.listeners import shut_listeners
from netloader.transport.store import RecordingStore
from netloader.transport.stripes import LANES, lane_tag, stripes
from netmesh import Door, all_shut

_log = logging.getLogger(__name__)

_TAIL: Final = 64
"""Bytes of the separate message that ends each part."""

_ABORT_TAGS: Final = range(1 << 28, 1 << 29)
"""Tags that no chunk has: chunk ids end far below. A tag is drawn at random, so that a peer cannot
have posted its counterpart."""

_ROOM: Final = 64
"""Descriptors that must be free before Gloo listens. A group takes ten."""

_ABORT_WAIT: Final = timedelta(milliseconds=1)


class GlooPending:
    """A Gloo send or receive under way, on one lane or both."""

    def __init__(
        self, group: GlooGroup, sends: bool, data: torch.Tensor, tag: int, works: list[Work]
    ) -> None:
        """`works` are Gloo's parts of the transfer, in the order in which to wait for them."""
        self._group = group
        self._sends = sends
        self._data = data  # Gloo holds only the address: this keeps the memory alive.
        self._tag = tag
        self._works = works
        self._failed: str | None = None

    def wait(self, timeout_s: float) -> None:
        if self._failed is not None:
            raise TransportError(self._failed)
        deadline = time.monotonic() + timeout_s
        try:
            while self._works:
                left = max(0.001, deadline - time.monotonic())  # Zero would mean for ever.
                self._works[0].wait(timedelta(seconds=left))
                del self._works[0]
        except RuntimeError as error:
            self._failed = self._group.give_up(self._sends, self._data.numel(), self._tag, error)
            raise TransportError(self._failed) from None


class GlooGroup:
    """A two-rank Gloo group. One lane's error breaks all of it."""

    # torch's stub of ProcessGroupGloo lacks send and recv.
    def __init__(self, group: Any, peer: int, doors: Collection[Door] = ()) -> None:
        """`group` has a context per lane, and uses the one numbered tag modulo `LANES`. `doors`
        are its listeners, shut."""
        self._group = group
        self._doors = doors
        self._peer = peer
        self._aborting = threading.Lock()
        self._why: str | None = None  # Set before the lanes are closed; waiting threads read it.

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(True, data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(False, data, tag)

    def abort(self, reason: str = "") -> None:
        # ProcessGroupGloo.abort() does nothing, and a pending transfer keeps the connection open
        # after the group is gone. A wait that times out closes it, and wakes whoever else waits.
        with self._aborting:  # The second caller may not return before the lanes are closed either.
            group, self._group = self._group, None
            if group is None:
                return
            self._why = aborted(reason)
            for lane in range(LANES):
                try:
                    # A send, because a message longer than what was posted for it would terminate
                    # the process that receives it.
                    tag = lane_tag(secrets.choice(_ABORT_TAGS), lane)
                    never = group.send([torch.empty(1, dtype=torch.uint8)], self._peer, tag)
                    never.wait(_ABORT_WAIT)
                except RuntimeError as closed:
                    _log.debug("lane %d aborted: %s", lane, _first_line(closed))
            for door in self._doors:
                door.close()

    def give_up(self, sends: bool, nbytes: int, tag: int, error: RuntimeError) -> str:
        """Break the group over a transfer that Gloo gave up. Returns the text of its error.

        The other lane may be well, and would go on with half of a message.
        """
        # A transfer that an abort ended fails for the abort's reason, whatever Gloo says.
        found = failed(sends, nbytes, tag, self._peer, self._why or _first_line(error))
        self.abort(found)
        return found

    def _start(self, sends: bool, data: torch.Tensor, tag: int) -> Pending:
        group = self._group
        if group is None:
            why = self._why or aborted("")
            raise TransportError(failed(sends, data.numel(), tag, self._peer, why))
        transfer = group.send if sends else group.recv
        bodies: list[Work] = []
        tails: list[Work] = []
        try:
            for lane, part in stripes(data.numel(), tag):
                whole = data[part]
                middle = max(0, whole.numel() - _TAIL)
                if middle:
                    bodies.append(transfer([whole[:middle]], self._peer, lane_tag(tag, lane)))
                tails.append(transfer([whole[middle:]], self._peer, lane_tag(tag, lane)))
        except RuntimeError as error:
            raise TransportError(self.give_up(sends, data.numel(), tag, error)) from None
        return GlooPending(self, sends, data, tag, tails + bodies)


class GlooBackend:
    """Opens Gloo groups on one address, so that nothing listens more widely than necessary."""

    name = "gloo"
    connections = 0

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timeout
        # These threads run collectives, of which there are none. Each lane's device has its own
        # thread, which moves the bytes.
        options._threads = 1
        recording = RecordingStore(store)
        first = send_buffers.lowest_free_descriptor()
        try:
            # libgloo ends the process when it cannot accept, so nobody else may take descriptors
            # until its listeners are shut.
            with all_shut() as room:
                if room < _ROOM:
                    raise TransportError(f"no Gloo group: {room} file descriptors are left")
                # Each device becomes a context, with keys of its own in the store.
                options._devices = [
                    ProcessGroupGloo.create_device(hostname=host) for _ in range(LANES)
                ]
                group = ProcessGroupGloo(recording, rank, 2, options)
                doors = shut_listeners(host, recording.mine)
        except RuntimeError as error:
            peer = RANKS[peer_of(rank)]
            raise TransportError(f"no Gloo group with the {peer}: {_first_line(error)}") from None
        if len(doors) < LANES:
            _log.debug("%d of %d Gloo listeners are shut", len(doors), LANES)
        local = send_buffers.shrink(host, recording.mine, recording.theirs, first, LANES)
        _log.debug("%d of %d connections are to a process of this host", local, LANES)
        return GlooGroup(group, peer_of(rank), doors)


def _first_line(error: RuntimeError) -> str:
    """torch appends a C++ stack or a joke; the first sentence says what happened."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
