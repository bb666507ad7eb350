"""Gloo: host memory over TCP."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final

import torch
from torch._C._distributed_c10d import ProcessGroupGloo, Store, Work

from netloader.transport.base import REPLICA, SOURCE, Group, Pending, TransportError

_log = logging.getLogger(__name__)

_ABORT_TAG: Final = (1 << 31) - 1
"""A tag that no chunk has: their ids end far below."""


class GlooPending:
    """A Gloo send or receive under way."""

    def __init__(self, work: Work, data: torch.Tensor) -> None:
        self._work = work
        self._data = data  # Gloo holds the address only: this keeps the memory alive.

    def wait(self, timeout_s: float) -> None:
        try:
            self._work.wait(timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise TransportError(_first_line(error)) from None


class GlooGroup:
    """A two-rank Gloo group."""

    # torch's stub of ProcessGroupGloo lacks send, recv and abort.
    def __init__(self, group: Any, peer: int) -> None:
        self._group = group
        self._peer = peer

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        try:
            return GlooPending(self._alive().send([data], self._peer, tag), data)
        except RuntimeError as error:
            raise TransportError(_first_line(error)) from None

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        try:
            return GlooPending(self._alive().recv([data], self._peer, tag), data)
        except RuntimeError as error:
            raise TransportError(_first_line(error)) from None

    def abort(self) -> None:
        # ProcessGroupGloo.abort() does nothing, and a pending transfer keeps the connection open
        # after the group is gone. A wait that times out closes it, and wakes whoever else waits.
        group, self._group = self._group, None
        if group is None:
            return
        try:
            never = group.recv([torch.empty(1, dtype=torch.uint8)], self._peer, _ABORT_TAG)
            never.wait(timedelta(milliseconds=1))
        except RuntimeError as closed:
            _log.debug("group aborted: %s", _first_line(closed))

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
        # One device thread moves all bytes of a session; a second only contends with inference.
        options._threads = 1
        try:
            options._devices = [ProcessGroupGloo.create_device(hostname=host)]
            group = ProcessGroupGloo(store, rank, 2, options)
        except RuntimeError as error:
            raise TransportError(_first_line(error)) from None
        return GlooGroup(group, REPLICA if rank == SOURCE else SOURCE)


def _first_line(error: RuntimeError) -> str:
    """torch appends a C++ stack or a joke; the first sentence says what happened."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
