"""What a lane sends from and receives into: a run of host memory, or a device's memory by pieces.

A piece of device memory is copied to a host buffer right before it is sent, and to the device right
after it has come. Two buffers serve one direction of a lane: while the connection takes the one, a
device copies the other. A buffer of one piece stays in the processor's cache between the copy and
the connection; a buffer of a whole message would not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch

from netloader.errors import TransportError
from netloader.system.threads import use_device
from netloader.transport.called import first_line
from netloader.transport.copies import Copies, Wait, copies_for, on_a_device

PIECE_BYTES: Final = 2 * 1024 * 1024
"""A multiple of the records in which `tcp-sealed` seals. Between two processes of one host smaller
ones cost more of the interpreter, and larger ones save no cycles."""

BUFFERS: Final = 2
"""Of one direction of a lane."""


@dataclass(frozen=True)
class Staging:
    """How a transport of host memory reaches the memory of devices."""

    copies: Callable[[torch.device], Copies] = copies_for
    stages: Callable[[torch.Tensor], bool] = on_a_device
    """Which tensors the transport cannot reach."""
    piece_bytes: int = PIECE_BYTES


@dataclass(frozen=True)
class Buffers:
    """The host memory of one direction of a lane. Belongs to its thread, which makes it."""

    copies: Copies
    pieces: list[torch.Tensor] = field(default_factory=list)

    def piece(self, number: int, piece_bytes: int) -> torch.Tensor:
        """The buffer for a piece of this number."""
        at = number % BUFFERS
        if at == len(self.pieces):
            self.pieces.append(self.copies.buffer(piece_bytes))
        return self.pieces[at]


class Memory(Protocol):
    """A message's bytes, for one lane."""

    @property
    def nbytes(self) -> int: ...

    def leaving(self) -> Generator[memoryview, None, None]:
        """The bytes, in order. A piece is valid until the next one is asked for. Raises
        `TransportError`."""

    def arriving(self) -> Generator[memoryview, None, None]:
        """Room for the bytes, in order. They are in place once there is no further piece. Raises
        `TransportError`."""


class HostMemory:
    """A run of host memory: one piece."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def leaving(self) -> Generator[memoryview, None, None]:
        yield self._data

    def arriving(self) -> Generator[memoryview, None, None]:
        yield self._data


class DeviceMemory:
    """A run of a device's memory."""

    def __init__(
        self,
        data: torch.Tensor,
        after: object,
        buffers: Callable[[], Buffers],
        piece_bytes: int,
    ) -> None:
        """`after` is a mark: no copy is made before it. `buffers` gives the calling thread's."""
        self._data = data
        self._after = after
        self._buffers = buffers
        self._piece_bytes = piece_bytes

    @property
    def nbytes(self) -> int:
        return self._data.numel()

    def leaving(self) -> Generator[memoryview, None, None]:
        try:
            copying = self._begin(0)
            for number in range(self._count):
                following = self._begin(number + 1)
                assert copying is not None, "there is a piece of this number"
                copying()
                yield self._host(number).numpy().data
                copying = following
        except RuntimeError as error:
            raise TransportError(f"no copy: {first_line(error)}") from None

    def arriving(self) -> Generator[memoryview, None, None]:
        waits: dict[int, Wait] = {}
        try:
            for number in range(self._count):
                earlier = waits.pop(number % BUFFERS, None)
                if earlier is not None:
                    earlier()
                host = self._host(number)
                yield host.numpy().data
                copies = self._buffers().copies
                waits[number % BUFFERS] = copies.to_device(self._part(number), host, self._after)
        except RuntimeError as error:
            raise TransportError(f"no copy: {first_line(error)}") from None
        finally:
            # Nothing is written to the tensor any more once this has ended, however it ends.
            _finish(waits.values())

    def _begin(self, number: int) -> Wait | None:
        """Begin to copy one piece, if there is one of this number, into its buffer."""
        if number >= self._count:
            return None
        return self._buffers().copies.to_host(self._host(number), self._part(number), self._after)

    @property
    def _count(self) -> int:
        return -(-self.nbytes // self._piece_bytes)

    def _part(self, number: int) -> torch.Tensor:
        start = number * self._piece_bytes
        return self._data[start : start + self._piece_bytes]

    def _host(self, number: int) -> torch.Tensor:
        """The part of a buffer that holds a piece."""
        buffer = self._buffers().piece(number, self._piece_bytes)
        return buffer[: self._part(number).numel()]


def _finish(waits: Iterable[Wait]) -> None:
    """Raises `TransportError`, after the last one."""
    failed: RuntimeError | None = None
    for wait in waits:
        try:
            wait()
        except RuntimeError as error:
            failed = error
    if failed is not None:
        raise TransportError(f"no copy: {first_line(failed)}")


def buffers_in_this_thread(staging: Staging, device: torch.device) -> Buffers:
    """For the calling thread, which uses this device from now on."""
    use_device(device)
    return Buffers(staging.copies(device))
