"""Carries words from any thread to one that sleeps in a poll loop over sockets.

A ZeroMQ socket belongs to one thread, so other threads must not touch it, not even to wake its
owner.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue that is readable like a socket while it holds something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._words: deque[T] = deque()
        self._closed = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """File descriptor for the poller: readable when there is something to take."""
        return self._reader.fileno()

    def post(self, word: T) -> bool:
        """Hand over a word, from any thread. False if nobody will ever take the word."""
        with self._lock:
            if self._closed:
                return False
            if not self._words:
                self._writer.send(b"!")
            self._words.append(word)
            return True

    def take(self) -> list[T]:
        """Everything posted since the last call, in order. Never blocks."""
        with self._lock:
            if self._words and not self._closed:
                self._reader.recv(64)
            words = list(self._words)
            self._words.clear()
            return words

    def close(self) -> None:
        """Refuse further words. Idempotent."""
        with self._lock:
            self._closed = True
            self._reader.close()
            self._writer.close()
