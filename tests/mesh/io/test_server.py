import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
import zmq

from netmesh.errors import BindError
from netmesh.io.security import SocketSecurity
from netmesh.io.server import TAKE_S, Server

from .conftest import Pump

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
PLAIN = SocketSecurity((), "")


def server(
    pump: Pump, security: SocketSecurity = PLAIN, clock: Callable[[], float] = time.monotonic
) -> tuple[Server, list[list[bytes]]]:
    got: list[list[bytes]] = []
    made = Server(
        pump.context,
        pump.reactor,
        security,
        pump.counters,
        lambda _, frames: got.append(frames),
        clock=clock,
    )
    return made, got


def say(pump: Pump, port: int, security: SocketSecurity, text: bytes) -> zmq.Socket[bytes]:
    dealer: zmq.Socket[bytes] = pump.context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    security.apply_client(dealer)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(text, zmq.DONTWAIT)
    return dealer


def test_the_port_never_closes_while_keys_change(pump: Pump) -> None:
    keys = [SocketSecurity.from_keys([key], "m") for key in (KEY, OTHER)]
    made, got = server(pump, keys[0])
    port = made.listen("127.0.0.1", None)
    old = say(pump, port, keys[0], b"old")
    pump.until(lambda: got == [[b"old"]])
    for number in range(20):
        made.rekey(keys[(number + 1) % 2])
        socket.create_connection(("127.0.0.1", port)).close()  # refused would raise
        pump.reactor.poll(0.0)
    made.rekey(keys[1])
    new = say(pump, port, keys[1], b"new")
    pump.until(lambda: [b"new"] in got)
    with suppress(zmq.Again):  # its connection may already be refused
        old.send(b"too late", zmq.DONTWAIT)
    for _ in range(20):
        pump.reactor.poll(0.01)
    assert [b"too late"] not in got  # a revoked key loses the connections it had
    assert not new.closed
    made.close()


def test_ports(pump: Pump) -> None:
    first, _ = server(pump)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()[1]
        with pytest.raises(BindError, match=str(busy)):
            first.listen("127.0.0.1", busy)
        assert first.listen("127.0.0.1", None, [busy]) not in (0, busy)
        first.close()
    again, _ = server(pump)
    assert again.listen("127.0.0.1", None, [busy]) == busy  # free now: the first takes it
    again.close()


def test_ipv6(pump: Pump) -> None:
    made, got = server(pump)
    try:
        port = made.listen("::1", None)
    except BindError as error:
        pytest.skip(f"no IPv6 here: {error}")
    dealer: zmq.Socket[bytes] = pump.context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IPV6, 1)
    dealer.connect(f"tcp://[::1]:{port}")
    dealer.send(b"six", zmq.DONTWAIT)
    pump.until(lambda: got == [[b"six"]])
    made.close()


@pytest.mark.parametrize("keys", [PLAIN, SocketSecurity.from_keys([KEY], "m")])
def test_the_well_known_port_is_taken_when_it_becomes_free(
    pump: Pump, keys: SocketSecurity
) -> None:
    now = 0.0
    made, got = server(pump, keys, clock=lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        port = made.listen("127.0.0.1", None, [wanted])
        assert port != wanted
        now = made.due + TAKE_S
        made.tend(now)  # somebody else still has it
        with pytest.raises(TimeoutError):
            taken.settimeout(0.05)
            taken.accept()
    now += TAKE_S
    made.tend(now)
    clients = [say(pump, wanted, keys, b"by the well-known one")]
    pump.until(lambda: got == [[b"by the well-known one"]])
    clients.append(say(pump, port, keys, b"by its own"))
    pump.until(lambda: got[1:] == [[b"by its own"]])
    if keys.enabled:
        made.rekey(keys)
        clients.append(say(pump, wanted, keys, b"by the same keys again"))
        pump.until(lambda: [b"by the same keys again"] in got)
    made.close()
    with socket.socket() as again:
        pump.until(lambda: again.connect_ex(("127.0.0.1", wanted)) != 0)


def test_it_listens_on_another_port_too_also_with_other_keys(pump: Pump) -> None:
    keys = [SocketSecurity.from_keys([key], "m") for key in (KEY, OTHER)]
    made, got = server(pump, keys[0])
    first = made.listen("127.0.0.1", None)
    usual = made.another_port((first,))
    assert usual != first, "it is taken"
    again = made.another_port((first, usual))
    assert len({first, usual, again}) == 3
    clients = [say(pump, port, keys[0], b"%d" % port) for port in (first, usual, again)]
    pump.until(lambda: len(got) == 3)
    made.rekey(keys[1])
    clients += [say(pump, port, keys[1], b"+%d" % port) for port in (first, usual, again)]
    pump.until(lambda: len(got) == 6)
    for client in clients:
        client.close()
    made.close()
