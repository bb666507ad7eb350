"""What a lane sends from and receives into: a run of host memory, or a device's memory by blocks.

A block of device memory is copied to a bounce buffer right before it is sent, and to the device
right after it has come. Two buffers serve one direction of a lane: while the connection takes the
one, a device copies the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch

from netloader.errors import TransportError
from netloader.system.threads import use_device
from netloader.transport.called import first_line
from netloader.transport.copies import Copies, Wait, copies_for, on_a_device

BLOCK_BYTES: Final = 2 * 1024 * 1024
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
    block_bytes: int = BLOCK_BYTES


@dataclass(frozen=True)
class Buffers:
    """The host memory of one direction of a lane. Belongs to its thread, which makes it."""

    copies: Copies
    blocks: list[torch.Tensor] = field(default_factory=list)

    def block(self, number: int, block_bytes: int) -> torch.Tensor:
        """The buffer for a block of this number."""
        at = number % BUFFERS
        if at == len(self.blocks):
            self.blocks.append(self.copies.buffer(block_bytes))
        return self.blocks[at]


class Memory(Protocol):
    """A message's bytes, for one lane."""

    @property
    def nbytes(self) -> int: ...

    def leaving(self) -> Generator[memoryview, None, None]:
        """The bytes, in order. A block is valid until the next one is asked for. Raises
        `TransportError`."""

    def arriving(self) -> Generator[memoryview, None, None]:
        """Room for the bytes, in order. They are in place once there is no further block. Raises
        `TransportError`."""


class HostMemory:
    """A run of host memory: one block."""

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
        block_bytes: int,
    ) -> None:
        """`after` is a mark: no copy is made before it. `buffers` gives the calling thread's."""
        self._data = data
        self._after = after
        self._buffers = buffers
        self._block_bytes = block_bytes

    @property
    def nbytes(self) -> int:
        return self._data.numel()

    def leaving(self) -> Generator[memoryview, None, None]:
        copying: deque[Wait] = deque()
        try:
            self._begin(0, copying)
            for number in range(self._count):
                self._begin(number + 1, copying)
                copying.popleft()()
                yield self._host(number).numpy().data
        except RuntimeError as error:
            raise TransportError(f"no copy: {first_line(error)}") from None
        finally:
            # Nothing reads the tensor any more once this has ended, however it ends.
            _finish(copying)

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

    def _begin(self, number: int, copying: deque[Wait]) -> None:
        """Begin to copy one block, if there is one of this number, into its buffer."""
        if number < self._count:
            copies = self._buffers().copies
            host, data = self._host(number), self._part(number)
            copying.append(copies.to_host(host, data, self._after))

    @property
    def _count(self) -> int:
        return -(-self.nbytes // self._block_bytes)

    def _part(self, number: int) -> torch.Tensor:
        start = number * self._block_bytes
        return self._data[start : start + self._block_bytes]

    def _host(self, number: int) -> torch.Tensor:
        """The part of a buffer that holds a block."""
        buffer = self._buffers().block(number, self._block_bytes)
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
