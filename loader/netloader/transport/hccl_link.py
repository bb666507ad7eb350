"""Communicators of HCCL on a stream that nobody else has, and how they end.

A stream whose operation is broken off is spoilt, so it goes with its communicators.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from netloader.transport.acl import AclError, AclEvent, AclStream, Communicator
from netloader.transport.called import first_line

_log = logging.getLogger(__name__)

_PAUSE_S: Final = 0.001
"""How soon to look again whether something has ended."""

_LAST_BYTES_S: Final = 0.25
"""Seconds that an abort gives operations under way to end by themselves. Both ends take part in
them, so a chunk needs a few milliseconds; one that is broken off costs its stream."""

_RELEASE_S: Final = 5.0
"""Seconds that operations may take to end once their communicator is destroyed."""


class HcclOperation:
    """One operation that has begun."""

    def __init__(self, communicator: Communicator, event: AclEvent) -> None:
        self._communicator = communicator
        self._event = event

    def has_ended(self) -> bool:
        """Raises `AclError` when it has failed."""
        if self._event.reached():
            return True
        self._communicator.check()
        return False

    def is_over(self) -> bool:
        """Whether it has ended, well or not. The communicator may be gone."""
        try:
            return self._event.reached()
        except AclError:
            return True


class HcclLink:
    """Belongs to whoever holds its group's lock, on the device that was current when it was
    made."""

    def __init__(self) -> None:
        """Raises `AclError` when the device has no stream left."""
        self._stream = AclStream()
        self._communicators: list[Communicator] = []

    def add(self, communicator: Communicator) -> None:
        """Take over a communicator, which ends with the link."""
        self._communicators.append(communicator)

    def move(
        self, communicator: Communicator, sends: bool, data: Elements, peer: int, after: AclEvent
    ) -> HcclOperation:
        """Begin a transfer of device memory after an event. Raises `AclError`."""
        self._stream.wait_for(after)
        communicator.start(sends, *data, peer, self._stream)
        return self._begun(communicator)

    def add_up(self, communicator: Communicator, address: int, after: AclEvent) -> HcclOperation:
        """Begin to replace one float32 by its sum over both ranks. Raises `AclError`."""
        self._stream.wait_for(after)
        communicator.add_up(address, self._stream)
        return self._begun(communicator)

    def break_off(self, under_way: Sequence[HcclOperation]) -> bool:
        """End everything. Returns False when HCCL may touch memory even so. Raises `AclError`,
        which means the same. The last call."""
        clean = _end_well(under_way, _LAST_BYTES_S)
        for communicator in self._communicators:
            try:
                communicator.destroy()
            except AclError as error:
                _log.warning("a communicator is left behind: %s", error)
        if not clean and not _end(under_way, _RELEASE_S):
            return False
        self._stream.destroy()
        return True

    def _begun(self, communicator: Communicator) -> HcclOperation:
        return HcclOperation(communicator, AclEvent(self._stream.handle))


Elements = tuple[int, int, int]
"""Device memory: address, number of elements, HCCL's number of their type."""


def _end_well(operations: Sequence[HcclOperation], timeout_s: float) -> bool:
    """Whether all end, and well, within some seconds."""
    deadline = time.monotonic() + timeout_s
    try:
        for operation in operations:
            while not operation.has_ended():
                if time.monotonic() > deadline:
                    return False
                time.sleep(_PAUSE_S)
    except AclError as error:
        _log.debug("an operation has failed: %s", first_line(error))
        return False
    return True


def _end(operations: Sequence[HcclOperation], timeout_s: float) -> bool:
    """Whether none is under way after some seconds, however they ended."""
    deadline = time.monotonic() + timeout_s
    for operation in operations:
        while not operation.is_over():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
    return True
