"""Strangers at the rendezvous."""

from __future__ import annotations

import contextlib
import socket

import pytest
from tests.loader.transport.carriers import Carrier, GroupPair, started
from tests.loader.transport.conformance.support import LATE_S, meeting, moved

from netloader.transport import Rendezvous, join


def test_without_the_secret_nobody_gets_a_group(carrier: Carrier) -> None:
    backend = carrier.make()
    source, replica, _ = meeting(backend, backend, 0.3, secret="0" * 32)
    assert source is replica is None


def test_a_third_party_at_the_rendezvous_reads_nothing_and_stops_nothing(
    carrier: Carrier,
) -> None:
    backend = carrier.make()
    rendezvous = Rendezvous("127.0.0.1", LATE_S, stranger_s=0.05)
    opening = started(lambda: rendezvous.open(backend))
    heard = b""
    with (
        socket.create_connection(("127.0.0.1", rendezvous.port), LATE_S) as silent,
        socket.create_connection(("127.0.0.1", rendezvous.port), LATE_S) as loud,
    ):
        loud.sendall(b"\0" * 64)
        replica = join("127.0.0.1", rendezvous.port, rendezvous.secret, backend, LATE_S)
        pair = GroupPair(opening.result(LATE_S), replica)
        moved(pair, carrier.zeros(100), carrier.zeros(100))
        for stranger in (silent, loud):
            # One had said something that nobody read.
            with contextlib.suppress(ConnectionResetError):
                heard += stranger.recv(4096)
    assert heard == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", rendezvous.port), 1)
    pair.abort()
