"""Bytes and messages, counted as they leave a member.

A message counts with the size of its two encoded frames, whatever the protocol. The same codec
encodes all protocols, so that we compare rules and not encodings. ZeroMQ's framing (4 bytes a
message, 70 with CURVE) and TCP's or UDP's headers and acknowledgements are not counted. They depend
on how messages share segments; use the number of messages to add them by hand.
"""

from __future__ import annotations

from array import array

from netmesh.core.messages import Ack, Message, Ping, Relay, Relayed
from netmesh.core.records import MemberId
from netmesh.core.wire import Codec


class Meter:
    """Counts per member and second inside one window of time."""

    __slots__ = ("_bare", "_cell", "_codec", "_last", "_last_size", "bytes", "cells", "messages")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._bare: dict[tuple[MemberId, int], int] = {}
        self._last: Message | None = None
        self._last_size = 0
        self._cell: dict[MemberId, int] = {}
        self.bytes = 0
        self.messages = 0
        self.cells = array("L")
        """Bytes of each member in each second."""

    def size(self, message: Message) -> int:
        """Encoded bytes, as `Codec.size` gives, but without encoding the same message twice."""
        # One gossip message goes to several members as the same object.
        if message is self._last:
            return self._last_size
        kind = type(message)
        if (kind is Ping or kind is Ack) and not message.claims:  # type: ignore[union-attr]
            # The body holds nothing but the sender; the header has a fixed size.
            key = (message.sender, message.kind)
            size = self._bare.get(key)
            if size is None:
                size = self._bare[key] = self._codec.size(message)
            return size
        if kind is Relay or kind is Relayed:
            return self._codec.size(message)
        self._last = message
        self._last_size = self._codec.size(message)
        return self._last_size

    def sent(self, sender: MemberId, message: Message) -> None:
        """One message left that member."""
        size = self.size(message)
        self.bytes += size
        self.messages += 1
        self._cell[sender] = self._cell.get(sender, 0) + size

    def reset(self) -> None:
        """Forget what was counted: the window begins here."""
        self.bytes = self.messages = 0
        self._cell.clear()
        self.cells = array("L")

    def second(self, members: int) -> None:
        """A second ended; members that sent nothing count as zero."""
        counted = self._cell
        self.cells.extend(counted.values())
        self.cells.extend([0] * max(0, members - len(counted)))
        counted.clear()
