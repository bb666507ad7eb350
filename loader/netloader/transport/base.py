"""What the rest of the loader needs from a process group, whatever carries the bytes.

A group has two ranks: `SOURCE` and `REPLICA`. It is stateless: never registered with
`torch.distributed`, made for one session, thrown away on any error.

What an implementation does not promise: that a send has reached the peer when its `wait` returns
(it may have been buffered), that an error on one side shows on the other at once, or that anything
can be used after an error. Messages between one pair of ranks keep their order per tag only.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Protocol

import torch
from torch._C._distributed_c10d import Store

SOURCE: Final = 0
REPLICA: Final = 1


class Pending(Protocol):
    """A send or receive under way. Its tensor must stay untouched until `wait` returns."""

    def wait(self, timeout_s: float) -> None:
        """Block, without the GIL, until the transfer is complete. Raises `TransportError`."""


class Group(Protocol):
    """A two-rank process group between one source and one replica."""

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        """Start sending a flat uint8 tensor to the other rank. Raises `TransportError`."""

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        """Start receiving exactly `data.numel()` bytes. Raises `TransportError`."""

    def abort(self) -> None:
        """Break the group: whatever waits on it, in any thread, raises. Idempotent.

        Once this has returned no tensor is read or written any more, and the peer finds out.
        """


class Backend(Protocol):
    """One way to carry bytes between two devices of a kind."""

    name: str
    """As torch and the advert call it: `gloo`, `nccl`, `hccl`."""

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        """Join the group that the other rank opens over the same store.

        `host` is this side's address towards the peer. Blocks until both ranks are there, at most
        `timeout`. Raises `TransportError`.
        """
