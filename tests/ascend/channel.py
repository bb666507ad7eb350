"""Messages between a test and a process that it started: one line of JSON each.

They travel over a socket of their own, because vLLM prints to stdout.
"""

from __future__ import annotations

import json
import socket
from typing import Any


class Ended(Exception):
    """The other end is gone."""


class Channel:
    """One end of it. A wait that exceeds its limit raises `TimeoutError`."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = b""

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Channel:
        return cls(socket.socket(fileno=descriptor))

    def say(self, **message: Any) -> None:
        """Raises `Ended`."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Ended(str(error)) from None

    def hear(self, timeout_s: float | None) -> dict[str, Any]:
        """The next message. None waits without a limit. Raises `Ended`."""
        self._socket.settimeout(timeout_s)
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError as error:
                raise Ended(str(error)) from None
            if not data:
                raise Ended("closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        self._socket.close()
