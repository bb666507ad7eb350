"""Threads that move bytes, and how they end when the process does.

They are daemons: a peer can hold them up for as long as `TRANSFER_TIMEOUT`, and a process that
wants to end must not wait that long. But a thread that is inside torch when the interpreter goes
away takes the process down with SIGABRT. So all threads are first told to stop, and get a moment to
do so. A thread that Gloo does not wake (`session`) is left behind all the same.

A thread begins on an accelerator's first device, wherever its starter is. Ours begin where their
starter is: otherwise a worker would take memory of a device that belongs to another. A thread that
reads or writes weights goes to their device itself (`use_device`), whoever has started it.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_LAST_MOMENT_S: Final = 1.0
"""Time for all threads together."""

_running: set[TransferThread] = set()

_preparations: set[Callable[[], object]] = set()


def begin_with(prepare: Callable[[], object]) -> None:
    """Have every thread of ours that begins on an accelerator from now on call this first. It must
    not raise. A second time for one function changes nothing."""
    _preparations.add(prepare)


def use_device(device: torch.device) -> None:
    """Make an accelerator's device the calling thread's. Does nothing for the host, or where the
    device has no number or is not of the kind that torch calls this process's accelerator."""
    if device.type == "cpu" or device.index is None:
        return
    import torch

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type == device.type:
        torch.accelerator.set_device_index(device.index)


class TransferThread(threading.Thread):
    """A daemon thread that calls into torch."""

    def __init__(
        self, target: Callable[[], object], name: str, stop: Callable[[], object] | None = None
    ) -> None:
        """`stop` is called, from another thread, if the process ends before the thread does."""
        super().__init__(target=target, name=name, daemon=True)
        self._device = _current_device()
        self._stop_early = stop

    def run(self) -> None:
        _running.add(self)
        if self._device is not None:
            import torch

            torch.accelerator.set_device_index(self._device)
            for prepare in tuple(_preparations):
                prepare()
        try:
            super().run()
        finally:
            _running.discard(self)
            # The callback refers to this thread's owner.
            self._stop_early = None

    def stop(self) -> None:
        """Tell the thread to end, if that is possible."""
        stop_early = self._stop_early
        if stop_early is not None:
            stop_early()


def _current_device() -> int | None:
    """The accelerator's device that the calling thread uses; None when the process uses none."""
    if "torch" not in sys.modules:
        return None
    # Not above: vLLM's plugin needs this module where nobody needs torch (`engine/plugin.py`).
    import torch

    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not torch.get_device_module(accelerator).is_initialized():
        return None
    return torch.accelerator.current_device_index()


@atexit.register
def _end_all() -> None:
    deadline = time.monotonic() + _LAST_MOMENT_S
    threads = list(_running)
    for thread in threads:
        thread.stop()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            _log.debug("%s has not ended", thread.name)
