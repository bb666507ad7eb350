"""Memory: a group between two threads of one process. For tests, and for both ends in one program.

A transfer that finds no counterpart of its tag waits in a queue. The thread that posts the second
of the two copies the bytes from where they lie to where they belong. So this transport has no
thread, no descriptor and no buffer. A sender is never ahead of its receiver, and posted transfers
hold only references.

One lock guards a group. The lock is held during a copy, so an abort waits for the copy under way,
and nothing is touched afterwards. A copy of 64 MiB takes some 10 ms.

Tensors must lie in host memory: a copy between devices would need a wait of its own.
"""

from __future__ import annotations

import secrets
import threading
from collections import defaultdict, deque
from datetime import timedelta

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport.base import (
    RANKS,
    REPLICA,
    SOURCE,
    Group,
    Pending,
    aborted,
    failed,
    peer_of,
)


class MemoryPending:
    """A transfer of one rank, in the queue of its tag or done."""

    def __init__(self, matcher: _Matcher, rank: int, sends: bool, data: torch.Tensor, tag: int):
        self.rank = rank
        self.sends = sends
        self.data = data
        self.tag = tag
        self.done = False
        self._matcher = matcher

    def wait(self, timeout_s: float) -> None:
        self._matcher.wait(self, timeout_s)

    def failed(self, why: str) -> str:
        """The text of the transfer's error."""
        return failed(self.sends, self.data.numel(), self.tag, peer_of(self.rank), why)


class _Matcher:
    """Shared by both ends of a group, it matches their sends with their receives."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # Guards the fields below, and the bytes.
        self._posted: defaultdict[tuple[int, int], deque[MemoryPending]] = defaultdict(deque)
        """Transfers without a counterpart, by sending rank and tag. Each queue holds only sends or
        only receives."""
        self._broken: dict[int, str] = {}
        """Why nothing moves any more, by the rank that is told."""

    def post(self, transfer: MemoryPending) -> None:
        """Do a transfer if its counterpart is there, else queue it."""
        sender = transfer.rank if transfer.sends else peer_of(transfer.rank)
        with self._changed:
            self._check(transfer)
            queue = self._posted[sender, transfer.tag]
            if not queue or queue[0].sends == transfer.sends:
                queue.append(transfer)
                return
            other = queue.popleft()
            sending, receiving = (transfer, other) if transfer.sends else (other, transfer)
            nbytes, room = sending.data.numel(), receiving.data.numel()
            if nbytes > room:
                why = f"{nbytes} bytes were sent for {room}"
                self._break({SOURCE: why, REPLICA: why})
                self._check(transfer)
            receiving.data[:nbytes].copy_(sending.data)
            transfer.done = other.done = True
            self._changed.notify_all()

    def wait(self, transfer: MemoryPending, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: transfer.done or self._broken, timeout_s)
            if transfer.done:
                return
            if not self._broken:
                late = transfer.failed(f"timed out after {timeout_s:g} s")
                self._leave(transfer.rank, late)
                raise TransportError(late)
            self._check(transfer)

    def abort(self, rank: int, reason: str) -> None:
        with self._changed:
            self._leave(rank, reason)

    def _leave(self, rank: int, reason: str) -> None:
        peer = peer_of(rank)
        self._break({rank: aborted(reason), peer: f"the {RANKS[rank]} has left"})

    def _break(self, why: dict[int, str]) -> None:
        if not self._broken:
            self._broken = why
            self._posted.clear()
            self._changed.notify_all()

    def _check(self, transfer: MemoryPending) -> None:
        if self._broken:
            raise TransportError(transfer.failed(self._broken[transfer.rank]))


class MemoryGroup:
    """One end of a matcher."""

    def __init__(self, matcher: _Matcher, rank: int) -> None:
        self._matcher = matcher
        self._rank = rank

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(True, data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(False, data, tag)

    def abort(self, reason: str = "") -> None:
        self._matcher.abort(self._rank, reason)

    def _start(self, sends: bool, data: torch.Tensor, tag: int) -> Pending:
        transfer = MemoryPending(self._matcher, self._rank, sends, data, tag)
        self._matcher.post(transfer)
        return transfer


class MemoryBackend:
    """Where two threads meet: the same object opens both ends of a group."""

    name = "memory"
    connections = 0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, _Matcher] = {}
        """Matchers whose replica has not come, by a word that only the matcher's store carries."""

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        matcher = self._offer(store, timeout) if rank == SOURCE else self._take(store, timeout)
        return MemoryGroup(matcher, rank)

    def _offer(self, store: Store, timeout: timedelta) -> _Matcher:
        matcher, word = _Matcher(), secrets.token_hex(16)
        with self._lock:
            self._waiting[word] = matcher
        try:
            store.set(_keys[SOURCE], word)
            store.wait([_keys[REPLICA]], timeout)
        except (RuntimeError, TransportError) as error:
            # The replica may have taken the matcher a moment ago.
            matcher.abort(SOURCE, "it was never open")
            raise _no_group(REPLICA, error) from None
        finally:
            with self._lock:
                self._waiting.pop(word, None)
        return matcher

    def _take(self, store: Store, timeout: timedelta) -> _Matcher:
        try:
            store.wait([_keys[SOURCE]], timeout)
            word = store.get(_keys[SOURCE]).decode()
        except (RuntimeError, TransportError) as error:
            raise _no_group(SOURCE, error) from None
        with self._lock:
            matcher = self._waiting.pop(word, None)
        if matcher is None:
            raise _no_group(SOURCE, "it has gone, or waits at another backend or process")
        try:
            store.set(_keys[REPLICA], "here")
        except (RuntimeError, TransportError) as error:
            matcher.abort(REPLICA, "it was never open")
            raise _no_group(SOURCE, error) from None
        return matcher


_keys = ("memory/source", "memory/replica")


def _no_group(peer: int, why: object) -> TransportError:
    return TransportError(f"no memory group with the {RANKS[peer]}: {why}")
