"""A replica's control connection to one source, which notices at once when the link breaks.

ZeroMQ mends connections silently. A source knows a replica by its connection, so a mended
connection belongs to a stranger. A monitor therefore watches the DEALER, and the first break is the
end.
"""

from __future__ import annotations

import enum
import time
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from netloader.errors import ProtocolError, SourceLost, TransferError
from netloader.protocol import messages
from netmesh import SocketSecurity, keep_alive

_REASON_MS = 1000
"""How long to wait for the reason of a break. It mostly takes a millisecond."""

_LAST_WORDS_MS = 200
"""How long the last message may take to leave; the replica does not wait for a source that stopped
reading."""

_MAX_PORT, _PORT_DIGITS = 65_535, 5

_MONITORED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
)


_UNREAD = 64
"""Messages that may wait to be read: a source that is still loading tells in bunches which chunks
it gains, while others are on their way. Only its answer to hello is large."""


_READABLE: Final = int(zmq.POLLIN)


class Break(enum.Enum):
    """How a connection ended."""

    KEY_REFUSED = "refused this worker's key"
    CLOSED_EARLY = "closed the connection before it was let in"
    """Closed before both sides had proved their keys: the keys differ, or the source was held
    up."""
    CLOSED = "closed the connection"

    @property
    def reason(self) -> str:
        return f"the source {self.value}"


class Broken(SourceLost):
    """The connection is gone."""

    def __init__(self, source: str, how: Break) -> None:
        self.how = how
        super().__init__(source, how.reason)


def _readable(one: zmq.Socket[bytes]) -> bool:
    """Whether a message can be read at once: as `poll(0)`, which makes a poller each time."""
    return bool(int(one.getsockopt(zmq.EVENTS)) & _READABLE)


def _port(endpoint: str) -> int:
    """0 for what is no port."""
    port = endpoint.rpartition(":")[2]
    return int(port) if port.isascii() and port.isdigit() and len(port) <= _PORT_DIGITS else 0


class Connection:
    """A DEALER with a monitor beside it. Belongs to one thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        security: SocketSecurity,
        ring: int,
    ) -> None:
        """Dial `endpoint` with key number `ring`. Returns at once. Raises `SourceLost` when that is
        no endpoint."""
        if not 0 < _port(endpoint) <= _MAX_PORT:
            # ZeroMQ would take the port modulo 65,536, and dial somebody else.
            raise SourceLost(endpoint, "cannot connect: the endpoint has no port")
        self.endpoint = endpoint
        self.authenticated = False
        """Whether both sides have proved their keys (trivially, when there are none)."""
        self._how: Break | None = None
        self._dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, messages.MAX_ATTACHMENT_BYTES),
            (zmq.RCVHWM, _UNREAD),
            (zmq.IPV6, int(endpoint.startswith("["))),
        ):
            self._dealer.setsockopt(option, value)
        keep_alive(self._dealer)
        security.apply_client(self._dealer, ring)
        # A monitor reports only changes, so it must exist before the connection does.
        self._monitor: zmq.Socket[bytes] = self._dealer.get_monitor_socket(_MONITORED)
        self._poller = zmq.Poller()
        self._poller.register(self._dealer, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self._dealer.connect(f"tcp://{endpoint}")
        except zmq.ZMQError as error:
            self.close(unsaid=True)
            raise SourceLost(endpoint, f"cannot connect: {error}") from None

    def send(self, message: messages.Message) -> None:
        """Queue a message. Raises `Broken` when the source has already closed the connection, and
        `SourceLost` when the message cannot be queued for another reason."""
        try:
            self._dealer.send_multipart(messages.encode(message), zmq.DONTWAIT)
        except zmq.ZMQError as error:
            # A refused handshake removes the queue, and the monitor reports it a moment later.
            self._monitor.poll(_REASON_MS)
            self._observe()
            if self._how is not None:
                raise Broken(self.endpoint, self._how) from None
            raise SourceLost(self.endpoint, f"no way to send {message.type}: {error}") from None

    def receive(self, timeout_s: float) -> tuple[messages.Message, bytes] | None:
        """The next message and its attachment; None when none arrives in time.

        Raises `Broken` once everything that arrived before the break has been read, and
        `TransferError` for bytes that are not a message.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            # Read the events first: once a break is reported, everything that came before it is
            # queued.
            self._observe()
            if _readable(self._dealer):
                try:
                    return messages.decode(self._dealer.recv_multipart())
                except ProtocolError as error:
                    raise TransferError(self.endpoint, str(error)) from None
            if self._how is not None:
                raise Broken(self.endpoint, self._how)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            # Rounded up, so that the thread sleeps through the last millisecond instead of
            # spinning.
            self._poller.poll(int(left * 1000) + 1)

    def close(self, *, unsaid: bool = False) -> None:
        """Let the last message leave, then close; with `unsaid`, drop whatever has not left.

        A hello that still waits would otherwise leave by the mended connection, and open a session
        for nobody.
        """
        # In this order: the reverse may make libzmq abort the process.
        self._dealer.disable_monitor()
        self._monitor.close(linger=0)
        self._dealer.close(linger=0 if unsaid else _LAST_WORDS_MS)

    def _observe(self) -> None:
        while _readable(self._monitor):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if self._how is not None:
                continue
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.authenticated = True
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._how = Break.KEY_REFUSED
            else:
                self._how = Break.CLOSED if self.authenticated else Break.CLOSED_EARLY
