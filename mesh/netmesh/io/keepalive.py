"""How long a connection may stand whose other side has vanished without a word."""

from __future__ import annotations

import zmq

IDLE_S = 10
INTERVAL_S = 5
PROBES = 3


def keep_alive(socket: zmq.Socket[bytes]) -> None:
    """Let TCP end the connections of `socket` to hosts that have vanished, after 25 s of silence
    or of bytes that nobody acknowledges. Call before bind or connect.

    A cut cable or a killed host sends no farewell. Without this, a server keeps the descriptor of
    such a client for ever, because it only listens.
    """
    for option, value in (
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, IDLE_S),
        (zmq.TCP_KEEPALIVE_INTVL, INTERVAL_S),
        (zmq.TCP_KEEPALIVE_CNT, PROBES),
        (zmq.TCP_MAXRT, (IDLE_S + INTERVAL_S * PROBES) * 1000),
    ):
        socket.setsockopt(option, value)
