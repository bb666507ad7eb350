"""The first exchange with a source: who answers, by which key, and with what answer to hello.

An operator who reads why a pull failed has to know what to change. So the handshake tells four
failures apart, each in well under two seconds: a peer that does not speak ZeroMQ, a key on one side
only, a wrong key, and a source that died. The remaining case is a source whose Python thread is
busy: its connection stands, and the replica waits `hello_timeout_s`.

While cluster keys are being replaced, a source serves by one of this worker's keys, not necessarily
the first. The source may also cut a connection to change its own key. Neither fails a pull: the
replica tries all keys, up to `rounds` times.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from netloader.errors import SourceLost
from netloader.protocol import messages
from netloader.replica.connection import Break, Broken, Connection
from netloader.replica.probe import Unreachable, probe
from netloader.replica.settings import PullSettings
from netmesh import SocketSecurity

_log = logging.getLogger(__name__)


Answered = tuple[Connection, messages.Message, bytes]
"""The connection that brought an answer to hello, the answer, and its attachment."""


@contextmanager
def greet(
    endpoint: str,
    security: Callable[[], SocketSecurity],
    hello: messages.Hello,
    settings: PullSettings,
) -> Iterator[Answered]:
    """Get an answer to hello. The connection that brought it is closed after the block.

    `security` is called in each round, because keys may change meanwhile. Raises `SourceLost` when
    nobody answers, `TransferError` for a message that is not an answer.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        answered = _greet(context, endpoint, security, hello, settings)
        try:
            yield answered
        finally:
            answered[0].close()
    finally:
        context.destroy(linger=0)


def _greet(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    security: Callable[[], SocketSecurity],
    hello: messages.Hello,
    settings: PullSettings,
) -> Answered:
    limits = settings.handshake
    timeout_s = settings.hello_timeout_s
    deadline = time.monotonic() + timeout_s
    last = Break.CLOSED_EARLY
    for attempt in range(limits.rounds):
        if attempt:
            _log.debug("asking %s again: %s", endpoint, last.reason)
            time.sleep(limits.round_pause_s)
        keys = security()
        try:
            connect_s = _left(endpoint, deadline, timeout_s, limits.connect_timeout_s)
            probe(endpoint, keys.enabled, connect_s, limits.greeting_timeout_s)
        except Unreachable as error:
            raise _after(last, error) if attempt else error from None
        except Broken as error:
            last = error.how
            continue
        breaks = []
        for ring in range(max(1, len(keys.rings))):
            try:
                return _ask(context, endpoint, keys, ring, hello, deadline, settings)
            except Broken as error:
                breaks.append(error.how)
        # One accepted key says more than several refused ones.
        last = Break.CLOSED if Break.CLOSED in breaks else breaks[-1]
    raise _explain(endpoint, last, security(), limits.rounds)


def _ask(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    keys: SocketSecurity,
    ring: int,
    hello: messages.Hello,
    deadline: float,
    settings: PullSettings,
) -> Answered:
    """Say hello with one key. Raises `Broken` when the source closes the connection over the
    key."""
    timeout_s, held_up_s = settings.hello_timeout_s, settings.handshake.held_up_s
    while True:
        connection = Connection(context, endpoint, keys, ring)
        dialled = time.monotonic()
        answer = None
        try:
            connection.send(hello)
            answer = connection.receive(_left(endpoint, deadline, timeout_s))
            if answer is None:
                raise _silent(endpoint, timeout_s)
            message, attachment = answer
            if isinstance(message, messages.Refuse) and message.code == "keys":
                answer = None
                raise Broken(endpoint, Break.CLOSED)
            return connection, message, attachment
        except Broken as error:
            if error.how is not Break.CLOSED_EARLY or time.monotonic() - dialled < held_up_s:
                raise
            _log.debug("%s is held up: asking again", endpoint)
        finally:
            if answer is None:
                connection.close(unsaid=True)


def _left(endpoint: str, deadline: float, timeout_s: float, at_most: float = 3600.0) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _silent(endpoint, timeout_s)
    return min(left, at_most)


def _silent(endpoint: str, timeout_s: float) -> SourceLost:
    return SourceLost(
        endpoint, f"silent for {timeout_s:.3g} s: it is connected but its process is held up"
    )


def _after(last: Break, now: SourceLost) -> SourceLost:
    """The error for a source that was there a moment ago."""
    return SourceLost(now.source, f"ended before it answered: {last.reason}; now {now.reason}")


def _explain(endpoint: str, last: Break, keys: SocketSecurity, rounds: int) -> SourceLost:
    """Why no answer came although somebody listens at the endpoint."""
    if keys.enabled and last is not Break.CLOSED:
        return SourceLost(
            endpoint,
            f"did not accept this worker's cluster key (tried {len(keys.rings)}): compare "
            "MESH_KEY_FILE and MESH_NAME here and there",
        )
    return SourceLost(endpoint, f"{last.reason}, {rounds} times, before it answered: see its log")
