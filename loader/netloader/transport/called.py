"""Groups over libraries that keep only an order, HCCL and NCCL: both ends call what they posted.

An operation begins once both ends have posted it (`turns.py`). The ends say on a line of their own
what they have posted, and hear there that the other has gone (`line.py`); a thread of the group
listens. What the library itself does is its `LibraryEnd`.

These libraries take device memory only. What lies in host memory is sent by way of the device, a
few messages at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final, NoReturn, Protocol

import torch

from netloader.errors import TransportError
from netloader.system.threads import TransferThread
from netloader.transport.base import RANKS, Pending, aborted, failed, peer_of
from netloader.transport.line import Line
from netloader.transport.turns import Note, Turns

_log = logging.getLogger(__name__)

_STAGED: Final = 2
"""Messages from host memory that may be on the device at once, in one group."""

_STAGING_S: Final = 30.0
"""Seconds that a message from host memory waits for the room of an earlier one."""

_BRIEF_S, _PAUSE_S = 0.0001, 0.001
"""How soon to look again whether an operation has ended: right after it began, and later."""

_IDLE_S: Final = 60.0
"""How long to sleep until the peer says something, or either end hangs up."""

_LAST_WORDS_S: Final = 0.5
"""Seconds that an operation may go on after the peer has left: it may have sent all of it. As long
does an error of the library wait for the line, which tells whether the peer has left."""

_not_released: list[object] = []
"""Transfers whose tensors a broken communicator may still touch: they are never freed."""


class Operation(Protocol):
    """A transfer that a library has begun."""

    def has_ended(self) -> bool:
        """Raises `RuntimeError` when it has failed."""


class LibraryEnd(Protocol):
    """One end of a communicator of two ranks, and the device whose memory it carries.

    A group makes one call at a time of `begin`, `break_off` and the operations' `has_ended`. No
    call waits for the peer.
    """

    name: str
    """Of the library, for errors."""

    def here(self) -> AbstractContextManager[object]:
        """Make the device the calling thread's."""

    def holds(self, data: torch.Tensor) -> bool:
        """Whether a tensor lies in the device's memory."""

    def copy_of(self, data: torch.Tensor) -> torch.Tensor:
        """A copy of host memory on the device. Raises `RuntimeError`."""

    def mark(self) -> object:
        """What the calling thread has given the device until now. Raises `RuntimeError`."""

    def begin(self, sends: bool, data: torch.Tensor, after: object) -> Operation:
        """Begin a transfer of device memory that follows a mark. Raises `RuntimeError`."""

    def break_off(self, under_way: Sequence[Operation]) -> bool:
        """End all operations, and the communicator. Returns False when the library may touch their
        memory even so. Raises `RuntimeError`, which means the same. The last call."""


class CalledPending:
    """A transfer that was posted, and begins when it is called."""

    def __init__(self, group: CalledGroup, sends: bool, data: torch.Tensor, tag: int) -> None:
        self.sends = sends
        self.tag = tag
        self.nbytes = data.numel()
        self.data: torch.Tensor | None = data
        """Kept until the transfer has ended: a library holds only its address."""
        self.after: object = None
        """Earlier work on the data, of the thread that posted the transfer."""
        self.operation: Operation | None = None
        """None before it has begun, and once it has ended."""
        self.done = False
        self.error: str | None = None
        self._group = group

    def wait(self, timeout_s: float) -> None:
        self._group.wait(self, timeout_s)


class CalledGroup:
    """One end of a group, with a thread that begins transfers as they are called."""

    def __init__(self, end: LibraryEnd, rank: int, line: Line) -> None:
        """The communicator has formed."""
        self._end = end
        self._rank = rank
        self._peer = peer_of(rank)
        self._line = line
        self._changed = threading.Condition()  # Guards the fields below, and the library's end.
        self._turns: Turns[CalledPending] = Turns(rank)
        self._under_way: list[CalledPending] = []
        self._staged: list[CalledPending] = []
        self._broken: str | None = None  # What the listening thread has met.
        self._why: str | None = None  # Set by an abort, before anything is taken down.
        self._aborting = threading.Lock()
        self._over = False
        self._listening = TransferThread(
            self._listen,
            f"netloader-{end.name.lower()}",
            stop=lambda: self.abort("this process ends"),
        )
        self._listening.start()

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        if self._end.holds(data):
            return self._post(CalledPending(self, True, data, tag))
        return self._send_staged(data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        transfer = CalledPending(self, False, data, tag)
        if not self._end.holds(data):
            why = f"{self._end.name} receives in device memory only"
            raise TransportError(self._failed(transfer, why))
        return self._post(transfer)

    def abort(self, reason: str = "") -> None:
        with self._aborting:  # The second caller may not return before all is quiet either.
            if not self._over:
                self._why = aborted(reason)
                self._line.hang_up()
                with self._changed:
                    self._changed.notify_all()
                    self._take_down()
                self._over = True
        if threading.current_thread() is not self._listening:
            self._listening.join()
            self._line.close()

    def wait(self, transfer: CalledPending, timeout_s: float) -> None:
        """Block until one transfer has ended. Raises `TransportError`."""
        deadline = time.monotonic() + timeout_s
        last_moment: float | None = None
        pause = _BRIEF_S
        try:
            with self._end.here():
                while not self._has_ended(transfer, deadline):
                    now = time.monotonic()
                    if self._broken is not None:
                        last_moment = last_moment or now + _LAST_WORDS_S
                        if transfer.operation is None or now > last_moment:
                            raise TransportError(self._broken)
                    if now >= deadline:
                        raise TransportError(f"timed out after {timeout_s:g} s")
                    if transfer.operation is not None:
                        time.sleep(pause)
                        pause = min(2 * pause, _PAUSE_S)
        except (RuntimeError, TransportError) as error:
            self._give_up(transfer, self._reason(error))

    def _has_ended(self, transfer: CalledPending, deadline: float) -> bool:
        """Look whether a transfer has ended; before it has begun, wait for that. Raises
        `RuntimeError`, `TransportError`."""
        with self._changed:
            if transfer.done:
                return True
            if transfer.error is not None or self._why is not None:
                raise TransportError(transfer.error or self._why)
            if transfer.operation is None:
                if self._broken is None:
                    self._changed.wait(max(0.0, deadline - time.monotonic()))
                return transfer.done
            if not transfer.operation.has_ended():
                return False
            self._under_way.remove(transfer)
            transfer.done = True
            transfer.operation = transfer.after = transfer.data = None
            return True

    def _reason(self, error: Exception) -> str:
        """Why a transfer has failed. A library tells by a number, if at all, that the peer has
        died, and perhaps before the line tells by its end."""
        told = first_line(error)
        if isinstance(error, TransportError):
            return told
        with self._changed:
            self._changed.wait_for(self._is_broken, _LAST_WORDS_S)
            return f"{self._broken} ({told})" if self._broken is not None else told

    def _post(self, transfer: CalledPending) -> CalledPending:
        try:
            with self._end.here():
                # What the calling thread still does with the data, as packing it, comes first.
                transfer.after = self._end.mark()
                with self._changed:
                    if self._is_broken():
                        raise TransportError(self._why or self._broken)
                    for note in self._turns.post(
                        transfer.sends, transfer.tag, transfer.nbytes, transfer
                    ):
                        self._line.say(note.encode())
                    self._begin_called()
        except (RuntimeError, TransportError) as error:
            self._give_up(transfer, first_line(error))
        return transfer

    def _send_staged(self, data: torch.Tensor, tag: int) -> CalledPending:
        """Send from host memory, by way of device memory of at most `_STAGED` messages."""
        transfer = CalledPending(self, True, data, tag)
        staged = [one for one in self._staged if not one.done]
        while len(staged) >= _STAGED:
            staged.pop(0).wait(_STAGING_S)
        try:
            with self._end.here():
                transfer.data = self._end.copy_of(data)
        except RuntimeError as error:
            self._give_up(transfer, f"staging it on the device failed: {first_line(error)}")
        self._staged = [*staged, transfer]
        return self._post(transfer)

    def _listen(self) -> None:
        """Begin what the peer calls, until one end leaves."""
        while not self._is_broken():
            self._line.wait(_IDLE_S)
            with self._changed:
                if self._why is None:
                    try:
                        with self._end.here():
                            self._hear()
                    except (RuntimeError, TransportError) as error:
                        self._broken = first_line(error)
                self._changed.notify_all()

    def _is_broken(self) -> bool:
        return self._why is not None or self._broken is not None

    def _hear(self) -> None:
        for piece in self._line.hear(Note.FORMAT.size):
            called = self._turns.hear(Note.decode(piece))
            if called is not None:
                self._begin(called)
        self._begin_called()
        if self._line.gone:
            self._broken = f"the {RANKS[self._peer]} has left"

    def _begin_called(self) -> None:
        for note, transfer in self._turns.calls():
            self._line.say(note.encode())
            self._begin(transfer)

    def _begin(self, transfer: CalledPending) -> None:
        if transfer.data is None or transfer.nbytes == 0:
            transfer.done = True
            return
        transfer.operation = self._end.begin(transfer.sends, transfer.data, transfer.after)
        self._under_way.append(transfer)

    def _give_up(self, transfer: CalledPending, why: str) -> NoReturn:
        """Break the group over one transfer. Raises `TransportError`."""
        if transfer.error is None:
            # A transfer that an abort ended fails for the abort's reason, whatever a library says.
            transfer.error = self._failed(transfer, self._why or why)
        self.abort(transfer.error)
        raise TransportError(transfer.error)

    def _failed(self, transfer: CalledPending, why: str) -> str:
        return failed(transfer.sends, transfer.nbytes, transfer.tag, self._peer, why)

    def _take_down(self) -> None:
        operations = [one.operation for one in self._under_way if one.operation is not None]
        try:
            with self._end.here():
                released = self._end.break_off(operations)
        except RuntimeError as error:
            _log.error("%s did not break off: %s", self._end.name, first_line(error))
            released = False
        if not released and operations:
            _log.error(
                "%s may still touch the memory of %d transfers: it stays reserved",
                self._end.name,
                len(operations),
            )
            _not_released.extend(self._under_way)
        self._under_way.clear()
        self._staged.clear()
        self._turns = Turns(self._rank)


def first_line(error: Exception) -> str:
    """The first line of an error that says something. torch_npu appends a trace and advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else f"{type(error).__name__} without words"
