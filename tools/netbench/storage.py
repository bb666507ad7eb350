"""Storage that a cluster shares: a server that sends the weights to whoever connects.

Its link is what limits it, as that of a file server. It sends each tensor's bytes in order; nothing
else is said.
"""

from __future__ import annotations

import socket
import threading

from netloader.weights.capture import Weights, host_buffer

_PART = 1 << 20


class StorageServer:
    """Sends the same weights to any number of readers at once."""

    def __init__(self, host: str, weights: Weights) -> None:
        self._weights = weights
        self._listener = socket.create_server((host, 0), backlog=256)
        threading.Thread(target=self._accept, name="netbench-storage", daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()[:2]
        return host, port

    def _accept(self) -> None:
        while True:
            reader, _ = self._listener.accept()
            threading.Thread(
                target=self._send, args=(reader,), name="netbench-reader", daemon=True
            ).start()

    def _send(self, reader: socket.socket) -> None:
        with reader:
            for data in self._weights.tensors:
                reader.sendall(host_buffer(data))


class StorageReader:
    """Reads all weights once."""

    def __init__(self, weights: Weights, address: tuple[str, int]) -> None:
        self._weights = weights
        self._address = address
        self.nbytes = 0
        """Bytes read so far."""

    def read(self) -> None:
        """Fill the weights. Raises `OSError`."""
        with socket.create_connection(self._address) as server:
            for data in self._weights.tensors:
                left = host_buffer(data)
                while left:
                    count = server.recv_into(left, min(len(left), _PART))
                    if not count:
                        raise ConnectionError("storage has closed the connection")
                    self.nbytes += count
                    left = left[count:]
