"""A connection that carries nothing, to learn at once that the peer is gone.

A process group cannot be relied on for that. Gloo loses the news when a connection breaks while it
writes to it: the connection is closed, and who waits to receive waits for the whole timeout (seen
with torch 2.13 for up to half of the peers that were killed in the middle of a transfer). Device
backends need not notice at all.

So the connection on which the two ranks have met stays open. The kernel closes it when the peer's
process ends, however it ends, and a thread that does nothing but wait for that breaks the group.
"""

from __future__ import annotations

import contextlib
import socket
import threading

import torch

from netloader.transport.base import Group, Pending, TransportError

_GONE = "the peer is gone"


class Tethered:
    """A group that breaks when the peer's end of `tether` closes."""

    def __init__(self, inner: Group, tether: socket.socket) -> None:
        """Takes over both: `abort` ends them."""
        self._inner = inner
        self._tether = tether
        self._tether.settimeout(None)
        self._aborted = False
        self._peer_gone = False
        self._watcher = threading.Thread(target=self._watch, name="netloader-tether", daemon=True)
        self._watcher.start()

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        try:
            return _Pending(self, self._inner.send(data, tag))
        except TransportError as error:
            raise self.explain(error) from None

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        try:
            return _Pending(self, self._inner.recv(data, tag))
        except TransportError as error:
            raise self.explain(error) from None

    def abort(self) -> None:
        self._aborted = True
        self._inner.abort()
        with contextlib.suppress(OSError):  # The peer has closed it already.
            self._tether.shutdown(socket.SHUT_RDWR)
        self._watcher.join()
        self._tether.close()

    def explain(self, error: TransportError) -> TransportError:
        """The error, or what has caused it."""
        return TransportError(_GONE) if self._peer_gone else error

    def _watch(self) -> None:
        with contextlib.suppress(OSError):  # Reset: the peer is gone as well.
            # What the ranks had left for each other and nobody read is of no interest any more.
            while self._tether.recv(4096):
                pass
        if not self._aborted:
            self._peer_gone = True
            self._inner.abort()


class _Pending:
    """A transfer under way whose error tells why."""

    def __init__(self, group: Tethered, inner: Pending) -> None:
        self._group = group
        self._inner = inner

    def wait(self, timeout_s: float) -> None:
        try:
            self._inner.wait(timeout_s)
        except TransportError as error:
            raise self._group.explain(error) from None
