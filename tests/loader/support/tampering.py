"""Transports with a hand on what leaves them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from tests.fastest import HANG_S
from tests.loader.support.ends import MEMORY
from torch._C._distributed_c10d import Store

from netloader.transport import Backend, Group, Pending, TransportError

OnSend = Callable[[int, torch.Tensor], torch.Tensor]
"""Called with a chunk's id and bytes; what it returns is sent instead."""


@dataclass
class TamperedGroup:
    """A real group with a hand on what leaves it."""

    inner: Group
    on_send: OnSend

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return self.inner.send(self.on_send(tag, data), tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return self.inner.recv(data, tag)

    def abort(self, reason: str = "") -> None:
        self.inner.abort(reason)


@dataclass
class TamperedBackend:
    """Any backend, with `on_send` called before every send."""

    on_send: OnSend
    inner: Backend = field(default_factory=lambda: MEMORY)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def connections(self) -> int:
        return self.inner.connections

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        return TamperedGroup(self.inner.open(store, rank, host, timeout), self.on_send)


@dataclass
class SendLog:
    """Remembers which chunks were sent."""

    sent: list[int] = field(default_factory=list)

    def __call__(self, tag: int, data: torch.Tensor) -> torch.Tensor:
        self.sent.append(tag)
        return data


def wrong_byte_in(chunk: int) -> OnSend:
    """Flip one byte of one chunk on its way out."""

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        if tag != chunk:
            return data
        wrong = data.clone()
        wrong[wrong.numel() // 2] ^= 0xFF
        return wrong

    return on_send


def cut_after(sends: int) -> OnSend:
    """Break the group when chunk number `sends`, counted from 0, is to be sent."""
    count = itertools.count()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        if next(count) >= sends:
            raise TransportError("cut")
        return data

    return on_send


class Stuck:
    """A send that does not happen until `release`."""

    def __init__(self, after: int = 0) -> None:
        self.reached = threading.Event()
        self.release = threading.Event()
        self._left = after

    def __call__(self, tag: int, data: torch.Tensor) -> torch.Tensor:
        if self._left == 0:
            self.reached.set()
            self.release.wait(HANG_S)
        self._left -= 1
        return data
