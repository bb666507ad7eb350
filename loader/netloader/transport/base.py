"""What the rest of the loader needs from a process group, whatever carries the bytes.

A group has two ranks: `SOURCE` and `REPLICA`. The group is stateless: never registered with
`torch.distributed`, made for one session, thrown away on any error.

Every implementation promises, and `tests/loader/transport/conformance` demands:

- Messages of one tag arrive in the order in which they were sent. Both ends may post the messages
  of several tags interleaved, in the same order.
- No bytes outside the posted tensor are read or written, and none at all once `abort` has returned.
- Every wait is bounded by its timeout. An abort wakes the threads that wait, at either end.
- A receive fails at once when the peer has died or aborted.
- An error says which transfer failed, with whom and why, and breaks the whole group.
- A group that was aborted keeps no thread, descriptor or connection.

A group takes flat, contiguous uint8 tensors in the memory of the device that is current where its
backend was made. It sends those of host memory too, by way of a bounded part of the device's memory
where its library cannot, and then `send` may wait for room. A transfer begins after what the
thread that posts it has given its current stream; when `wait` returns, every stream sees the bytes.

An implementation does not promise:

- that a send has reached the peer when its `wait` returns: the bytes may lie in a buffer;
- that a send fails at once when the peer has gone: a sender may wait for its timeout;
- that tags overtake one another: collective libraries have no tags, only an order;
- that a message shorter than its receive is an error, or that the group survives a longer one: the
length is agreed beforehand, and digests tell whether the bytes are right;
- that both ends fail, or succeed, with a transfer during which one of them aborts;
- that anything can be used after an error, or that two threads may wait for one transfer.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Protocol

import torch
from torch._C._distributed_c10d import Store

SOURCE: Final = 0
REPLICA: Final = 1

RANKS: Final = ("source", "replica")
"""Names of the ranks in errors."""


class Pending(Protocol):
    """A send or receive under way. Its tensor must stay untouched until `wait` returns."""

    def wait(self, timeout_s: float) -> None:
        """Block, without the GIL, until the transfer is complete. Raises `TransportError`.

        A second call returns, or raises, at once.
        """


class Group(Protocol):
    """A two-rank process group between one source and one replica."""

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        """Start sending a flat uint8 tensor to the other rank. Raises `TransportError`."""

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        """Start receiving exactly `data.numel()` bytes. Raises `TransportError`."""

    def abort(self, reason: str = "") -> None:
        """Break the group, from any thread: every wait on it raises. Idempotent.

        The errors at this end give the `reason`, the first one if there are several. Once this has
        returned, no tensor is read or written any more, and the peer finds out.
        """


class Backend(Protocol):
    """One way to carry bytes between two devices of a kind."""

    name: str
    """The name that the advert uses: `tcp`, `gloo`, `nccl`, `hccl`."""

    connections: int
    """How many connections of the rendezvous the group takes over (`store.lanes`), besides the one
    that carries the store. The same at both ends."""

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        """Join the group that the other rank opens over the same store.

        `host` is this side's address towards the peer. Blocks at most `timeout` until both ranks
        are there. Raises `TransportError` at once when the store does, because the peer has gone.
        """


def peer_of(rank: int) -> int:
    """The other rank of the two."""
    return REPLICA if rank == SOURCE else SOURCE


def aborted(reason: str) -> str:
    """The error text of a group that this end has aborted."""
    return f"the group was aborted: {reason}" if reason else "the group was aborted"


def failed(sends: bool, nbytes: int, tag: int, peer: int, why: str) -> str:
    """The error text of one failed transfer."""
    what, towards = ("send", "to") if sends else ("receive", "from")
    return f"{what} of {nbytes} bytes (tag {tag}) {towards} the {RANKS[peer]}: {why}"
