import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from netmesh.core.events import DialOutcome
from netmesh.core.records import MemberId
from netmesh.io.dialler import MAX_CUT, SETTLE_S, Dialler

from .conftest import Pump


@dataclass
class Setup:
    """A dialler with a clock of its own and what it reported."""

    pump: Pump
    max_open: int = 32
    max_waiting: int = 512
    make_socket: Callable[[int, int], socket.socket] = socket.socket
    now: float = 1000.0
    outcomes: list[tuple[str, DialOutcome]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dialler = Dialler(
            self.pump.reactor,
            lambda member, how: self.outcomes.append((member, how)),
            self.pump.counters,
            lambda: self.now,
            max_open=self.max_open,
            max_waiting=self.max_waiting,
            make_socket=self.make_socket,
        )

    def until(self, done: Callable[[], object]) -> None:
        def turn() -> object:
            self.dialler.expire()
            return done()

        self.pump.until(turn)

    def until_reported(self) -> DialOutcome:
        self.until(lambda: self.outcomes)
        return self.outcomes[-1][1]


@pytest.fixture
def setup(pump: Pump) -> Setup:
    return Setup(pump)


def id_of(listener: socket.socket) -> MemberId:
    return MemberId(f"127.0.0.1:{listener.getsockname()[1]}")


def closed_port() -> MemberId:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return id_of(server)


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full: further connects get no answer, as from a dead host."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


def test_a_greeting_is_connected_at_once(setup: Setup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        setup.dialler.dial(id_of(server), 1.0)
        peer, _ = server.accept()
        peer.sendall(b"\xff")
        assert setup.until_reported() is DialOutcome.CONNECTED
        peer.close()


def test_an_accepting_kernel_is_connected_after_a_moment(setup: Setup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody calls accept
        setup.dialler.dial(id_of(server), 1.0)
        setup.until(lambda: setup.dialler.deadline() < setup.now + 1.0)
        assert setup.outcomes == []
        setup.now += SETTLE_S
        assert setup.until_reported() is DialOutcome.CONNECTED


def test_a_closed_port_is_refused(setup: Setup) -> None:
    setup.dialler.dial(closed_port(), 1.0)
    assert setup.until_reported() is DialOutcome.REFUSED


def test_a_port_that_closes_just_after_it_accepted_is_refused(setup: Setup) -> None:
    # What a process does that was killed a moment ago.
    server = socket.create_server(("127.0.0.1", 0))
    setup.dialler.dial(id_of(server), 1.0)
    setup.until(lambda: setup.dialler.deadline() < setup.now + 1.0)
    server.close()
    assert setup.until_reported() is DialOutcome.REFUSED
    assert len(setup.outcomes) == 1


def test_a_connect_to_itself_is_refused(pump: Pump) -> None:
    target = closed_port()
    host, _, port = target.rpartition(":")

    class Bound(socket.socket):
        """Gets from the kernel, by bad luck, the port that it is going to call."""

        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind((host, int(port)))

    setup = Setup(pump, make_socket=Bound)
    setup.dialler.dial(target, 1.0)
    assert setup.until_reported() is DialOutcome.REFUSED


def test_a_server_that_cuts_connections_but_keeps_listening_is_connected(setup: Setup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        setup.dialler.dial(id_of(server), 1.0)
        accepted = 0

        def cut() -> bool:
            nonlocal accepted
            try:
                server.accept()[0].close()
                accepted += 1
            except BlockingIOError:
                pass
            return bool(setup.outcomes)

        setup.until(cut)
    assert setup.outcomes[0][1] is DialOutcome.CONNECTED
    assert accepted == MAX_CUT + 1


def test_no_answer_is_silence_after_the_timeout(setup: Setup) -> None:
    listener, fillers = full_listener()
    setup.dialler.dial(id_of(listener), 60.0)
    setup.pump.reactor.poll(0.02)
    setup.now += 59.9
    setup.dialler.expire()
    assert setup.outcomes == []
    setup.now = setup.dialler.deadline()
    setup.dialler.expire()
    assert setup.outcomes == [(id_of(listener), DialOutcome.SILENT)]
    assert setup.dialler.deadline() == float("inf")
    for sock in (*fillers, listener):
        sock.close()


def test_every_dial_is_answered_once_and_few_are_open(pump: Pump) -> None:
    setup = Setup(pump, max_open=2, max_waiting=3)
    listener, fillers = full_listener()
    port = listener.getsockname()[1]
    for number in range(8):  # two open, three wait, three are one too many
        setup.dialler.dial(MemberId(f"127.0.0.{number + 1}:{port}"), 1.0)
    assert setup.pump.counters["dropped.dial"] == 3
    setup.dialler.expire()
    assert [outcome for _, outcome in setup.outcomes] == [DialOutcome.UNKNOWN] * 3
    while setup.dialler.deadline() < float("inf"):
        setup.now += 1.0
        setup.dialler.expire()
    assert len({member for member, _ in setup.outcomes}) == len(setup.outcomes) == 8
    for sock in (*fillers, listener):
        sock.close()


@pytest.mark.parametrize("target", ["name:5", "0.0.0.0:5", "nonsense"])
def test_ids_that_are_no_addresses_are_silent_and_counted(setup: Setup, target: str) -> None:
    setup.dialler.dial(MemberId(target), 1.0)
    assert setup.outcomes == []  # never from inside dial
    setup.dialler.expire()
    assert setup.outcomes == [(MemberId(target), DialOutcome.SILENT)]
    assert setup.pump.counters["dropped.bad_address"] == 1


@pytest.mark.parametrize("lack", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_lack_of_this_host_is_no_finding_about_the_member(pump: Pump, lack: int) -> None:
    def refused(family: int, kind: int) -> socket.socket:
        raise OSError(lack, os.strerror(lack))

    setup = Setup(pump, make_socket=refused)
    setup.dialler.dial(MemberId("127.0.0.1:5"), 1.0)
    assert setup.until_reported() is DialOutcome.UNKNOWN
    assert setup.pump.counters["dial.unknown"] == 1


class Portless(socket.socket):
    """Finds no free port of its own."""

    def connect_ex(self, address: object) -> int:
        return errno.EADDRNOTAVAIL


def test_a_lack_of_ports_is_no_finding_about_the_member(pump: Pump) -> None:
    setup = Setup(pump, make_socket=Portless)
    setup.dialler.dial(MemberId("127.0.0.1:5"), 1.0)
    assert setup.until_reported() is DialOutcome.UNKNOWN


class Unwritable(socket.socket):
    """Takes no address, as the C library does with a zone that this host does not have."""

    def connect_ex(self, address: object) -> int:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_an_address_that_the_resolver_refuses_is_silent(pump: Pump) -> None:
    """However such an id gets in: one dial, one answer, and no exception on the loop."""
    setup = Setup(pump, make_socket=Unwritable)
    setup.dialler.dial(MemberId("127.0.0.1:5"), 1.0)
    assert setup.until_reported() is DialOutcome.SILENT
    assert len(setup.outcomes) == 1
