import errno
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import zmq
from tests.named_ids import name

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


def refuses(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


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


def test_it_leaves_its_port_for_another_and_keeps_the_well_known_one(pump: Pump) -> None:
    now = 0.0
    keys = [SocketSecurity.from_keys([key], "m") for key in (KEY, OTHER)]
    made, got = server(pump, keys[0], clock=lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = taken.getsockname()[1]
        first = made.listen("127.0.0.1", None, [known])
    now = made.due + TAKE_S
    made.tend(now)
    clients = [say(pump, port, keys[0], b"%d" % port) for port in (first, known)]
    pump.until(lambda: len(got) == 2)
    second = made.move((known,))
    assert second not in (first, known), "the well-known one is its own"
    pump.until(lambda: refuses(first))
    clients += [say(pump, port, keys[0], b"+%d" % port) for port in (second, known)]
    pump.until(lambda: {b"+%d" % second, b"+%d" % known} <= {one for (one,) in got})
    made.rekey(keys[1])
    clients += [say(pump, port, keys[1], b"-%d" % port) for port in (second, known)]
    pump.until(lambda: {b"-%d" % second, b"-%d" % known} <= {one for (one,) in got})
    assert refuses(first), "a port that was left stays closed"
    for client in clients:
        client.close()
    made.close()


def test_it_moves_to_the_well_known_port_if_that_is_free_now(pump: Pump) -> None:
    made, got = server(pump)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = taken.getsockname()[1]
        first = made.listen("127.0.0.1", None, [known])
    assert made.move((known,)) == known != first
    client = say(pump, known, PLAIN, b"here")
    pump.until(lambda: got == [[b"here"]])
    client.close()
    made.close()


class Scarce(zmq.Context[zmq.Socket[bytes]]):
    """A context whose ROUTERs find no descriptor left to listen with, while `lacks` is set."""

    lacks = False

    def socket(self, *args: Any, **kwargs: Any) -> Any:
        return super().socket(*args, socket_class=_Starved if self.lacks else zmq.Socket, **kwargs)


class _Starved(zmq.Socket[bytes]):
    def bind(self, addr: str) -> Any:
        if addr.startswith("inproc:"):
            return super().bind(addr)
        raise zmq.ZMQError(errno.EMFILE)


def test_a_move_for_which_no_descriptor_is_left_changes_nothing() -> None:
    context = Scarce()
    pump = Pump(context)
    made, got = server(pump)
    first = made.listen("127.0.0.1", None)
    Scarce.lacks = True
    try:
        with pytest.raises(zmq.ZMQError):
            made.move()
    finally:
        Scarce.lacks = False
    client = say(pump, first, PLAIN, b"still here")
    pump.until(lambda: got == [[b"still here"]])
    assert made.move() != first
    pump.until(lambda: refuses(first))
    client.close()
    made.close()
    context.destroy(linger=0)


def test_a_client_that_names_its_id_is_not_heard(pump: Pump) -> None:
    made, got = server(pump)
    port = made.listen("127.0.0.1", None)
    with name(port, b"\1127.0.0.1:9"):  # it would pass for a link of this member's own
        pump.until(lambda: pump.counters["dropped.named_id"])
        with name(port, b""):
            pump.until(lambda: got == [[b"x"]])
    made.close()
