"""A communicator forms in a thread of its own, because HCCL waits for a peer that may be gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from netloader.errors import TransportError
from netloader.system.threads import TransferThread
from netloader.transport.acl import AclError, Communicator
from netloader.transport.called import first_line
from netloader.transport.npu import NpuDevice

_LEFT_BEHIND: Final = 8
"""Threads that may still wait for peers that never came, each until `HCCL_CONNECT_TIMEOUT`."""

_PAUSE_S: Final = 0.001
"""How soon to look again whether the communicator is there, or the peer gone."""


class Forming:
    """One communicator on its way."""

    def __init__(self, device: NpuDevice, form: Callable[[], Communicator]) -> None:
        """`form` is called once, in a thread on `device`. Raises `TransportError` when this process
        can open no group now."""
        self._device = device
        self._form = form
        self._lock = threading.Lock()  # Guards the hand-over between the two threads.
        self._abandoned = False
        self._ended = threading.Event()
        self._made: Communicator | None = None
        self._error: str | None = None
        with device.lock:
            if device.left_behind >= _LEFT_BEHIND:
                raise TransportError(
                    f"{_LEFT_BEHIND} threads wait in HCCL for peers that went while a group opened"
                )
        TransferThread(self._run, "netloader-hccl-open").start()

    def result(self, over: Callable[[], str | None], deadline: float) -> Communicator:
        """Wait for the communicator until `over` says why there will be none, or until a time of
        `time.monotonic`. The thread is then left behind. Raises `TransportError`."""
        while not self._ended.wait(_PAUSE_S):
            reason = over()
            if reason is not None:
                self._abandon(reason)
            elif time.monotonic() > deadline:
                self._abandon("HCCL did not make a communicator in time")
        if self._made is None:
            raise TransportError(self._error or "HCCL made no communicator")
        return self._made

    def _abandon(self, why: str) -> None:
        """Leave the thread behind; raises `TransportError` unless it has just ended."""
        with self._lock:
            if self._ended.is_set():
                return
            self._abandoned = True
            with self._device.lock:
                self._device.left_behind += 1
        raise TransportError(why)

    def _run(self) -> None:
        made, error = None, None
        try:
            self._device.use()
            made = self._form()
        except (AclError, RuntimeError) as found:
            error = first_line(found)
        with self._lock:
            self._error = error
            if not self._abandoned:
                self._made = made
                self._ended.set()
                return
        with self._device.lock:
            self._device.left_behind -= 1
        if made is not None:
            made.destroy()
