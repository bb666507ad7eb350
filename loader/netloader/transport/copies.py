"""Copies between a device and host memory, for transports that carry host memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import numpy as np
import torch

_log = logging.getLogger(__name__)

Wait = Callable[[], None]
"""Returns once a copy is done. Raises `RuntimeError`."""


class Copies(Protocol):
    """Copies between one device and the host. Belongs to one thread at a time."""

    def buffer(self, nbytes: int) -> torch.Tensor:
        """Host memory that the device copies from and to quickly, uint8. Raises `RuntimeError`."""

    def mark(self) -> object:
        """What the calling thread has given its current stream until now."""

    def to_host(self, host: torch.Tensor, data: torch.Tensor, after: object) -> Wait:
        """Begin to copy flat bytes of the device, after what a mark stands for. They are in `host`
        once the wait is over. Raises `RuntimeError`."""

    def to_device(self, data: torch.Tensor, host: torch.Tensor, after: object) -> Wait:
        """The same in the other direction."""


class HostCopies:
    """For host memory that plays a device."""

    def buffer(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def mark(self) -> object:
        return None

    def to_host(self, host: torch.Tensor, data: torch.Tensor, after: object) -> Wait:
        # As late as may be: who reads it next finds it in the processor's cache.
        return lambda: _copy(host, data)

    def to_device(self, data: torch.Tensor, host: torch.Tensor, after: object) -> Wait:
        _copy(data, host)
        return _done


class DeviceCopies:
    """On a stream of its own, so that a copy waits for no inference but its own caller's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module: ModuleType = torch.get_device_module(device)
        # Not every kind of device has streams.
        self._stream = self._module.Stream(device) if hasattr(self._module, "Stream") else None
        self._pins = True

    def buffer(self, nbytes: int) -> torch.Tensor:
        if self._pins:
            try:
                return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:
                self._pins = False
                _log.warning("copies of %s are slower: no pinned memory: %s", self._device, error)
        return torch.empty(nbytes, dtype=torch.uint8)

    def mark(self) -> object:
        if self._stream is None:
            return None
        return self._module.current_stream(self._device).record_event()

    def to_host(self, host: torch.Tensor, data: torch.Tensor, after: object) -> Wait:
        return self._begin(host, data, after)

    def to_device(self, data: torch.Tensor, host: torch.Tensor, after: object) -> Wait:
        return self._begin(data, host, after)

    def _begin(self, target: torch.Tensor, source: torch.Tensor, after: object) -> Wait:
        if self._stream is None:
            target.copy_(source)
            self._module.synchronize()
            return _done
        self._stream.wait_event(after)
        with self._module.stream(self._stream):
            target.copy_(source, non_blocking=True)
        copied: Wait = self._stream.record_event().synchronize
        return copied


def copies_for(device: torch.device) -> Copies:
    """Copies between a device and the host."""
    return HostCopies() if device.type == "cpu" else DeviceCopies(device)


def on_a_device(data: torch.Tensor) -> bool:
    """Whether a tensor lies where only a device reads it."""
    return data.device.type != "cpu"


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    # Not by torch, whose OpenMP pool belongs to inference here.
    np.copyto(target.numpy(), source.numpy())


def _done() -> None:
    """The copy was done when it began."""
